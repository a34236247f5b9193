# SPDX-License-Identifier: Apache-2.0
"""Fewer block evaluations in a diffusion transformer (SODA, arXiv:2603.07057).

Names are loaded on first use.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from genaccel.sensitivity.calibration_moments import CalibrationMoments
    from genaccel.sensitivity.fingerprint import Fingerprint, config_digest
    from genaccel.sensitivity.forecast import Affine, Forecaster, Reuse, Taylor
    from genaccel.sensitivity.interpolate import interpolate_steps
    from genaccel.sensitivity.plan import Plan
    from genaccel.sensitivity.pruning import PruningConfig, PruningPlan, plan_pruning
    from genaccel.sensitivity.schedule import Schedule, ScheduleConfig, solve_schedule
    from genaccel.sensitivity.segment_schedule import solve_segment_schedules

_MODULES = {
    "Affine": "forecast",
    "CalibrationMoments": "calibration_moments",
    "Fingerprint": "fingerprint",
    "Forecaster": "forecast",
    "Plan": "plan",
    "PruningConfig": "pruning",
    "PruningPlan": "pruning",
    "Reuse": "forecast",
    "Schedule": "schedule",
    "ScheduleConfig": "schedule",
    "Taylor": "forecast",
    "config_digest": "fingerprint",
    "interpolate_steps": "interpolate",
    "plan_pruning": "pruning",
    "solve_schedule": "schedule",
    "solve_segment_schedules": "segment_schedule",
}

__all__ = [
    "Affine",
    "CalibrationMoments",
    "Fingerprint",
    "Forecaster",
    "Plan",
    "PruningConfig",
    "PruningPlan",
    "Reuse",
    "Schedule",
    "ScheduleConfig",
    "Taylor",
    "config_digest",
    "interpolate_steps",
    "plan_pruning",
    "solve_schedule",
    "solve_segment_schedules",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)
