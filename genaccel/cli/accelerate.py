# SPDX-License-Identifier: Apache-2.0
"""``genaccel accelerate``: sample a pipeline with and without acceleration, and tell what it cost."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from genaccel.cli import options, pipeline_source
from genaccel.cli.distance import load_distance

if TYPE_CHECKING:
    from genaccel.sensitivity.side_by_side import Side

app = typer.Typer()


@app.command()
def accelerate(
    model: pipeline_source.Model,
    out: Annotated[Path, typer.Option(help="Sheet of the samples to write, a PNG file.")] = Path(
        "out/accelerated.png"
    ),
    speedup: Annotated[
        list[float], typer.Option(help="To compare; may be given more than once.")
    ] = [2.0, 3.0],  # noqa: B006 - typer's way
    steps: Annotated[int, typer.Option(min=1, help="Steps of the sampler.")] = 50,
    generations: Annotated[int, typer.Option(min=1, help="Generations to compare.")] = 1,
    rounds: Annotated[int, typer.Option(min=1, help="Timed runs of each side, in turn.")] = 1,
    prompts: pipeline_source.Prompts = None,
    class_labels: pipeline_source.ClassLabels = None,
    guidance: pipeline_source.Guidance = None,
    batch_size: pipeline_source.BatchSize = 1,
    seed: pipeline_source.Seed = 0,
    arguments: pipeline_source.Arguments = None,
    config: pipeline_source.Config = None,
    lpips: Annotated[
        bool | None,
        typer.Option(help="Measure ST-LPIPS (vgg); by default where its weights are installed."),
    ] = None,
    device: options.Device = "cpu",
    dtype: pipeline_source.DType = "float32",
) -> None:
    """Sample with and without acceleration: times, FLOPs, and how far the samples moved.

    Below each speed-up is the plain pipeline with as many steps as fit into the same time. Existing
    results are replaced.
    """
    try:
        pipeline_source.check_speedups(speedup, "--speedup")
        configs = [pipeline_source.make_config(config, speedup=s) for s in dict.fromkeys(speedup)]
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error
    distance = load_distance(lpips, device)
    pipeline = pipeline_source.load_pipeline(model, device=device, dtype=dtype)
    from genaccel.files.atomic import write_atomically
    from genaccel.files.images import encode_image
    from genaccel.sensitivity.side_by_side import sheet, side_by_side

    try:
        calls = pipeline_source.calls_of(
            pipeline,
            prompts=prompts,
            class_labels=class_labels,
            arguments=arguments,
            steps=steps,
            guidance=guidance,
            generations=generations,
            batch_size=batch_size,
            seed=seed,
        )
        sides = side_by_side(pipeline, calls, configs, rounds=rounds, distance=distance)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error
    for side in sides:
        if side.report:
            typer.echo(side.report)
    _print(sides)
    write_atomically(out, encode_image(sheet(sides), "png"), overwrite=True, parents=True)
    typer.echo(f"wrote {out}")


def _print(sides: Sequence[Side]) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table

    with_lpips = any(side.st_lpips is not None for side in sides)
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, padding=(0, 1, 0, 0))
    table.add_column("sampling", no_wrap=True)
    names = ["seconds", "measured\nspeed-up", "fewer\nFLOPs", "PSNR\ndB"]
    for name in [*names, *(["ST-LPIPS\nvgg"] if with_lpips else [])]:
        table.add_column(name, justify="right", no_wrap=True)
    for side in sides:
        table.add_row(
            side.name if side.psnr is not None else f"plain, {side.steps} steps",
            f"{side.seconds:.2f}",
            f"{side.speedup:.2f}x",
            f"{side.flop_ratio:.2f}x",
            _number(side.psnr, "{:.2f}"),
            *([_number(side.st_lpips, "{:.4f}")] if with_lpips else []),
        )
    Console().print(table)


def _number(value: Any, form: str) -> str:
    return "" if value is None else form.format(value)
