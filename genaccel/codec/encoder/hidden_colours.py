# SPDX-License-Identifier: Apache-2.0
"""Colours that nobody sees, under pixels that are transparent altogether: smooth ones cost the fewest bits."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

_CELL = 8  # pixels a side that share a colour


def fill_hidden(image: NDArray[np.uint8], alpha: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The image with the mean of what is seen around in the place of what is hidden.

    Args:
        image: uint8 ``[H, W, 3]``; it is not changed.
        alpha: uint8 ``[H, W]``; where it is 0 a pixel is hidden.
    """
    is_seen = alpha > 0
    if is_seen.all():
        return image
    counts = _sums(is_seen, _CELL)
    colours = np.stack(
        [_sums(np.where(is_seen, channel, 0), _CELL) for channel in np.moveaxis(image, -1, 0)], -1
    )
    means = _means(colours.astype(np.float64), counts.astype(np.float64))
    filled = image.copy()
    shades = means.round().astype(np.uint8).repeat(_CELL, 1)[:, : image.shape[1]]
    for row, shade in enumerate(shades):
        band = slice(row * _CELL, (row + 1) * _CELL)
        np.copyto(filled[band], shade, where=~is_seen[band, :, None])
    return filled


def _means(sums: NDArray[np.float64], counts: NDArray[np.float64]) -> NDArray[np.float64]:
    """Mean colours ``[h, w, 3]`` of cells; of those without pixels, that of the least square around that has some."""
    means = sums / np.maximum(counts, 1)[..., None]
    if counts.size > 1 and not counts.all():
        channels = [_sums(channel, 2) for channel in np.moveaxis(sums, -1, 0)]
        coarse = _means(np.stack(channels, -1), _sums(counts, 2))
        around = coarse.repeat(2, 0).repeat(2, 1)[: counts.shape[0], : counts.shape[1]]
        means = np.where(counts[..., None] > 0, means, around)
    return means


def _sums(values: NDArray[Any], side: int) -> NDArray[Any]:
    """Sums ``[ceil(H / side), ceil(W / side)]`` over squares."""
    kind = np.float64 if values.dtype.kind == "f" else np.int32
    rows = np.add.reduceat(values, range(0, values.shape[0], side), 0, dtype=kind)
    sums: NDArray[Any] = np.add.reduceat(rows, range(0, values.shape[1], side), 1, dtype=kind)
    return sums
