# SPDX-License-Identifier: Apache-2.0
"""Measures a pipeline over several generations, resumably (OFS of SODA, arXiv:2603.07057)."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from tqdm.auto import tqdm

from genaccel.files.atomic import write_atomically
from genaccel.sampling.calls import PipelineCall, run_call
from genaccel.sensitivity.config import SensitivityConfig
from genaccel.sensitivity.enable import SensitivityHandle, enable_sensitivity
from genaccel.sensitivity.measure.measuring import MeasuredRuns, measuring
from genaccel.sensitivity.planning.planner import Measurements

# Version of checkpoints; since 3 they name what each sum is of.
_VERSION = "3"


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
        Measurements of each model of the pipeline, by name.

    Raises:
        ValueError: If there are no calls, they differ in their number of steps, or the checkpoint
            belongs to other ones or to another version.
    """
    if not calls:
        raise ValueError("calls must hold at least one generation")
    config = config or SensitivityConfig(speedup=2.0)
    with enable_sensitivity(pipeline, config) as handle, measuring(handle) as runs:
        belongs_to = _digest(calls, config)
        done, sums = _load(checkpoint, belongs_to, len(calls))
        for name, measured in runs.items():
            measured.resume(sums.get(name, {}))
        for number in tqdm(
            range(done, len(calls)), desc="calibrating", unit="generation", disable=None
        ):
            run_call(pipeline, calls[number])
            _check_measured(handle, runs, number + 1 - done)
            if checkpoint is not None:
                _save(runs, Path(checkpoint), belongs_to, number + 1)
        if done == len(calls):
            # All of it was measured before; a run tells what it belongs to, and does not count.
            run_call(pipeline, calls[-1])
            _check_measured(handle, runs, 1)
            for name, measured in runs.items():
                measured.replace(sums.get(name, {}))
        return {name: measured.total for name, measured in runs.items() if measured.total}


def _check_measured(
    handle: SensitivityHandle, runs: Mapping[str, MeasuredRuns], count: int
) -> None:
    """Say why a generation was not measured.

    Raises:
        ValueError: If a model has not the sums of so many.
    """
    for name, measured in runs.items():
        if measured.problem is not None:
            raise ValueError(measured.problem)
        if measured.count != count:
            notes = handle.report()[name].notes
            why = f": {notes[0]}" if notes else ""
            raise ValueError(f"{name} was not called to the last step in any generation{why}")


def _digest(calls: Sequence[PipelineCall], config: SensitivityConfig) -> str:
    what: list[Any] = [config.planner.forecasters, config.max_interval, config.planner.max_blocks]
    if config.pruning_share > 0:
        what.append(config.planner.token_score)
    text = json.dumps([what, *(dict(c) for c in calls)], sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def _save(runs: Mapping[str, MeasuredRuns], path: Path, belongs_to: str, done: int) -> None:
    tensors = {}
    for name, measured in runs.items():
        for part, state in measured.state().items():
            tensors.update({f"{name}.{part}.{key}": value for key, value in state.items()})
    metadata = {"version": _VERSION, "calls": belongs_to, "done": str(done)}
    write_atomically(path, save(tensors, metadata=metadata), overwrite=True, parents=True)


def _load(
    checkpoint: str | os.PathLike[str] | None, belongs_to: str, most: int
) -> tuple[int, dict[str, dict[str, dict[str, torch.Tensor]]]]:
    """Generations that a checkpoint holds, ``most`` at most, and the sums of each model."""
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
    sums: dict[str, dict[str, dict[str, torch.Tensor]]] = {}
    try:
        for key, tensor in tensors.items():
            name, part, kind = key.split(".")
            sums.setdefault(name, {}).setdefault(part, {})[kind] = tensor
        done = int(metadata["done"])
    except (KeyError, ValueError):
        raise ValueError(f"{checkpoint} is damaged; remove it to begin anew") from None
    if not 0 <= done <= most:
        raise ValueError(f"{checkpoint} is damaged; remove it to begin anew")
    return done, sums
