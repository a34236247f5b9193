# SPDX-License-Identifier: Apache-2.0
"""``genaccel calibrate``: measure a pipeline once, and plan any speed-ups from that."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from genaccel.cli import options, pipeline_source
from genaccel.cli.exit_codes import ExitCode
from genaccel.cli.tables import compact_table, number
from genaccel.files.atomic import check_folder

if TYPE_CHECKING:
    from genaccel.sensitivity.config import SensitivityConfig
    from genaccel.sensitivity.planning.planner import Measurements
    from genaccel.sensitivity.plans.plan import Plan

app = typer.Typer()

CHECKPOINT_NAME = "calibration.safetensors"


@app.command(context_settings=pipeline_source.FORMER_NAMES)
@pipeline_source.takes_generations
def calibrate(
    source: pipeline_source.Generations,
    out: Annotated[Path, typer.Option(help="Folder for the plans and the measurements.")],
    speedup: pipeline_source.Speedups = ["2"],  # noqa: B006 - typer's way
    generations: Annotated[int, pipeline_source.GenerationCount] = 4,
    max_interval: pipeline_source.MaxInterval = 8,
    warmup_steps: Annotated[
        int, typer.Option(min=1, help="First steps that are always computed.")
    ] = 1,
    weigh_steps: Annotated[
        bool, typer.Option(help="Weigh errors by the effect of their step on the sample.")
    ] = True,
    config: pipeline_source.Config = None,
    beside_model: Annotated[
        bool,
        typer.Option("--beside-model", help="Also write the plans into the model's folder."),
    ] = False,
    mask: Annotated[
        bool, typer.Option("--mask", help="Also print cache-dit's steps_computation_mask.")
    ] = False,
) -> None:
    """Measure how well each step can be forecast, and plan speed-ups; the same command resumes."""
    check_folder(out)
    with options.usage_errors():
        speedups = pipeline_source.speedups_of(speedup)
        wanted = pipeline_source.make_config(
            config,
            speedup=speedups[0],
            max_interval=max_interval,
            warmup_steps=warmup_steps,
            weigh_steps=weigh_steps,
        )
    folders = [out, *([_beside(source.model)] if beside_model else [])]
    pipeline, calls = source.load(generations)
    from genaccel.sensitivity.study.calibrate import calibrate as measure

    with options.usage_errors():
        measured = measure(pipeline, calls, wanted, checkpoint=out / CHECKPOINT_NAME)
    plans, refused = _make_plans(measured, wanted, speedups, folders)
    _print(plans, with_mask=mask)
    for folder in folders if plans else ():
        typer.echo(f"wrote {folder}")
    for sentence in refused:
        typer.echo(f"error: {sentence}", err=True)
    if refused:
        raise typer.Exit(ExitCode.PARTIAL_FAILURE if plans else ExitCode.FAILURE)


def _beside(model: str) -> Path:
    from genaccel.sampling.pipelines import find_pipeline
    from genaccel.sensitivity.plans.plan_library import LIBRARY_FOLDER

    with options.usage_errors():
        folder = Path(find_pipeline(model))
    if not folder.is_dir():
        raise typer.BadParameter("--beside-model needs a model in a folder")
    return folder / LIBRARY_FOLDER


def _make_plans(
    measured: Mapping[str, Measurements],
    config: SensitivityConfig,
    speedups: list[float],
    folders: list[Path],
) -> tuple[list[tuple[str, float, Plan]], list[str]]:
    """Plan every speed-up for every model and keep it; what is out of reach, as sentences."""
    import dataclasses

    from genaccel.sensitivity.planning.partial_plan import plan_for_speedup
    from genaccel.sensitivity.plans.plan_library import PlanEntry, PlanLibrary
    from genaccel.sensitivity.study.tune import plan_folder

    libraries = [PlanLibrary(folder) for folder in folders]
    plans, refused = [], []
    for name, measurements in measured.items():
        for speedup in speedups:
            asked = dataclasses.replace(config, speedup=speedup)
            try:
                plan = plan_for_speedup(measurements, asked, speedup=speedup)
            except ValueError as error:
                refused.append(f"{name}: {error}" if len(measured) > 1 else str(error))
                continue
            # Plans for several numbers of steps lie side by side.
            folder = plan_folder(speedup, plan.fingerprint.num_inference_steps)
            entry = PlanEntry(
                folder=f"{name}/{folder}" if len(measured) > 1 else folder,
                component=name,
                flop_ratio=1 / plan.flop_fraction,
                config=asked.to_dict(),
            )
            for library in libraries:
                library.add(plan, entry)
            plans.append((name, speedup, plan))
    return plans, refused


def _print(plans: list[tuple[str, float, Plan]], *, with_mask: bool) -> None:
    from rich.console import Console

    if not plans:
        return
    several = len({name for name, _, _ in plans}) > 1
    texts = [*(["model"] if several else []), "speed-up", "fewer\nFLOPs"]
    table = compact_table(texts, ["computed\nsteps", "expected\nerror"])
    table.add_column("forecasters")
    for name, speedup, plan in plans:
        computed = schedule_string(plan)
        table.add_row(
            *([name] if several else []),
            f"{speedup:g}x",
            f"{1 / plan.flop_fraction:.2f}x",
            f"{computed.count('C') + computed.count('m')} of {len(computed)}",
            number(plan.expected_error, "{:.4g}"),
            ", ".join(_forecasters(plan)) or "none",
        )
    Console(markup=False, emoji=False).print(table)
    for name, speedup, plan in plans:
        of = f"{name}, " if several else ""
        # Longer than a terminal's line, and to be copied as it is.
        typer.echo(f"{of}{speedup:g}x  {schedule_string(plan)}")
        if with_mask:
            for segment, line in enumerate(_masks(plan)):
                typer.echo(f"steps_computation_mask{_of_segment(plan, segment)} = {line}")


def schedule_string(plan: Plan) -> str:
    """A letter for each step: ``C`` all computed, ``f`` all forecast, ``p`` partial, ``m`` mixed."""
    kinds = (
        {"C" if c else "p" if p else "f" for c, p in zip(computed, partial, strict=True)}
        for computed, partial in zip(plan.compute_mask, plan.partial_mask, strict=True)
    )
    return "".join(row.pop() if len(row) == 1 else "m" for row in kinds)


def _forecasters(plan: Plan) -> list[str]:
    """Names, with how often each is used."""
    index: Any = plan.forecaster_index
    counts = [(name, int((index == i).sum())) for i, name in enumerate(plan.forecasters)]
    return [f"{name} ({count})" for name, count in counts if count]


def _masks(plan: Plan) -> list[list[int]]:
    if (plan.compute_mask == plan.compute_mask[:, :1]).all():
        return [plan.steps_computation_mask()]
    return [plan.steps_computation_mask(segment) for segment in range(plan.num_segments)]


def _of_segment(plan: Plan, segment: int) -> str:
    return "" if len(_masks(plan)) == 1 else f" of segment {segment}"
