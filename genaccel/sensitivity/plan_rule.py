# SPDX-License-Identifier: Apache-2.0
"""A plan without a measurement: quadratic forecasts of the model's output at a fixed interval.

Of the fixed schedules that the ablation of ``bench/soda.py`` compares it is the best: two steps are
computed first, so that there is a slope to follow from the third on, and then one in so many.
"""

from __future__ import annotations

import numpy as np

from genaccel.hooks.director import Structure
from genaccel.sensitivity.config import SensitivityConfig
from genaccel.sensitivity.fingerprint import Fingerprint
from genaccel.sensitivity.output_plan import computed_steps
from genaccel.sensitivity.output_planner import fewest_computed, spread_steps
from genaccel.sensitivity.plan import Plan
from genaccel.sensitivity.time_windows import hat_windows

_FORECASTER = "taylor2"


def plan_by_rule(structure: Structure, run: Fingerprint, config: SensitivityConfig) -> Plan | None:
    """The plan of a run that nobody measured.

    Args:
        structure: How the model is built in it.
        run: It.
        config: With the target. A quality gets no plan: it would have to be measured.

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
        time_weights=hat_windows(best),
        flop_fraction=float(best.mean()),
    )
