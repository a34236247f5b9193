# SPDX-License-Identifier: Apache-2.0
"""8-bit images as tensors, and the sentences for images that a metric cannot compare."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


def to_planes(image: NDArray[np.uint8]) -> Tensor:
    """``[H, W, 3]`` as ``[1, 3, H, W]``, still of 8 bits."""
    return torch.tensor(image).permute(2, 0, 1)[None]


def to_unit_range(image: NDArray[np.uint8]) -> Tensor:
    """An 8-bit image ``[H, W, 3]`` as ``[1, 3, H, W]`` in [-1, 1]."""
    return to_planes(image).float() / 127.5 - 1.0


def require_same_shape(original: NDArray[Any], reconstruction: NDArray[Any]) -> None:
    """Refuse two images of different shapes.

    Raises:
        ValueError: If they differ.
    """
    if original.shape != reconstruction.shape:
        raise ValueError(
            f"images must have the same shape, got {original.shape} and {reconstruction.shape}"
        )


def require_side(title: str, smallest: int, height: int, width: int) -> None:
    """Refuse images that are smaller than the window or the network of a metric, by its title.

    Raises:
        ValueError: If a side has fewer than ``smallest`` pixels.
    """
    if min(height, width) < smallest:
        raise ValueError(
            f"{title} needs images of at least {smallest}x{smallest} pixels, got {width}x{height}"
        )
