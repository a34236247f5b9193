# SPDX-License-Identifier: Apache-2.0
"""``genaccel tune``: plans by the measured quality of the samples, and their Pareto front."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from genaccel.cli import options, pipeline_source
from genaccel.cli.distance import load_st_lpips
from genaccel.cli.tables import compact_table, number
from genaccel.files.atomic import check_folder, write_atomically

if TYPE_CHECKING:
    from genaccel.sampling.fewer_steps import FewerSteps
    from genaccel.sensitivity.plans.plan_library import PlanEntry, PlanLibrary

app = typer.Typer()

PLOT_NAME = "pareto.png"
TABLE_NAME = "pareto.json"


@app.command(context_settings=pipeline_source.FORMER_NAMES)
@pipeline_source.takes_generations
def tune(
    source: pipeline_source.Generations,
    out: Annotated[Path, typer.Option(help="Folder for the plans, the table and the plot.")],
    speedup: pipeline_source.Speedups = ["1.5", "2", "2.5", "3", "4"],  # noqa: B006 - typer's way
    generations: Annotated[int, pipeline_source.GenerationCount] = 2,
    refine: Annotated[
        int, typer.Option(min=0, help="Trials of moving single steps, for each speed-up.")
    ] = 20,
    lpips: pipeline_source.Lpips = None,
    plot: Annotated[bool, typer.Option(help=f"Draw {PLOT_NAME}; needs matplotlib.")] = True,
    max_interval: pipeline_source.MaxInterval = 8,
    config: pipeline_source.Config = None,
) -> None:
    """Try plans, keep the best of each speed-up, and compare them with fewer steps in the same time.

    The same command goes on with the speed-ups that are not done yet.
    """
    check_folder(out)
    with options.usage_errors():
        wanted = pipeline_source.speedups_of(speedup)
        asked = pipeline_source.make_config(config, speedup=wanted[0], max_interval=max_interval)
    draw = _plotter() if plot else None
    distance = load_st_lpips(lpips, source.device)
    pipeline, calls = source.load(generations)
    from genaccel.sampling.fewer_steps import fewer_steps
    from genaccel.sensitivity.study.tune import tune as search

    try:
        library = search(
            pipeline,
            calls,
            speedups=wanted,
            out=out,
            config=asked,
            refine=refine,
            distance=distance,
            seed=source.seed,
        )
        entries = _entries(library, wanted, source.steps)
        baseline = fewer_steps(
            pipeline, calls, [e.speedup or e.flop_ratio for e in entries], distance=distance
        )
    except ValueError as error:
        hint = "; leave it out with --no-lpips" if "ST-LPIPS" in str(error) else ""
        raise typer.BadParameter(f"{error}{hint}") from error
    _print(entries, baseline)
    rows = [_row(entry, fewer) for entry, fewer in zip(entries, baseline, strict=True)]
    _write(
        out / TABLE_NAME,
        (json.dumps({"steps": source.steps, "plans": rows}, indent=2) + "\n").encode(),
    )
    typer.echo(f"wrote {out / TABLE_NAME}")
    if draw is not None:
        _write(out / PLOT_NAME, draw(rows, source.steps))
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

    found = [find_entry(library, None, speedup, steps) for speedup in speedups]
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
            "st_lpips": fewer.distance,
        },
    }


def _print(entries: Sequence[PlanEntry], baseline: Sequence[FewerSteps]) -> None:
    from rich.console import Console

    with_lpips = any(e.st_lpips is not None for e in entries)
    lpips = ["ST-LPIPS"] if with_lpips else []
    fewer_lpips = ["fewer:\nST-LPIPS"] if with_lpips else []
    names = ["fewer\nFLOPs", "measured\nspeed-up", "PSNR\ndB", *lpips]
    names += ["fewer:\nsteps", "fewer:\nPSNR dB", *fewer_lpips]
    title = "Against the full run; at the right the plain pipeline in the same time"
    table = compact_table(["plan"], names, title)
    for entry, fewer in zip(entries, baseline, strict=True):
        cells = [
            entry.folder,
            f"{entry.flop_ratio:.2f}x",
            number(entry.speedup, "{:.2f}x"),
            number(entry.psnr, "{:.2f}"),
            *([number(entry.st_lpips, "{:.4f}")] if with_lpips else []),
            str(fewer.steps),
            f"{fewer.psnr:.2f}",
            *([number(fewer.distance, "{:.4f}")] if with_lpips else []),
        ]
        table.add_row(*cells)
    Console(markup=False, emoji=False).print(table)


def _write(path: Path, data: bytes) -> None:
    write_atomically(path, data, overwrite=True, parents=True)
