# SPDX-License-Identifier: Apache-2.0
"""Faster, smaller generation for people who already use diffusers.

Importing the package is cheap: torch and the native library are loaded by the submodules that need them.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from genaccel.sensitivity.config import SensitivityConfig
    from genaccel.sensitivity.enable import SensitivityHandle

__version__ = "0.1.0"

__all__ = ["SensitivityConfig", "enable"]


def enable(
    target: Any, config: SensitivityConfig, *, num_inference_steps: int | None = None
) -> SensitivityHandle:
    """Accelerate a diffusers pipeline, or a model of one.

    Nothing else about them changes, and ``handle.disable()`` undoes it bit for bit.

    Args:
        target: A pipeline with a ``transformer``, or a model.
        config: What is wanted, such as ``SensitivityConfig(speedup=2.0)``.
        num_inference_steps: Steps of each run, where ``target`` is a bare model.

    Returns:
        A handle: ``paused()``, ``report()``, ``doctor()``, ``compile()``, ``disable()``.

    Raises:
        ValueError: If there is nothing to accelerate in it, or it is accelerated already.
        TypeError: If the config is none of genaccel's.
    """
    from genaccel.sensitivity.config import SensitivityConfig

    if not isinstance(config, SensitivityConfig):
        raise TypeError(f"config must be a SensitivityConfig, got {type(config).__name__}")
    from genaccel.sensitivity.enable import enable_sensitivity

    return enable_sensitivity(target, config, num_inference_steps=num_inference_steps)


def __getattr__(name: str) -> Any:
    if name == "SensitivityConfig":
        return importlib.import_module("genaccel.sensitivity.config").SensitivityConfig
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
