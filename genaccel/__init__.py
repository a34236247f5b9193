# SPDX-License-Identifier: Apache-2.0
"""Faster, smaller generation for people who already use diffusers.

Importing the package is cheap: torch and the native library are loaded by the submodules that need them.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from genaccel.acceleration import disable, enable, is_enabled
    from genaccel.files.images import read_image
    from genaccel.sensitivity.config import PlannerOptions, SensitivityConfig
    from genaccel.skip_decoding.config import SkipDecodingConfig

__version__ = "0.1.0"

_HOMES = {
    "PlannerOptions": "genaccel.sensitivity.config",
    "SensitivityConfig": "genaccel.sensitivity.config",
    "SkipDecodingConfig": "genaccel.skip_decoding.config",
    "disable": "genaccel.acceleration",
    "enable": "genaccel.acceleration",
    "is_enabled": "genaccel.acceleration",
    "read_image": "genaccel.files.images",
}

__all__ = [
    "PlannerOptions",
    "SensitivityConfig",
    "SkipDecodingConfig",
    "disable",
    "enable",
    "is_enabled",
    "read_image",
]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
