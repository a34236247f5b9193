# SPDX-License-Identifier: Apache-2.0
"""Reads the fingerprint of a run off its pipeline: model, weights, adapters, scheduler and schedule."""

from __future__ import annotations

import copy
import dataclasses
import hashlib
import json
from collections import Counter
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from genaccel.hooks.clock import PipelineRun, Run
from genaccel.hooks.director import Structure
from genaccel.sensitivity.plans.fingerprint import Fingerprint, config_digest

# Values that are looked at of each weight tensor, and numbers that are kept of all of them.
_VALUES = 8
_SKETCH = 16


def run_fingerprint(
    model: nn.Module,
    structure: Structure,
    run: Run,
    *,
    pipeline: Any = None,
    weights: tuple[tuple[float, ...] | None, str | None] = (None, None),
) -> Fingerprint:
    """The fingerprint of a run whose first step is over, so that its place in the schedule is known.

    Args:
        model: The denoiser.
        structure: How the denoiser is built in this run.
        run: The run.
        pipeline: The pipeline that the model is from, or None.
        weights: Sketch and dtype of the weights, from :class:`WeightsSketch`.
    """
    scheduler = getattr(pipeline, "scheduler", None)
    shape = structure.input_shape
    control = getattr(pipeline, "controlnet", None)
    return Fingerprint(
        model_class=type(model).__name__,
        model_config_digest=config_digest(dict(getattr(model, "config", {})), type(model)),
        scheduler_class="" if scheduler is None else type(scheduler).__name__,
        scheduler_config_digest=""
        if scheduler is None
        else config_digest(scheduler.config, type(scheduler)),
        num_inference_steps=run.num_steps,
        height=shape[-2] if len(shape) > 2 else 1,
        width=shape[-1] if len(shape) > 3 else 1,
        guidance_scale=_number(getattr(pipeline, "_guidance_scale", None)),
        adapters=active_adapters(model, call_scale(pipeline)),
        segments=segments_digest(structure),
        start_step=run.start,
        schedule_digest=schedule_digest(run, pipeline),
        weights=weights[0],
        weights_dtype=weights[1],
        control="" if control is None else type(control).__name__,
        old_digests=tuple(
            config_digest(dict(config))
            for config in (getattr(owner, "config", None) for owner in (model, scheduler))
            if config is not None
        ),
    )


def planned_run(known: Fingerprint, pipeline: Any, num_inference_steps: int) -> Fingerprint:
    """The fingerprint of a run from noise with other steps, and otherwise like a known run."""
    probe = copy.deepcopy(pipeline.scheduler)
    probe.set_timesteps(num_inference_steps)
    run = PipelineRun(0, scheduler=probe, num_steps=len(probe.timesteps))
    return dataclasses.replace(
        known,
        num_inference_steps=run.num_steps,
        start_step=0,
        schedule_digest=schedule_digest(run, pipeline),
    )


def schedule_digest(run: Run, pipeline: Any = None) -> str:
    """Hash a run's timesteps and noise levels, and the place where one model hands over to another.

    Args:
        run: The run.
        pipeline: The pipeline of the run, or None.

    Returns:
        Empty where the schedule is unknown.
    """
    values = run.schedule()
    if not values:
        return ""
    boundary = getattr(getattr(pipeline, "config", None), "boundary_ratio", None)
    parts = [] if boundary is None else [float(boundary)]
    return _digest([float(f"{value:.5g}") for value in [*values, *parts]])


def segments_digest(structure: Structure) -> str:
    """Hash the names of a model's segments."""
    return _digest(list(structure.names))


def call_scale(pipeline: Any) -> float:
    """The scale of adapters that a call of the pipeline gives, on top of their own."""
    for name in ("_joint_attention_kwargs", "_attention_kwargs", "_cross_attention_kwargs"):
        given = getattr(pipeline, name, None)
        scale = given.get("scale") if isinstance(given, dict) else None
        if isinstance(scale, int | float):
            return float(scale)
    return 1.0


def active_adapters(model: nn.Module, scale: float = 1.0) -> tuple[str, ...]:
    """Adapters that take part in a call, each with its scale, such as ``style*0.8``.

    Args:
        model: The model, with layers of peft or without.
        scale: Scale of the call, which multiplies those of all adapters.
    """
    found: set[str] = set()
    for module in model.modules():
        scaling = getattr(module, "scaling", None)
        active = getattr(module, "active_adapters", None)
        if not isinstance(scaling, dict) or not isinstance(active, list | tuple):
            continue
        if getattr(module, "disable_adapters", False) or getattr(module, "merged_adapters", None):
            continue  # merged ones are in the weights
        found |= {
            f"{name}*{scale * float(scaling[name]):.4g}" for name in active if name in scaling
        }
    return tuple(sorted(found))


class WeightsSketch:
    """A few numbers that tell a model's weights from others, at the cost of reading some of them.

    Args:
        model: The model.
    """

    def __init__(self, model: nn.Module) -> None:
        self._model = model

    def __call__(self) -> tuple[tuple[float, ...] | None, str | None]:
        """The sketch, and the dtype of most weights; None where there are no values.

        It is made anew each time, in milliseconds: nothing tells of all ways to change a weight.
        """
        return _sketch([p for p in self._model.parameters() if p.device.type != "meta"])


def _sketch(
    parameters: list[nn.Parameter],
) -> tuple[tuple[float, ...] | None, str | None]:
    samples: dict[torch.device, list[Tensor]] = {}
    order: list[tuple[torch.device, int]] = []
    with torch.no_grad():
        for parameter in parameters:
            if not parameter.numel():
                continue
            flat = parameter.detach().reshape(-1)
            index = torch.linspace(0, len(flat) - 1, min(_VALUES, len(flat)), dtype=torch.float64)
            values = flat[index.round().long().to(flat.device)].to(torch.float32)
            order.append((flat.device, len(values)))
            samples.setdefault(flat.device, []).append(values)
        # One transfer for each device.
        known = {device: torch.cat(parts).cpu().numpy() for device, parts in samples.items()}
    if not order:
        return None, None
    places = dict.fromkeys(known, 0)
    pieces = []
    for device, count in order:
        pieces.append(known[device][places[device] : places[device] + count])
        places[device] += count
    values = np.concatenate(pieces).astype(np.float64)
    length = float(np.sqrt((values**2).sum()))
    if not 0 < length < np.inf:
        return None, None
    signs = np.random.default_rng(0).choice((-1.0, 1.0), size=(_SKETCH, len(values)))
    dtypes = Counter(p.dtype for p in parameters)
    sketch = tuple(float(f"{value:.6g}") for value in signs @ (values / length))
    return sketch, str(dtypes.most_common(1)[0][0]).removeprefix("torch.")


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()[:16]


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None
