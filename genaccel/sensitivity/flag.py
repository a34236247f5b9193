# SPDX-License-Identifier: Apache-2.0
"""Reads the flag ``accelerate="soda:..."`` of a pipeline call."""

from __future__ import annotations

import re

from genaccel.sensitivity.config import SensitivityConfig

_DEFAULT_SPEEDUP = 2.0


def config_from_text(text: str) -> SensitivityConfig:
    """Make the config of a flag's value.

    Args:
        text: A speed-up, "max", or nothing for the default.

    Raises:
        ValueError: If it is something else.

    Example:
        >>> config_from_text("3").speedup
        3.0
    """
    if not text:
        return SensitivityConfig(speedup=_DEFAULT_SPEEDUP)
    if text == "max":
        return SensitivityConfig(speedup="max")
    if not re.fullmatch(r"\d+(?:\.\d*)?", text) or not float(text) > 1:
        raise ValueError('a speedup is a number above 1, or "max"')
    return SensitivityConfig(speedup=float(text))
