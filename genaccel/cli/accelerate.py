# SPDX-License-Identifier: Apache-2.0
"""``genaccel accelerate``: sample a pipeline with and without acceleration, and tell what it cost."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

import genaccel
from genaccel.cli import options, pipeline_source
from genaccel.cli.distance import load_st_lpips
from genaccel.cli.tables import compact_table, number
from genaccel.files.atomic import check_target, write_atomically

if TYPE_CHECKING:
    from genaccel.sampling.side_by_side import Side

app = typer.Typer()


@app.command(context_settings=pipeline_source.FORMER_NAMES)
@pipeline_source.takes_generations
def accelerate(
    source: pipeline_source.Generations,
    out: Annotated[Path, typer.Option(help="Sheet of the samples to write, a PNG file.")] = Path(
        "out/accelerated.png"
    ),
    speedup: pipeline_source.Speedups = ["2", "3"],  # noqa: B006 - typer's way
    generations: Annotated[int, pipeline_source.GenerationCount] = 1,
    rounds: Annotated[int, typer.Option(min=1, help="Timed runs of each side, in turn.")] = 1,
    config: pipeline_source.Config = None,
    lpips: pipeline_source.Lpips = None,
) -> None:
    """Sample with and without acceleration: times, FLOPs, and how far the samples moved.

    Below each speed-up is the plain pipeline with as many steps as fit into the same time. Existing
    results are replaced.
    """
    check_target(out, overwrite=True, parents=True)
    with options.usage_errors():
        speedups = pipeline_source.speedups_of(speedup)
        configs = {s: pipeline_source.make_config(config, speedup=s) for s in speedups}
    distance = load_st_lpips(lpips, source.device)
    pipeline, calls = source.load(generations)
    from genaccel.files.image_writer import encode_image
    from genaccel.sampling.side_by_side import sheet, side_by_side

    enablers = {
        f"speed-up {s:g}": functools.partial(genaccel.enable, config=c) for s, c in configs.items()
    }

    with options.usage_errors():
        sides = side_by_side(pipeline, calls, enablers, rounds=rounds, distance=distance)
    for side in sides:
        if side.report:
            typer.echo(side.report)
    _print(sides)
    png = encode_image(sheet(sides, distance_title="ST-LPIPS"), "png")
    write_atomically(out, png, overwrite=True, parents=True)
    typer.echo(f"wrote {out}")


def _print(sides: Sequence[Side]) -> None:
    from rich.console import Console

    with_lpips = any(side.distance is not None for side in sides)
    names = ["seconds", "measured\nspeed-up", "fewer\nFLOPs", "PSNR\ndB"]
    table = compact_table(["sampling"], [*names, *(["ST-LPIPS\nvgg"] if with_lpips else [])])
    for side in sides:
        table.add_row(
            side.name if side.psnr is not None else f"plain, {side.steps} steps",
            f"{side.seconds:.2f}",
            f"{side.speedup:.2f}x",
            f"{side.flop_ratio:.2f}x",
            number(side.psnr, "{:.2f}"),
            *([number(side.distance, "{:.4f}")] if with_lpips else []),
        )
    Console(markup=False, emoji=False).print(table)
