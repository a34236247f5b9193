# SPDX-License-Identifier: Apache-2.0
"""Luma of 8-bit images, which papers on super-resolution compare instead of colours."""

from __future__ import annotations

from typing import Annotated

import numpy as np
import typer
from numpy.typing import NDArray

from genaccel.eval._pairs.image_tensors import require_same_shape
from genaccel.eval.metrics import Metric

# ITU-R BT.601 for R, G, B in 0 to 255, with black at 16 and white at 235.
_WEIGHTS = np.array([65.481, 128.553, 24.966]) / 255.0
_BLACK = 16.0

Luma = Annotated[
    bool,
    typer.Option("--luma", help="Compare luma only: Y of BT.601, 16 to 235, as rgb2ycbcr."),
]
LUMA_SETTING = "Y of BT.601, 16 to 235, not rounded"


def luma(image: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Y of ITU-R BT.601 as MATLAB's ``rgb2ycbcr`` gives it for floating-point images, times 255.

    It is not rounded, as in BasicSR and the many papers measured with it; of 8-bit images MATLAB rounds it, which
    moves a PSNR by a few hundredths of a decibel.

    Args:
        image: sRGB ``[H, W, 3]``.

    Returns:
        ``[H, W]`` in [16, 235].

    Example:
        >>> luma(np.array([[[0, 0, 0], [255, 255, 255]]], np.uint8))
        array([[ 16., 235.]])
    """
    return image.astype(np.float64) @ _WEIGHTS + _BLACK


def luma_variant(metric: Metric) -> Metric:
    """The metric of luma, whose values are not comparable with those of colours."""
    return metric.variant("y", "Y")


def luma_pair(
    original: NDArray[np.uint8], reconstruction: NDArray[np.uint8]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Luma of two images ``[H, W, 3]``.

    Raises:
        ValueError: If the shapes differ, or the images are empty.
    """
    require_same_shape(original, reconstruction)
    if original.size == 0:
        raise ValueError(f"images must not be empty, got shape {original.shape}")
    return luma(original), luma(reconstruction)
