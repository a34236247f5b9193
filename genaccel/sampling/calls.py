# SPDX-License-Identifier: Apache-2.0
"""Arguments of generations: read, checked against what a pipeline takes, and run with their seeds."""

from __future__ import annotations

import inspect
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from genaccel.sampling.images import Images, images_of

# Arguments of a pipeline's call; ``seed`` in it becomes one generator, a list of seeds one for each sample.
PipelineCall = Mapping[str, Any]

# Each has a parameter of its own, and a value in ``extra`` would contradict it.
_OWN_PARAMETERS = {
    "num_inference_steps": "--steps",
    "guidance_scale": "--guidance",
    "class_labels": "--class-labels",
    "prompt": "--prompts",
    "generator": "--seed",
    "seed": "--seed",
}
_EXTRA = "--pipeline-arguments"


def make_calls(
    pipeline: Any,
    *,
    prompts: Sequence[str] | None = None,
    class_labels: Sequence[int] | None = None,
    steps: int,
    guidance: float | None = None,
    generations: int,
    batch_size: int = 1,
    seed: int = 0,
    extra: Mapping[str, Any] | None = None,
) -> list[dict[str, Any]]:
    """Arguments of several generations.

    Prompts and labels are taken in turn, and begin anew when they are used up.

    Args:
        pipeline: The signature of its call says what it takes.
        prompts: For pipelines that take prompts.
        class_labels: For pipelines that take class labels.
        steps: Steps of the sampler.
        guidance: Scale of the guidance; None for the pipeline's own.
        generations: Calls.
        batch_size: Samples in each.
        seed: Seed of the first call; each has its own.
        extra: Further arguments, the same in all calls.

    Returns:
        A dictionary for each call, as :func:`run_call` takes it.

    Raises:
        ValueError: If the pipeline needs prompts or labels and has none, or does not take what is
            given. Messages name the options of the command line.

    Example:
        >>> from diffusers import DiTPipeline
        >>> make_calls(DiTPipeline, class_labels=[7, 8], steps=20, generations=1, batch_size=2)
        [{'num_inference_steps': 20, 'class_labels': [7, 8], 'seed': 0}]
    """
    for option, value in (
        ("--steps", steps),
        ("--generations", generations),
        ("--batch-size", batch_size),
    ):
        if value < 1:
            raise ValueError(f"{option} must be at least 1, got {value}")
    name = pipeline.__name__ if isinstance(pipeline, type) else type(pipeline).__name__
    taken = _parameters(pipeline)
    further = dict(extra or {})
    if "num_inference_steps" not in taken:
        raise ValueError(f"{name} takes no num_inference_steps, so it has no steps to skip")
    for key in further:
        if key in _OWN_PARAMETERS:
            raise ValueError(f"{key} belongs into {_OWN_PARAMETERS[key]}, not into {_EXTRA}")
        if key not in taken:
            raise ValueError(f"{name} takes no argument {key!r}, which {_EXTRA} holds")
    common: dict[str, Any] = {"num_inference_steps": steps}
    if guidance is not None:
        if "guidance_scale" not in taken:
            raise ValueError(f"{name} takes no guidance_scale: leave --guidance out")
        common["guidance_scale"] = guidance
    subject, items = _items(pipeline, name, taken, prompts, class_labels, further)
    calls = []
    for number in range(generations):
        call = {**common, **further}
        if subject is not None:
            first = number * batch_size
            call[subject] = [items[(first + i) % len(items)] for i in range(batch_size)]
        elif batch_size > 1:
            if "batch_size" not in taken:
                raise ValueError(f"{name} takes no batch_size: leave --batch-size out")
            call["batch_size"] = batch_size
        call["seed"] = seed + number
        calls.append(call)
    return calls


def any_calls(
    pipeline: Any, *, steps: int, extra: Mapping[str, Any] | None = None
) -> list[dict[str, Any]]:
    """One generation of no matter what.

    Raises:
        ValueError: If the pipeline does not take ``extra``.
    """
    taken = _parameters(pipeline)
    return make_calls(
        pipeline,
        prompts=["a photograph"] if "prompt" in taken else None,
        class_labels=[0] if "class_labels" in taken else None,
        steps=steps,
        generations=1,
        extra=extra,
    )


def run_call(pipeline: Any, call: PipelineCall) -> Any:
    """Run a pipeline with ``seed`` turned into generators on the CPU, the same on every device.

    Args:
        pipeline: Called with the other arguments.
        call: Its ``seed``, if it has one, is a number, or one for each sample.
    """
    arguments = dict(call)
    seed = arguments.pop("seed", None)
    if seed is not None:
        several = isinstance(seed, Sequence)
        arguments["generator"] = generators(seed) if several else generators([seed])[0]
    with torch.inference_mode():
        return pipeline(**arguments)


def images_of_calls(pipeline: Any, calls: Sequence[PipelineCall]) -> Images:
    """Images ``[H, W, 3]`` of several generations.

    Raises:
        ValueError: If the pipeline gives none; see :func:`~genaccel.sampling.images.images_of`.
    """
    return [image for call in calls for image in images_of(run_call(pipeline, call))]


def generators(seeds: Sequence[int]) -> list[torch.Generator]:
    """One for each sample, on the CPU: the same noise in any batch and on any device."""
    return [torch.Generator().manual_seed(int(seed)) for seed in seeds]


def parse_object(
    text: str | None, option: str = _EXTRA, example: str = '{"height": 512}'
) -> dict[str, Any]:
    """The JSON object that an option holds; an empty one for None.

    Raises:
        ValueError: If it is none; the message names the option and the example.

    Example:
        >>> parse_object('{"height": 512}')
        {'height': 512}
    """
    if text is None:
        return {}
    try:
        values = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{option} is no JSON object ({error})") from None
    if not isinstance(values, dict):
        raise ValueError(f"{option} must be a JSON object such as {example}")
    return values


def read_prompts(path: str | os.PathLike[str]) -> list[str]:
    """Prompts of a text file, one a line; empty lines do not count.

    Raises:
        ValueError: If there is no such file, it is no text, or holds no prompts.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except OSError as error:
        raise ValueError(f"--prompts {path} can't be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ValueError(f"--prompts {path} is no text file in UTF-8") from None
    prompts = [line.strip() for line in text.splitlines() if line.strip()]
    if not prompts:
        raise ValueError(f"--prompts {path} holds no prompts: write one in each line")
    return prompts


def default_steps(pipeline: Any) -> int:
    """Steps of a call that names none."""
    value = _parameters(pipeline).get("num_inference_steps")
    default = None if value is None else value.default
    return default if type(default) is int and default > 0 else 50


def _parameters(pipeline: Any) -> Mapping[str, inspect.Parameter]:
    owner = pipeline if isinstance(pipeline, type) else type(pipeline)
    return inspect.signature(owner.__call__).parameters


def _items(
    pipeline: Any,
    name: str,
    taken: Mapping[str, inspect.Parameter],
    prompts: Sequence[str] | None,
    class_labels: Sequence[int] | None,
    further: Mapping[str, Any],
) -> tuple[str | None, Sequence[Any]]:
    """The argument that differs between calls, and its values."""
    if prompts is not None and "prompt" not in taken:
        raise ValueError(f"{name} takes no prompts: leave --prompts out{_labels_hint(taken)}")
    if class_labels is not None and "class_labels" not in taken:
        raise ValueError(f"{name} takes no class labels: leave --class-labels out")
    if "class_labels" in taken:
        if not class_labels:
            raise ValueError(f"{name} draws classes: name some with --class-labels 1,2,3")
        _check_labels(pipeline, class_labels)
        return "class_labels", class_labels
    if "prompt" in taken and not any(key.startswith("prompt_embeds") for key in further):
        if not prompts:
            raise ValueError(f"{name} draws what prompts say: name a file of them with --prompts")
        return "prompt", prompts
    return None, ()


def _labels_hint(taken: Mapping[str, inspect.Parameter]) -> str:
    return ", and name classes with --class-labels" if "class_labels" in taken else ""


def _check_labels(pipeline: Any, labels: Sequence[int]) -> None:
    # An embedding that is asked for a label it does not have fails with an index error, or worse on a GPU.
    config = getattr(getattr(pipeline, "transformer", None), "config", {})
    classes = config.get("num_embeds_ada_norm")
    wrong = [n for n in labels if n < 0 or (classes is not None and n >= classes)]
    if wrong:
        known = "" if classes is None else f", the model knows 0 to {classes - 1}"
        raise ValueError(f"--class-labels has no class {wrong[0]}{known}")
