# SPDX-License-Identifier: Apache-2.0
"""A plan made for one number of steps, stretched to another."""

from __future__ import annotations

import dataclasses

import numpy as np
from numpy.typing import NDArray

from genaccel.sensitivity.planning.time_windows import hat_windows
from genaccel.sensitivity.plans.plan import Plan


def stretch_steps(plan: Plan, num_inference_steps: int) -> Plan:
    """Stretch or squeeze a plan over another number of steps.

    Computed steps keep their share and their density over the run; the first one stays, and the
    last one where it was computed. What stands in for other steps is that of the nearest such step
    of the plan. The corrections of the affine forecaster are interpolated over the interval, which
    now spans more or less of the run; windows of times are made anew. Steps are taken to be spread alike over the noise levels, as
    the schedulers of diffusers spread them.

    Args:
        plan: Where to start from.
        num_inference_steps: The new number, at least 1.

    Returns:
        A plan whose fingerprint has that number. Its ``expected_error`` is None, as nothing was
        measured, and its ``flop_fraction`` an estimate from the share of the computed steps.

    Raises:
        ValueError: If the number is below 1.
    """
    new = num_inference_steps
    if new < 1:
        raise ValueError(f"num_inference_steps must be at least 1, got {new}")
    old, segments = plan.compute_mask.shape
    if new == old:
        return plan
    mask = np.zeros((new, segments), dtype=bool)
    source = np.zeros((new, segments), dtype=np.intp)  # the step of the plan that each follows
    for segment in range(segments):
        before = plan.compute_mask[:, segment]
        mask[_spread(np.flatnonzero(before), old, new), segment] = True
        source[:, segment] = _nearest(np.flatnonzero(~before), old, new)
    index = np.take_along_axis(plan.forecaster_index, source, axis=0)
    counts = plan.token_counts
    if counts is not None:
        owners = list(plan.segment_of_layer)
        layers = np.arange(len(owners))[None]
        counts = np.where(mask[:, owners][:, :, None], counts[0], counts[source[:, owners], layers])
    submodules = plan.module_mask
    if submodules is not None:
        submodules = np.take_along_axis(submodules, source, axis=0) & ~mask
    slope, intercept = plan.affine_slope, plan.affine_intercept
    if slope is not None and intercept is not None:
        width = _longest_gap(mask)
        slope = _stretch(slope, new, width, at_zero=1.0)
        intercept = _stretch(intercept, new, width, at_zero=0.0)
    times = None if plan.time_weights is None else hat_windows(mask.all(axis=1))
    share = mask.mean() / plan.compute_mask.mean()
    return dataclasses.replace(
        plan,
        fingerprint=dataclasses.replace(plan.fingerprint, num_inference_steps=new),
        compute_mask=mask,
        forecaster_index=np.where(mask, -1, index).astype(np.int8),
        module_mask=submodules,
        token_counts=counts,
        affine_slope=slope,
        affine_intercept=intercept,
        time_weights=times,
        expected_error=None,
        flop_fraction=min(1.0, float(plan.flop_fraction * share)),
    )


def _spread(computed: NDArray[np.intp], old: int, new: int) -> NDArray[np.intp]:
    """Computed steps of the new run, ascending, as dense as those of the old one."""
    ends = 2 if computed[-1] == old - 1 and new > 1 and old > 1 else 1
    count = min(new, max(ends, round(len(computed) * new / old)))
    scale = (new - 1) / max(1, old - 1)
    grid = np.linspace(0, len(computed) - 1, count)
    steps = np.rint(np.interp(grid, np.arange(len(computed)), computed * scale)).astype(np.intp)
    order = np.arange(count)
    # Apart by one at least, from below, then within the run, from above.
    steps = np.maximum.accumulate(steps - order) + order
    result: NDArray[np.intp] = np.minimum(steps, new - count + order)
    return result


def _nearest(candidates: NDArray[np.intp], old: int, new: int) -> NDArray[np.intp]:
    """For each new step the nearest of the candidates, the earlier of equals, ``[new]``."""
    if not candidates.size:
        return np.zeros(new, dtype=np.intp)
    position = np.arange(new) * ((old - 1) / max(1, new - 1))
    nearest = np.abs(position[:, None] - candidates[None]).argmin(axis=1)
    result: NDArray[np.intp] = candidates[nearest]
    return result


def _longest_gap(mask: NDArray[np.bool_]) -> int:
    """The largest age at which anything is reused, at least 1."""
    position = np.arange(len(mask))[:, None]
    last = np.maximum.accumulate(np.where(mask, position, 0), axis=0)
    return max(1, int((position - last).max()))


def _stretch(
    table: NDArray[np.float32], new: int, width: int, *, at_zero: float
) -> NDArray[np.float32]:
    """``[S, K, G, M]`` to ``[new, width, G, M]``, with ``at_zero`` for an interval of 0."""
    old, intervals = table.shape[:2]
    known = np.concatenate([np.full_like(table[:, :1], at_zero), table], axis=1)
    scale = (old - 1) / max(1, new - 1)
    step = np.rint(np.arange(new) * scale).astype(np.intp)
    interval = np.clip(np.arange(1, width + 1) * scale, 0, intervals)
    left = np.minimum(interval.astype(np.intp), intervals - 1)
    share = (interval - left)[None, :, None, None]
    stretched = known[step][:, left] * (1 - share) + known[step][:, left + 1] * share
    result: NDArray[np.float32] = stretched.astype(np.float32)
    return result
