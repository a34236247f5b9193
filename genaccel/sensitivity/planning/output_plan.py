# SPDX-License-Identifier: Apache-2.0
"""Plans that forecast the model's output at the steps that are not computed, and windows of times for the others."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from genaccel.sensitivity.config import SensitivityConfig, computed_steps
from genaccel.sensitivity.planning.output_planner import plan_outputs
from genaccel.sensitivity.planning.planner import Measurements
from genaccel.sensitivity.plans.plan import Plan

# A plan slower by this is what was asked for.
_SLACK = 0.03


def output_plan(measured: Measurements, config: SensitivityConfig, *, speedup: float) -> Plan:
    """The plan of outputs for a speed-up.

    Args:
        measured: Measurements, with the inner products of outputs.
        config: The config, whose largest interval counts.
        speedup: FLOPs without acceleration over those with it; infinite for the most there is.

    Raises:
        ValueError: If outputs were not measured, no step can be left out, or the speed-up is out of
            reach.
    """
    if measured.outputs is None:
        raise ValueError("the model's outputs were not measured: calibrate anew")
    gram = measured.outputs.gram
    begin, end = _called(gram)
    steps = end - begin
    count = computed_steps(steps, speedup, config.max_interval)
    if not math.isinf(speedup) and steps / count < speedup * (1 - _SLACK):
        raise ValueError(
            f"a speed-up of {speedup:g} is out of reach: with {count} of {steps} steps computed, the first "
            f"two and what max_interval wants, {steps / count:.3g} is the most"
        )
    if count >= steps:
        raise ValueError(f"a run of {steps} steps has none to leave out at {speedup:g}x")
    gains = None if measured.gains is None else measured.gains[begin:end]
    found = plan_outputs(
        gram[begin:end, begin:end],
        gains,
        count=count,
        max_interval=config.max_interval,
        has_windows=measured.takes_windows and config.planner.time_windows,
    )
    return plan_of_choice(measured, found.computed, found.orders, found.time_weights, begin=begin)


def plan_of_choice(
    measured: Measurements,
    computed: NDArray[np.bool_],
    orders: NDArray[np.intp],
    time_weights: NDArray[np.float32] | None,
    *,
    begin: int = 0,
) -> Plan:
    """Make a plan of a choice of steps, polynomials and windows.

    Args:
        measured: Measurements of the run that the plan is for.
        computed: Steps that are computed, ``[S]``.
        orders: Degree of the polynomial that forecasts each other one, ``[S]``.
        time_weights: As in the plan, for these steps, or None.
        begin: Index in the run of the first of these S steps; the run computes all others.
    """
    steps = measured.fingerprint.num_inference_steps
    segments = len(measured.segment_flops)
    names = ("reuse", "taylor1", "taylor2")
    row = np.ones(steps, dtype=bool)
    index = np.full(steps, -1, dtype=np.int8)
    row[begin : begin + len(computed)] = computed
    index[begin : begin + len(computed)] = np.where(computed, -1, orders)
    weights = None
    if time_weights is not None:
        half = time_weights.shape[1] // 2
        weights = np.zeros((steps, time_weights.shape[1]), dtype=np.float32)
        weights[:, half] = row  # its own time
        weights[begin : begin + len(computed)] = time_weights
    return Plan(
        fingerprint=measured.fingerprint,
        compute_mask=np.repeat(row[:, None], segments, axis=1),
        forecasters=names,
        forecaster_index=np.repeat(index[:, None], segments, axis=1),
        granularity="output",
        time_weights=weights,
        flop_fraction=float(computed.mean()),
    )


def _called(gram: NDArray[np.float64]) -> tuple[int, int]:
    """First step at which the model was called, and the one after the last."""
    called = np.flatnonzero(np.diagonal(gram) > 0)
    return (0, len(gram)) if not called.size else (int(called[0]), int(called[-1]) + 1)
