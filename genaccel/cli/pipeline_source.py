# SPDX-License-Identifier: Apache-2.0
"""Where the pipelines of ``doctor``, ``calibrate`` and ``tune`` come from, and what they are called with."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from genaccel import zoo
from genaccel.errors import UnknownModelError
from genaccel.models.registry import shared_components

if TYPE_CHECKING:
    from genaccel.sensitivity.config import SensitivityConfig

Model = Annotated[
    str, typer.Argument(metavar="MODEL", help="Folder of a diffusers pipeline, or its name.")
]
DType = Annotated[
    Literal["float32", "bfloat16", "float16"], typer.Option(help="Of the pipeline's weights.")
]
Prompts = Annotated[Path | None, typer.Option(help="Text file, one prompt a line.")]
ClassLabels = Annotated[
    str | None, typer.Option(metavar="1,2,3", help="Classes, of pipelines that draw classes.")
]
Guidance = Annotated[
    float | None, typer.Option(help="Guidance scale; by default the pipeline's own.")
]
BatchSize = Annotated[int, typer.Option(min=1, help="Samples in a generation.")]
Arguments = Annotated[
    str | None,
    typer.Option(metavar="JSON", help='More arguments of the pipeline\'s call: {"height": 512}.'),
]
Seed = Annotated[int, typer.Option(help="Of the first generation.")]
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


def load_pipeline(model: str, *, device: str = "cpu", dtype: str = "float32") -> Any:
    """The pipeline of a folder, of the zoo, or of the Hugging Face hub (``owner/name``).

    Raises:
        typer.BadParameter: If there is none.
    """
    import torch
    from diffusers import DiffusionPipeline
    from diffusers.utils import logging

    source = find_model(model)
    logging.disable_progress_bar()
    try:
        # Its older versions know no ``dtype``, and leave it out.
        wanted = {} if dtype == "float32" else {"dtype": getattr(torch, dtype)}
        pipeline = DiffusionPipeline.from_pretrained(source, **wanted, **shared_components(source))
        pipeline = pipeline.to(device, *wanted.values())
    except (OSError, ValueError, RuntimeError) as error:
        # Theirs run over many lines; the first says what is wrong.
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise typer.BadParameter(f"{model} can't be loaded as a pipeline: {first}") from error
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def find_model(model: str) -> str:
    """What ``from_pretrained`` takes for a model that a user names.

    Raises:
        typer.BadParameter: If it is no folder with a pipeline and no name of one.
    """
    owner, slash, name = model.partition("/")
    on_hub = slash and owner and name and "/" not in name and not model.startswith((".", "~"))
    if on_hub and not Path(model).is_dir():
        return model
    try:
        return str(zoo.resolve(model, "pipeline").folder)
    except UnknownModelError as error:
        raise typer.BadParameter(str(error)) from error


def calls_of(
    pipeline: Any,
    *,
    prompts: Path | None,
    class_labels: str | None,
    arguments: str | None,
    **others: Any,
) -> list[dict[str, Any]]:
    """The generations that the options ask for.

    Raises:
        ValueError: If they are not what the pipeline takes.
    """
    from genaccel.sensitivity.pipeline_calls import make_calls, read_prompts

    return make_calls(
        pipeline,
        prompts=None if prompts is None else read_prompts(prompts),
        class_labels=None if class_labels is None else numbers(class_labels, "--class-labels"),
        extra=parse_arguments(arguments),
        **others,
    )


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


def check_speedups(speedups: Sequence[float], option: str) -> None:
    """Refuse what no plan can be.

    Raises:
        ValueError: If one is not above 1.
    """
    for speedup in speedups:
        if not speedup > 1:
            raise ValueError(f"{option} must be above 1, got {speedup:g}")


def parse_arguments(text: str | None) -> dict[str, Any]:
    """The object of ``--arguments``.

    Raises:
        ValueError: If it is none.
    """
    return _json_object(text, "--arguments", '{"height": 512}')


def make_config(text: str | None, **given: Any) -> SensitivityConfig:
    """What ``--config`` and the options of its own say together.

    Options of the planner may stand among the others.

    Raises:
        ValueError: If it is no object, has unknown keys or what an option says, or is out of range.
    """
    from dataclasses import fields

    from genaccel.sensitivity.config import PlannerOptions, SensitivityConfig

    values = _json_object(text, "--config", '{"max_interval": 4}')
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


def _json_object(text: str | None, option: str, example: str) -> dict[str, Any]:
    if text is None:
        return {}
    try:
        values = json.loads(text)
    except ValueError as error:
        raise ValueError(f"{option} is no JSON: {error}") from None
    if not isinstance(values, dict):
        raise ValueError(f"{option} must be a JSON object such as {example}")
    return values
