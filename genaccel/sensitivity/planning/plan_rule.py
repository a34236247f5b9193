# SPDX-License-Identifier: Apache-2.0
"""A plan without a measurement: parabolas through the model's outputs, at nearly equal distances.

Two steps are computed first, so that there is a slope to follow from the third on. Computed steps stand
for those around them as they would if the model's outputs had the same noise at every step.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from genaccel.hooks.director import Structure
from genaccel.sensitivity.config import SensitivityConfig, computed_steps
from genaccel.sensitivity.planning.output_planner import forecast_weights, spread_steps
from genaccel.sensitivity.planning.time_windows import quiet_shares, window_table
from genaccel.sensitivity.plans.fingerprint import Fingerprint
from genaccel.sensitivity.plans.plan import Plan

_ORDER = 2
_FORECASTER = f"taylor{_ORDER}"
# Where few steps are computed they are far apart.
_FORECASTER_OF_SEGMENTS = "taylor1"
# Of what the smooth part of an output changes by in a step over its noise: windows must not move steps in time.
_DRIFT = 2.0


def plan_by_rule(
    structure: Structure,
    run: Fingerprint,
    config: SensitivityConfig,
    *,
    gains: NDArray[np.float64] | None = None,
) -> Plan | None:
    """The plan of a run that nobody measured.

    Args:
        structure: How the model is built in the run.
        run: Fingerprint of the run.
        config: The config with the target. A quality gets no plan: it would have to be measured.
        gains: Effect of an error at each step on the finished sample, ``[S]``; None where unknown.

    Returns:
        A plan of outputs, or of segments where few steps are computed, that reaches the speed-up or
        comes as close to it as ``max_interval`` allows; None where no step can be skipped.
    """
    if config.speedup is None or config.has_floor:
        return None
    steps, segments = run.num_inference_steps, len(structure.segments)
    count = computed_steps(steps, config.speedup, config.max_interval)
    best = spread_steps(steps, count)
    if best.all():
        return None
    mask = np.repeat(best[:, None], segments, axis=1)  # [S, G]
    is_of_outputs = config.for_steps(steps).granularity == "output"
    windows = None
    if is_of_outputs and config.planner.time_windows:
        windows = _windows(best, gains)
    # Segments leave what is around them to be computed.
    rest = 0.0
    if not is_of_outputs:
        rest = 1 - sum(s.flops for s in structure.segments) / max(1, structure.total_flops)
    return Plan(
        fingerprint=run,
        compute_mask=mask,
        forecasters=(_FORECASTER if is_of_outputs else _FORECASTER_OF_SEGMENTS,),
        forecaster_index=np.where(mask, -1, 0).astype(np.int8),
        granularity="output" if is_of_outputs else "segment",
        time_weights=windows,
        flop_fraction=float(best.mean() + (1 - best.mean()) * rest),
    )


def _windows(computed: NDArray[np.bool_], gains: NDArray[np.float64] | None) -> NDArray[np.float32]:
    steps = len(computed)
    even = np.ones(steps)
    shares = quiet_shares(
        computed,
        forecast_weights(computed, _ORDER),
        even if gains is None else gains,
        even,
        _DRIFT * even,
    )
    return window_table(shares)
