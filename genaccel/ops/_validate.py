# SPDX-License-Identifier: Apache-2.0
"""Checks of operator arguments: TypeError for the wrong kind, ValueError for the wrong shape or value."""

from __future__ import annotations

import torch
from torch import Tensor


def require_float_tensor(name: str, value: object) -> None:
    """Raise TypeError unless ``value`` is a float32 or float64 tensor."""
    if not isinstance(value, Tensor):
        raise TypeError(f"{name} must be a tensor, got {type(value).__name__}")
    if value.dtype not in (torch.float32, torch.float64):
        raise TypeError(f"{name} must be float32 or float64, got {value.dtype}")


def require_dimensions(name: str, value: Tensor, dimensions: int) -> None:
    """Raise ValueError unless ``value`` has so many dimensions."""
    if value.ndim != dimensions:
        raise ValueError(
            f"{name} must have {dimensions} dimensions, got shape {tuple(value.shape)}"
        )


def require_same_kind(name: str, value: Tensor, other_name: str, other: Tensor) -> None:
    """Raise unless both tensors have one dtype (TypeError) and one device (ValueError)."""
    if value.dtype != other.dtype:
        raise TypeError(f"{name} must be {other.dtype} as {other_name} is, got {value.dtype}")
    if value.device != other.device:
        raise ValueError(f"{name} must be on {other.device} as {other_name} is, got {value.device}")
