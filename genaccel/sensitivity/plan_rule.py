# SPDX-License-Identifier: Apache-2.0
"""A plan without a measurement: parabolas through the model's outputs, at nearly equal distances.

Two steps are computed first, so that there is a slope to follow from the third on. Computed steps stand
for those around them as they would if the model's outputs had the same noise at every step.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from genaccel.hooks.director import Structure
from genaccel.sensitivity.config import SensitivityConfig
from genaccel.sensitivity.fingerprint import Fingerprint
from genaccel.sensitivity.output_plan import computed_steps
from genaccel.sensitivity.output_planner import (
    fewest_computed,
    forecast_weights,
    spread_steps,
)
from genaccel.sensitivity.plan import Plan
from genaccel.sensitivity.time_windows import quiet_shares, window_table

_ORDER = 2
_FORECASTER = f"taylor{_ORDER}"
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
        structure: How the model is built in it.
        run: It.
        config: With the target. A quality gets no plan: it would have to be measured.
        gains: Effect of an error at each step on the finished sample, ``[S]``; None where unknown.

    Returns:
        A plan of granularity "output" that reaches the speed-up, or comes as close to it as
        ``max_interval`` allows; None where no step can be skipped.
    """
    if config.speedup is None or config.has_floor:
        return None
    steps, segments = run.num_inference_steps, len(structure.segments)
    fewest = fewest_computed(steps, config.max_interval)
    asked = 0 if config.speedup == "max" else computed_steps(steps, float(config.speedup))
    best = spread_steps(steps, min(steps, max(fewest, asked)))
    if best.all():
        return None
    mask = np.repeat(best[:, None], segments, axis=1)  # [S, G]
    return Plan(
        fingerprint=run,
        compute_mask=mask,
        forecasters=(_FORECASTER,),
        forecaster_index=np.where(mask, -1, 0).astype(np.int8),
        granularity="output",
        time_weights=_windows(best, gains) if config.planner.time_windows else None,
        flop_fraction=float(best.mean()),
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
