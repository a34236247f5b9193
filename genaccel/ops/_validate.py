# SPDX-License-Identifier: Apache-2.0
"""Checks of operator arguments: TypeError for the wrong kind, ValueError for the wrong shape or value."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

FLOATING_DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


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


def require_floating_tensor(name: str, value: object) -> None:
    """Raise TypeError unless ``value`` is a tensor of one of the four float types."""
    if not isinstance(value, Tensor):
        raise TypeError(f"{name} must be a tensor, got {type(value).__name__}")
    if value.dtype not in FLOATING_DTYPES:
        raise TypeError(f"{name} must be float16, bfloat16, float32 or float64, got {value.dtype}")


def require_dtype(name: str, value: object, dtype: torch.dtype) -> None:
    """Raise TypeError unless ``value`` is a tensor of this dtype."""
    if not isinstance(value, Tensor):
        raise TypeError(f"{name} must be a tensor, got {type(value).__name__}")
    if value.dtype != dtype:
        raise TypeError(f"{name} must be {dtype}, got {value.dtype}")


def require_shape(name: str, value: Tensor, shape: Sequence[int]) -> None:
    """Raise ValueError unless ``value`` has exactly this shape."""
    if tuple(value.shape) != tuple(shape):
        raise ValueError(f"{name} must have shape {tuple(shape)}, got {tuple(value.shape)}")


def require_int(name: str, value: object) -> None:
    """Raise TypeError unless ``value`` is an int, and no bool."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} must be an int, got {type(value).__name__}")


def require_no_gradient(op: str, **tensors: Tensor) -> None:
    """Raise ValueError where a gradient would be lost: ``op`` has none."""
    if torch.is_grad_enabled():
        for name, tensor in tensors.items():
            if tensor.requires_grad:
                raise ValueError(
                    f"{name} requires a gradient, but {op} has none: call it under torch.no_grad()"
                )
