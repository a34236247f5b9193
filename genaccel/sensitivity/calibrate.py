# SPDX-License-Identifier: Apache-2.0
"""Measures a pipeline over several generations, resumably (OFS of SODA, arXiv:2603.07057)."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from tqdm.auto import tqdm

from genaccel.sensitivity.config import SensitivityConfig
from genaccel.sensitivity.enable import SensitivityHandle, enable_sensitivity
from genaccel.sensitivity.plan import write_atomically
from genaccel.sensitivity.planner import Measurements

PipelineCall = Mapping[str, Any]

# Of checkpoints. 2: inner products without the row of a tensor of ones.
_VERSION = "2"
# Ends the name of a model in checkpoints, where its feed-forwards are meant.
_FEED_FORWARDS = ".feed_forwards"


def calibrate(
    pipeline: Any,
    calls: Sequence[PipelineCall],
    config: SensitivityConfig | None = None,
    *,
    checkpoint: str | os.PathLike[str] | None = None,
) -> dict[str, Measurements]:
    """Measure how well every forecaster does at every step.

    Each generation costs as much as an unaccelerated one. The paper takes 100; schedules from one
    and from a hundred differ in few steps.

    Args:
        pipeline: Not accelerated at present; it is not afterwards either.
        calls: Arguments of the generations. ``seed`` is turned into a generator.
        config: Forecasters and intervals to measure.
        checkpoint: File that keeps what was measured after each generation. If it is there and
            belongs to these calls, the measurement goes on where it ended.

    Returns:
        What was measured, for each model of the pipeline.

    Raises:
        ValueError: If there are no calls, they differ in their number of steps, or the checkpoint
            belongs to other ones or to another version.
    """
    if not calls:
        raise ValueError("calls must hold at least one generation")
    config = config or SensitivityConfig(speedup=2.0)
    handle = enable_sensitivity(pipeline, config)
    try:
        with measuring(handle):
            belongs_to = _digest(calls, config)
            done, sums = _load(checkpoint, belongs_to)
            for name, state in sums.items():
                _resume(handle, name, state)
            steps: dict[str, int] = {}
            for number in tqdm(
                range(done, len(calls)), desc="calibrating", unit="generation", disable=None
            ):
                run_call(pipeline, calls[number])
                _check_steps(handle, steps)
                if checkpoint is not None:
                    _save(handle, Path(checkpoint), belongs_to, number + 1)
            if done == len(calls):
                # All of it was measured before; a run tells what it belongs to, and does not count.
                run_call(pipeline, calls[-1])
                for name, state in sums.items():
                    _load_sums(handle, name, state)
            for model in handle.models.values():
                model.director.finish()
            return {name: _measurements(model) for name, model in handle.models.items()}
    finally:
        handle.disable()


@contextlib.contextmanager
def measuring(handle: SensitivityHandle) -> Iterator[None]:
    """Compute and measure every run within the ``with``, and make no plan of it."""
    for model in handle.models.values():
        model.is_measuring = True
        model.director.measure()
    try:
        yield
    finally:
        for model in handle.models.values():
            model.is_measuring = False


def run_call(pipeline: Any, call: PipelineCall) -> Any:
    """Run a pipeline with ``seed`` turned into a generator on the CPU, the same on every device."""
    arguments = dict(call)
    seed = arguments.pop("seed", None)
    if seed is not None:
        arguments["generator"] = torch.Generator().manual_seed(int(seed))
    with torch.inference_mode():
        return pipeline(**arguments)


def _resume(handle: SensitivityHandle, name: str, state: Mapping[str, torch.Tensor]) -> None:
    """Let a model go on from its sums."""
    director = handle.models[name.removesuffix(_FEED_FORWARDS)].director
    if not name.endswith(_FEED_FORWARDS):
        director.resume(state)
    elif director.feed_forwards is not None:
        director.feed_forwards.resume(state)


def _load_sums(handle: SensitivityHandle, name: str, state: Mapping[str, torch.Tensor]) -> None:
    """Replace the sums of a model by others."""
    director = handle.models[name.removesuffix(_FEED_FORWARDS)].director
    observed = director.feed_forwards
    if not name.endswith(_FEED_FORWARDS):
        if director.moments is not None:
            director.moments.load_state_dict(state)
    elif observed is not None and observed.moments is not None:
        observed.moments.load_state_dict(state)


def _measurements(model: Any) -> Measurements:
    if model.measurements is None:
        raise ValueError(f"{model.name} was not called to the last step in any generation")
    measured: Measurements = model.measurements
    return dataclasses.replace(measured, moments=model.director.moments)


def _check_steps(handle: SensitivityHandle, steps: dict[str, int]) -> None:
    """Sums of runs of different lengths can't be added.

    Raises:
        ValueError: If the last run had another number of steps than those before.
    """
    for name, model in handle.models.items():
        if model.director.moments is None:
            continue
        now = model.director.moments.shape[0]
        if steps.setdefault(name, now) != now:
            raise ValueError(
                f"all generations must have the same number of steps, got {steps[name]} and {now}"
            )


def _digest(calls: Sequence[PipelineCall], config: SensitivityConfig) -> str:
    what: list[Any] = [config.forecasters, config.max_interval, config.max_blocks]
    if config.pruning_share > 0:
        what.append(config.token_score)
    text = json.dumps([what, *(dict(c) for c in calls)], sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def _save(handle: SensitivityHandle, path: Path, belongs_to: str, done: int) -> None:
    tensors = {}
    for name, model in handle.models.items():
        moments = model.director.moments
        if moments is not None:
            tensors.update({f"{name}.{k}": v for k, v in moments.state_dict().items()})
        observed = model.director.feed_forwards
        if observed is not None and observed.moments is not None:
            state = observed.moments.state_dict()
            tensors.update({f"{name}{_FEED_FORWARDS}.{k}": v for k, v in state.items()})
    path.parent.mkdir(parents=True, exist_ok=True)
    metadata = {"version": _VERSION, "calls": belongs_to, "done": str(done)}
    write_atomically(path, save(tensors, metadata=metadata))


def _load(
    checkpoint: str | os.PathLike[str] | None, belongs_to: str
) -> tuple[int, dict[str, dict[str, torch.Tensor]]]:
    """Generations that a checkpoint holds, and the sums of each model."""
    if checkpoint is None or not Path(checkpoint).is_file():
        return 0, {}
    try:
        with safe_open(os.fspath(checkpoint), "pt") as stored:
            metadata = stored.metadata() or {}
            tensors = {key: stored.get_tensor(key) for key in stored.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise ValueError(f"{checkpoint} is damaged ({error}); remove it to begin anew") from None
    if metadata.get("version") != _VERSION:
        raise ValueError(
            f"{checkpoint} is no measurement of this version of genaccel; remove it to begin anew"
        )
    if metadata.get("calls") != belongs_to:
        raise ValueError(
            f"{checkpoint} was measured with other calls or settings; remove it or name another file"
        )
    sums: dict[str, dict[str, torch.Tensor]] = {}
    for key, tensor in tensors.items():
        name, _, kind = key.rpartition(".")
        sums.setdefault(name, {})[kind] = tensor
    return int(metadata["done"]), sums
