# SPDX-License-Identifier: Apache-2.0
"""PS-SR: super-resolution with one strong step, cheap speculative drafts, and only high frequencies let through.

Names are loaded on first use.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from genaccel.speculative_sr.blending import Layers, blend, split_layers

__all__ = ["Layers", "blend", "split_layers"]

_MODULES = {"Layers": "blending", "blend": "blending", "split_layers": "blending"}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)
