# SPDX-License-Identifier: Apache-2.0
"""Options of the commands that load a pipeline: where it comes from, and what it is called with."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_type_hints

import typer

from genaccel.cli import options

if TYPE_CHECKING:
    from genaccel.sensitivity.config import SensitivityConfig

FORMER_NAMES = options.renamed({"arguments": "pipeline-arguments", "speedups": "speedup"})

# More are a slip of the finger, and would be a list of that length before anything else.
_MAX_COUNT = 2**16

GenerationCount = typer.Option(min=1, max=_MAX_COUNT, help="Generations to measure and compare.")
Model = Annotated[
    str,
    typer.Argument(
        metavar="MODEL",
        help="Folder of a diffusers pipeline, its name, or FILE.py:FUNCTION that makes it.",
    ),
]
DType = Annotated[
    Literal["float32", "bfloat16", "float16"], typer.Option(help="Of the pipeline's weights.")
]
PipelineArguments = Annotated[
    str | None,
    typer.Option(metavar="JSON", help='More arguments of the pipeline\'s call: {"height": 512}.'),
]
Speedups = Annotated[
    list[str],
    typer.Option(metavar="X", help="FLOPs of the denoiser, plain over accelerated; repeatable."),
]
Lpips = Annotated[
    bool | None,
    typer.Option(help="Measure ST-LPIPS (vgg); by default where its weights are installed."),
]
MaxInterval = Annotated[
    int, typer.Option(min=1, help="Largest distance between computed steps, in steps.")
]

Config = Annotated[
    str | None,
    typer.Option(
        metavar="JSON",
        help='More of SensitivityConfig: {"granularity": "module", "max_blocks": 4}.',
    ),
]


def load_pipeline(model: str, *, device: str, dtype: str) -> Any:
    """The pipeline that MODEL names; see :func:`genaccel.sampling.pipelines.load_pipeline`.

    Raises:
        typer.BadParameter: If there is none.
    """
    from genaccel.sampling import pipelines

    with options.usage_errors():
        return pipelines.load_pipeline(model, device=device, dtype=dtype)


@dataclass(frozen=True, kw_only=True, slots=True)
class Generations:
    """Options of the commands that generate: a pipeline, and the arguments of its calls."""

    model: Model
    steps: Annotated[int, typer.Option(min=1, max=_MAX_COUNT, help="Steps of the sampler.")] = 50
    prompts: Annotated[Path | None, typer.Option(help="Text file, one prompt a line.")] = None
    class_labels: Annotated[
        str | None, typer.Option(metavar="1,2,3", help="Classes, of pipelines that draw classes.")
    ] = None
    guidance: Annotated[
        float | None,
        typer.Option(
            callback=options.finite, help="Guidance scale; by default the pipeline's own."
        ),
    ] = None
    batch_size: Annotated[
        int, typer.Option(min=1, max=_MAX_COUNT, help="Samples in a generation.")
    ] = 1
    seed: Annotated[int, typer.Option(min=-(2**63), max=2**63, help="Of the first generation.")] = 0
    pipeline_arguments: PipelineArguments = None
    device: options.Device = "cpu"
    dtype: DType = "float32"

    def load(self, count: int) -> tuple[Any, list[dict[str, Any]]]:
        """The pipeline, and the arguments of ``count`` generations.

        Raises:
            typer.BadParameter: If there is no such pipeline, or it does not take such arguments.
        """
        pipeline = load_pipeline(self.model, device=self.device, dtype=self.dtype)
        from genaccel.sampling.calls import make_calls, parse_object, read_prompts

        labels = self.class_labels
        with options.usage_errors():
            return pipeline, make_calls(
                pipeline,
                prompts=None if self.prompts is None else read_prompts(self.prompts),
                class_labels=None if labels is None else numbers(labels, "--class-labels"),
                steps=self.steps,
                guidance=self.guidance,
                generations=count,
                batch_size=self.batch_size,
                seed=self.seed,
                extra=parse_object(self.pipeline_arguments),
            )


def takes_generations(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the options of :class:`Generations`, which it gets together as its first argument."""
    shared = inspect.signature(Generations).parameters
    own = list(inspect.signature(command).parameters.values())[1:]
    hints = {
        name: hint
        for function in (Generations, command)
        for name, hint in get_type_hints(function, include_extras=True).items()
    }

    @functools.wraps(command)
    def with_options(**given: Any) -> None:
        command(Generations(**{name: given.pop(name) for name in shared}), **given)

    model, *others = shared.values()
    parameters = [
        p.replace(annotation=hints[p.name], kind=inspect.Parameter.KEYWORD_ONLY)
        for p in (model, *own, *others)
    ]
    # typer reads the signature and the annotations.
    with_options.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    with_options.__annotations__ = {p.name: p.annotation for p in parameters}
    return with_options


def numbers(text: str, option: str, kind: type = int) -> list[Any]:
    """The numbers of ``1,2,3``.

    Raises:
        ValueError: If they are none.
    """
    try:
        return [kind(part) for part in text.split(",")]
    except ValueError:
        example = "1,2,3" if kind is int else "1.5,2,3"
        raise ValueError(f"{option} must be numbers such as {example}, got {text!r}") from None


def speedups_of(texts: Sequence[str]) -> list[float]:
    """The different speed-ups of ``--speedup``, each of which may also hold several.

    Raises:
        ValueError: If one is no number above 1.
    """
    speedups = [s for text in texts for s in numbers(text, "--speedup", float)]
    for speedup in speedups:
        if not speedup > 1:
            raise ValueError(f"--speedup must be above 1, got {speedup:g}")
    return list(dict.fromkeys(speedups))


def make_config(text: str | None, **given: Any) -> SensitivityConfig:
    """The configuration that ``--config`` and the options of its own make together.

    Options of the planner may stand among the others.

    Raises:
        ValueError: If it is no object, has unknown keys or what an option says, or is out of range.
    """
    from dataclasses import fields

    from genaccel.sampling.calls import parse_object
    from genaccel.sensitivity.config import PlannerOptions, SensitivityConfig

    values = parse_object(text, "--config", '{"max_interval": 4}')
    if twice := sorted(values.keys() & given.keys()):
        raise ValueError(f"--config names {', '.join(twice)}, which has an option of its own")
    try:
        together = {**values, **given}
        options = {f.name for f in fields(PlannerOptions)} & set(together)
        if options:
            planner = {**together.get("planner", {}), **{n: together.pop(n) for n in options}}
            together["planner"] = planner
        return SensitivityConfig.from_dict(together)
    except TypeError as error:  # a value of another type, met where it is compared
        raise ValueError(f"--config has a value of the wrong type: {error}") from None
