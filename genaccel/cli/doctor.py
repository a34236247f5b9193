# SPDX-License-Identifier: Apache-2.0
"""``genaccel doctor``: what acceleration finds in a model, before anything is generated with it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from genaccel.cli import options, pipeline_source
from genaccel.cli.exit_codes import ExitCode

if TYPE_CHECKING:
    from genaccel.sensitivity.config import SensitivityConfig
    from genaccel.sensitivity.enable import AcceleratedModel
    from genaccel.sensitivity.measure.measuring import MeasuredRuns

app = typer.Typer()

_LEARNING_STEPS = 2


@app.command(context_settings=pipeline_source.FORMER_NAMES)
def doctor(
    model: pipeline_source.Model,
    speedup: Annotated[float, typer.Option(help="The speed-up that would be asked for.")] = 2.0,
    steps: Annotated[
        int | None, typer.Option(min=1, help="Steps of the runs; by default the pipeline's own.")
    ] = None,
    run: Annotated[
        bool, typer.Option(help="Make a call of two steps, which tells FLOPs and bytes.")
    ] = True,
    pipeline_arguments: pipeline_source.PipelineArguments = None,
    config: pipeline_source.Config = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    device: options.Device = "cpu",
    dtype: pipeline_source.DType = "float32",
) -> None:
    """Show which blocks of a pipeline can be skipped, what that can save, and what would do nothing.

    Exit code 1 if nothing in it can be accelerated.
    """
    with options.usage_errors():
        wanted = pipeline_source.make_config(config, speedup=speedup)
    pipeline = pipeline_source.load_pipeline(model, device=device, dtype=dtype)
    from genaccel.sampling.calls import default_steps, run_call
    from genaccel.sensitivity.enable import enable_sensitivity
    from genaccel.sensitivity.measure.measuring import measuring

    try:
        handle = enable_sensitivity(pipeline, wanted)
    except ValueError as error:
        _fail(str(error), error)
    steps = steps or default_steps(pipeline)
    with handle:
        if run:
            call = _any_call(pipeline, pipeline_arguments)
            try:
                with measuring(handle) as runs:
                    run_call(pipeline, call)
            except Exception as error:  # theirs, of any kind: a pipeline that needs more arguments
                first = (str(error).strip() or type(error).__name__).splitlines()[0]
                _fail(
                    f"a call of {_LEARNING_STEPS} steps failed ({first}); give what it needs with "
                    "--pipeline-arguments, or leave it out with --no-run",
                    error,
                )
        report = handle.report()
        findings = {
            name: {
                **diagnosis.to_dict(),
                "best_flop_ratio": diagnosis.best_flop_ratio,
                "bytes_per_kept_step": _kept_bytes(handle, name, wanted, steps, report)
                if run
                else None,
                **(_outlook(handle.models[name], runs[name], wanted, steps) if run else {}),
            }
            for name, diagnosis in handle.doctor().items()
        }
        text = str(handle.doctor())
    if as_json:
        typer.echo(json.dumps({"pipeline": type(pipeline).__name__, "models": findings}))
    else:
        typer.echo(f"{type(pipeline).__name__} of {model}")
        typer.echo(text)
        for name, found in findings.items():
            for line in _lines(found, wanted, steps, of=f"{name}: " if len(findings) > 1 else ""):
                typer.echo(line)
    if run and not any(found["segments"] for found in findings.values()):
        _fail(f"no block of {type(pipeline).__name__} can be skipped")


def _kept_bytes(handle: Any, name: str, config: SensitivityConfig, steps: int, report: Any) -> int:
    if config.for_steps(steps).granularity == "output":
        structure = handle.attachments[name].structure
        return 0 if structure is None else int(structure.output_bytes)
    # A measured run keeps one output of each segment.
    return int(report[name].peak_bytes)


def _fail(sentence: str, cause: Exception | None = None) -> NoReturn:
    typer.echo(f"error: {sentence}", err=True)
    raise typer.Exit(ExitCode.FAILURE) from cause


def _any_call(pipeline: Any, pipeline_arguments: str | None) -> dict[str, Any]:
    """Two steps of whatever the pipeline draws: FLOPs do not depend on it."""
    from genaccel.sampling.calls import any_calls, parse_object

    with options.usage_errors():
        extra = parse_object(pipeline_arguments)
        (call,) = any_calls(pipeline, steps=_LEARNING_STEPS, extra=extra)
    return call


def _outlook(
    model: AcceleratedModel, runs: MeasuredRuns, config: SensitivityConfig, steps: int
) -> dict[str, Any]:
    """The plan that runs of so many steps would find, and the speed-up that they could reach."""
    from genaccel.sensitivity.measure.sampler_gain import sampler_gains
    from genaccel.sensitivity.planning.planner import best_speedup
    from genaccel.sensitivity.plans.run_identity import planned_run

    measured = runs.total
    if measured is None:
        return {"stored_plan": None, "most": None, "does_nothing": []}
    pipeline = model.director.pipeline
    stored = model.director.source.stored_plan(planned_run(measured.fingerprint, pipeline, steps))
    is_of_outputs = config.for_steps(steps).granularity == "output"
    if is_of_outputs:
        from genaccel.sensitivity.config import fewest_computed

        most = steps / fewest_computed(steps, config.max_interval)
    else:
        most = best_speedup(
            segment_flops=measured.segment_flops,
            total_flops=measured.total_flops,
            warmup_steps=config.planner.warmup_steps,
            steps=steps,
            max_interval=config.max_interval,
        )
    does_nothing = []
    if not is_of_outputs and len(measured.segment_flops) < 2:
        does_nothing.append("shared_schedule: there is one segment at most")
    if sampler_gains(pipeline.scheduler, steps) is None:
        scheduler = type(pipeline.scheduler).__name__
        does_nothing.append(f"weigh_steps: {scheduler} is not linear, or draws noise")
    return {
        "stored_plan": None if stored is None else str(stored.folder),
        "most": most,
        "does_nothing": does_nothing,
    }


def _lines(found: dict[str, Any], config: SensitivityConfig, steps: int, *, of: str) -> list[str]:
    """The outlook, for reading."""
    if found.get("most") is None:
        return []
    megabytes = found["bytes_per_kept_step"] / 1e6
    limits = f"max_interval={config.max_interval}"
    if config.for_steps(steps).granularity != "output":
        limits = f"warmup_steps={config.planner.warmup_steps} and {limits}"
    lines = [
        f"{of}a run of {steps} steps can be {found['most']:.3g}x fewer FLOPs at most, with {limits}",
        f"{of}each kept step takes {megabytes:.3g} MB; reuse and affine keep 1, taylor1 2, taylor2 3",
    ]
    asked = f"{config.speedup:g}x" if isinstance(config.speedup, int | float) else config.target
    if found["stored_plan"] is not None:
        lines.append(f"{of}a plan for {asked} is found in {found['stored_plan']}")
    elif isinstance(config.speedup, int | float) and config.speedup > found["most"]:
        lines.append(f"{of}{asked} is out of reach: runs get the most there is")
    else:
        lines.append(
            f"{of}no plan for {asked} and {steps} steps is kept: the first run will be computed in full "
            "and measured, the next ones are faster"
        )
    lines += [f"{of}no effect here: {reason}" for reason in found["does_nothing"]]
    return lines
