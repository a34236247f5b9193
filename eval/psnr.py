# SPDX-License-Identifier: Apache-2.0
"""Peak signal-to-noise ratio of 8-bit RGB images."""

from __future__ import annotations

import numpy as np
import typer
from numpy.typing import ArrayLike

from genaccel.eval._pairs.image_tensors import require_same_shape
from genaccel.eval._pairs.pair_metrics import PairedMetric, paired_command
from genaccel.eval.metrics import METRICS


def psnr(original: ArrayLike, reconstruction: ArrayLike) -> float:
    """PSNR in decibels over all pixels and channels; infinity for equal images.

    Args:
        original: 8-bit image of any shape; an array or a tensor on the CPU.
        reconstruction: 8-bit image of the same shape.

    Raises:
        TypeError: If an image is not of type uint8: rounding is part of what is measured.
        ValueError: If the shapes differ or the images are empty.

    Example:
        >>> psnr(np.zeros((8, 8, 3), np.uint8), np.full((8, 8, 3), 255, np.uint8))
        0.0
    """
    a, b = np.asarray(original), np.asarray(reconstruction)
    for name, image in (("original", a), ("reconstruction", b)):
        if image.dtype != np.uint8:
            raise TypeError(f"{name} must be of type uint8, got {image.dtype}")
    require_same_shape(a, b)
    if a.size == 0:
        raise ValueError(f"images must not be empty, got shape {a.shape}")
    difference = a.astype(np.int32) - b
    mean_squared_error = float(np.mean(np.square(difference), dtype=np.float64))
    if mean_squared_error == 0:
        return float("inf")
    return 10.0 * float(np.log10(255.0**2 / mean_squared_error))


@paired_command
def main() -> PairedMetric:
    """PSNR in dB between two folders of images, matched by file stem."""
    return PairedMetric(metric=METRICS["psnr"].metric, function=psnr)


if __name__ == "__main__":
    typer.run(main)
