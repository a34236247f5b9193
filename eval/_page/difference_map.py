# SPDX-License-Identifier: Apache-2.0
"""Where two images differ, as a picture with a scale."""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray
from PIL import Image

# From black over violet and orange to pale yellow: ordered by lightness, so it is also read without its colours.
# Nine colours of matplotlib's inferno.
SCALE_COLOURS = (
    (0, 0, 4), (31, 12, 72), (85, 15, 109), (136, 34, 106), (186, 54, 85),
    (227, 89, 51), (249, 140, 10), (249, 201, 50), (252, 255, 164),
)  # fmt: skip

_MAX_AMPLIFICATION = 64


def differences(original: NDArray[np.uint8], result: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Absolute difference of two images ``[H, W, 3]``, the largest of the three channels: ``[H, W]``."""
    # Without a wider type: what is larger minus what is smaller.
    larger, smaller = np.maximum(original, result), np.minimum(original, result)
    return np.asarray((larger - smaller).max(axis=2))


def peak_of(differences: NDArray[np.uint8]) -> float:
    """The difference that 1 % of the pixels of a map exceed."""
    return float(np.percentile(differences, 99))


def amplification_for(peaks: Iterable[float]) -> int:
    """The largest power of two, up to 64, that takes the highest of the peaks to at most 255."""
    highest = max(peaks, default=0.0)
    if highest < 1:
        return _MAX_AMPLIFICATION
    return min(_MAX_AMPLIFICATION, 1 << math.floor(math.log2(255 / highest)))


def coloured(differences: NDArray[np.uint8], amplification: int) -> Image.Image:
    """A map ``[H, W]`` in the colours of the scale, whose end stands for ``255 / amplification`` and more."""
    levels = np.linspace(0, 255, len(SCALE_COLOURS))
    table = np.stack(
        [np.interp(np.arange(256), levels, channel) for channel in np.transpose(SCALE_COLOURS)], 1
    )
    amplified = np.minimum(differences.astype(np.uint16) * amplification, 255)
    return Image.fromarray(np.round(table).astype(np.uint8)[amplified])
