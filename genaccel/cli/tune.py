# SPDX-License-Identifier: Apache-2.0
"""``genaccel tune``: plans by the measured quality of the samples, and their Pareto front."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from genaccel.cli import options, pipeline_source
from genaccel.cli.distance import load_distance

if TYPE_CHECKING:
    from genaccel.sensitivity.fewer_steps import FewerSteps
    from genaccel.sensitivity.plans.plan_library import PlanEntry, PlanLibrary

app = typer.Typer()

PLOT_NAME = "pareto.png"
TABLE_NAME = "pareto.json"


@app.command()
def tune(
    model: pipeline_source.Model,
    out: Annotated[Path, typer.Option(help="Folder for the plans, the table and the plot.")],
    speedups: Annotated[
        str, typer.Option(metavar="1.5,2,3", help="FLOPs of the denoiser, plain over planned.")
    ] = "1.5,2,2.5,3,4",
    steps: Annotated[int, typer.Option(min=1, help="Steps of the sampler.")] = 50,
    generations: Annotated[int, typer.Option(min=1, help="Generations to compare.")] = 2,
    refine: Annotated[
        int, typer.Option(min=0, help="Trials of moving single steps, for each speed-up.")
    ] = 20,
    lpips: Annotated[
        bool | None,
        typer.Option(help="Measure ST-LPIPS (vgg); by default where its weights are installed."),
    ] = None,
    plot: Annotated[bool, typer.Option(help=f"Draw {PLOT_NAME}; needs matplotlib.")] = True,
    prompts: pipeline_source.Prompts = None,
    class_labels: pipeline_source.ClassLabels = None,
    guidance: pipeline_source.Guidance = None,
    batch_size: pipeline_source.BatchSize = 1,
    seed: pipeline_source.Seed = 0,
    arguments: pipeline_source.Arguments = None,
    max_interval: pipeline_source.MaxInterval = 8,
    config: pipeline_source.Config = None,
    device: options.Device = "cpu",
    dtype: pipeline_source.DType = "float32",
) -> None:
    """Try plans, keep the best of each speed-up, and compare them with fewer steps in the same time.

    The same command goes on with the speed-ups that are not done yet.
    """
    try:
        wanted = pipeline_source.numbers(speedups, "--speedups", float)
        pipeline_source.check_speedups(wanted, "--speedups")
        asked = pipeline_source.make_config(config, speedup=wanted[0], max_interval=max_interval)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error
    draw = _plotter() if plot else None
    distance = load_distance(lpips, device)
    pipeline = pipeline_source.load_pipeline(model, device=device, dtype=dtype)
    from genaccel.sensitivity.fewer_steps import fewer_steps
    from genaccel.sensitivity.study.tune import tune as search

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
        library = search(
            pipeline,
            calls,
            speedups=wanted,
            out=out,
            config=asked,
            refine=refine,
            distance=distance,
            seed=seed,
        )
        entries = _entries(library, wanted, steps)
        baseline = fewer_steps(
            pipeline, calls, [e.speedup or e.flop_ratio for e in entries], distance=distance
        )
    except ValueError as error:
        hint = "; leave it out with --no-lpips" if "ST-LPIPS" in str(error) else ""
        raise typer.BadParameter(f"{error}{hint}") from error
    _print(entries, baseline)
    rows = [_row(entry, fewer) for entry, fewer in zip(entries, baseline, strict=True)]
    _write(
        out / TABLE_NAME, (json.dumps({"steps": steps, "plans": rows}, indent=2) + "\n").encode()
    )
    typer.echo(f"wrote {out / TABLE_NAME}")
    if draw is not None:
        _write(out / PLOT_NAME, draw(rows, steps))
        typer.echo(f"wrote {out / PLOT_NAME}")


def _plotter() -> Callable[[Sequence[dict[str, Any]], int], bytes]:
    """Asked for first: a missing package is to be told before hours of trials."""
    try:
        from genaccel.cli.pareto_plot import pareto_plot
    except ModuleNotFoundError as error:
        raise typer.BadParameter(
            "the plot needs matplotlib: pip install 'genaccel[eval]', or leave it out with --no-plot"
        ) from error
    return pareto_plot


def _entries(library: PlanLibrary, speedups: Sequence[float], steps: int) -> list[PlanEntry]:
    """Those of this command, in its order; others may lie in the same folder."""
    from genaccel.sensitivity.study.tune import find_entry

    found = [find_entry(library, None, speedup, steps) for speedup in dict.fromkeys(speedups)]
    return [entry for entry in found if entry is not None]


def _row(entry: PlanEntry, fewer: FewerSteps) -> dict[str, Any]:
    return {
        "folder": entry.folder,
        "flop_ratio": entry.flop_ratio,
        "speedup": entry.speedup,
        "psnr": entry.psnr,
        "st_lpips": entry.st_lpips,
        "fewer_steps": {
            "steps": fewer.steps,
            "psnr": fewer.psnr,
            "st_lpips": fewer.st_lpips,
        },
    }


def _print(entries: Sequence[PlanEntry], baseline: Sequence[FewerSteps]) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table

    with_lpips = any(e.st_lpips is not None for e in entries)
    table = Table(
        title="Against the full run; at the right the plain pipeline in the same time",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        show_edge=False,
        padding=(0, 1, 0, 0),
    )
    table.add_column("plan", no_wrap=True)
    lpips = ["ST-LPIPS"] if with_lpips else []
    fewer_lpips = ["fewer:\nST-LPIPS"] if with_lpips else []
    names = ["fewer\nFLOPs", "measured\nspeed-up", "PSNR\ndB", *lpips]
    names += ["fewer:\nsteps", "fewer:\nPSNR dB", *fewer_lpips]
    for name in names:
        table.add_column(name, justify="right", no_wrap=True)
    for entry, fewer in zip(entries, baseline, strict=True):
        cells = [
            entry.folder,
            f"{entry.flop_ratio:.2f}x",
            _number(entry.speedup, "{:.2f}x"),
            _number(entry.psnr, "{:.2f}"),
            *([_number(entry.st_lpips, "{:.4f}")] if with_lpips else []),
            str(fewer.steps),
            f"{fewer.psnr:.2f}",
            *([_number(fewer.st_lpips, "{:.4f}")] if with_lpips else []),
        ]
        table.add_row(*cells)
    Console().print(table)


def _number(value: float | None, form: str) -> str:
    return "" if value is None else form.format(value)


def _write(path: Path, data: bytes) -> None:
    from genaccel.files.atomic import write_atomically

    write_atomically(path, data, overwrite=True, parents=True)
