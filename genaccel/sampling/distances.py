# SPDX-License-Identifier: Apache-2.0
"""Distances of images: PSNR, and means of any distance over the samples of two runs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from genaccel.sampling.images import Images

Distance = Callable[[NDArray[np.uint8], NDArray[np.uint8]], float]


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
    if a.shape != b.shape:
        raise ValueError(f"images must have the same shape, got {a.shape} and {b.shape}")
    if a.size == 0:
        raise ValueError(f"images must not be empty, got shape {a.shape}")
    difference = a.astype(np.int32) - b
    mean_squared_error = float(np.mean(np.square(difference), dtype=np.float64))
    if mean_squared_error == 0:
        return float("inf")
    return 10.0 * float(np.log10(255.0**2 / mean_squared_error))


def mean_psnr(images: Images, reference: Images) -> float:
    """Mean decibels of images to others in the same order, finite also where they are equal.

    Equal images count as one value off by one among many: what 8 bits can't tell from it.

    Raises:
        ValueError: As :func:`psnr`, or if there are more of one than of the other.
    """
    pairs = zip(images, reference, strict=True)
    most = [10 * float(np.log10(255.0**2 * image.size)) for image in images]
    return float(np.mean([min(psnr(a, b), m) for (a, b), m in zip(pairs, most, strict=True)]))


@dataclass(frozen=True, slots=True)
class Closeness:
    """Distances of samples to those of another run.

    Attributes:
        psnr: Mean decibels, as :func:`mean_psnr`.
        distance: Mean of another distance; None without one.
    """

    psnr: float
    distance: float | None

    @classmethod
    def of(cls, images: Images, reference: Images, distance: Distance | None = None) -> Closeness:
        """Compare images with others in the same order.

        Raises:
            ValueError: If their numbers or shapes differ, or the distance refuses them.
        """
        return cls(
            mean_psnr(images, reference),
            None
            if distance is None
            else float(np.mean([distance(a, b) for a, b in zip(images, reference, strict=True)])),
        )
