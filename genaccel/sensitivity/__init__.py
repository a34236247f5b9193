# SPDX-License-Identifier: Apache-2.0
"""Acceleration of diffusion transformers by fewer block evaluations (SODA, arXiv:2603.07057).

Names are loaded on first use.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from genaccel.sensitivity.config import PlannerOptions, SensitivityConfig
    from genaccel.sensitivity.enable import SensitivityHandle, enable_sensitivity
    from genaccel.sensitivity.plans.plan import Plan

_MODULES = {
    "Plan": "plans.plan",
    "PlannerOptions": "config",
    "SensitivityConfig": "config",
    "SensitivityHandle": "enable",
    "enable_sensitivity": "enable",
}

__all__ = ["Plan", "PlannerOptions", "SensitivityConfig", "SensitivityHandle", "enable_sensitivity"]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)
