# SPDX-License-Identifier: Apache-2.0
"""Peak signal-to-noise ratio of 8-bit images, in RGB or in luma."""

from __future__ import annotations

import math
from collections.abc import Collection

import numpy as np
import typer
from numpy.typing import NDArray

from genaccel.eval._pairs.luma import LUMA_SETTING, Luma, luma_pair, luma_variant
from genaccel.eval._pairs.pair_metrics import PairedMetric, paired_command
from genaccel.eval.metrics import METRICS
from genaccel.sampling.distances import psnr

__all__ = ["main", "psnr", "psnr_of_luma", "psnr_of_mean_error"]

_PEAK = 255.0


def psnr_of_luma(original: NDArray[np.uint8], reconstruction: NDArray[np.uint8]) -> float:
    """PSNR in decibels of the luma of two images ``[H, W, 3]``, with a peak of 255; infinity for equal luma.

    Raises:
        ValueError: If the shapes differ or the images are empty.

    Example:
        >>> black, white = np.zeros((8, 8, 3), np.uint8), np.full((8, 8, 3), 255, np.uint8)
        >>> round(psnr_of_luma(black, white), 4)  # 20 log10(255 / 219)
        1.3219
    """
    a, b = luma_pair(original, reconstruction)
    error = float(np.mean(np.square(a - b)))
    return math.inf if error == 0 else 10.0 * math.log10(_PEAK**2 / error)


def psnr_of_mean_error(values: Collection[float]) -> float:
    """PSNR of the mean over images of their mean squared errors: finite unless all images are equal.

    Args:
        values: Decibels of each image.

    Example:
        >>> round(psnr_of_mean_error([30.0, math.inf]), 4)  # half the error
        33.0103
    """
    error = math.fsum(10.0 ** (-value / 10.0) for value in values) / len(values)
    return math.inf if error == 0 else -10.0 * math.log10(error)


@paired_command
def main(luma: Luma = False) -> PairedMetric:
    """PSNR in dB between two folders of images, matched by file stem."""
    metric = METRICS["psnr"].metric
    return PairedMetric(
        metric=luma_variant(metric) if luma else metric,
        function=psnr_of_luma if luma else psnr,
        settings={"luma": LUMA_SETTING} if luma else {},
        pooled={"psnr_of_mean_error": psnr_of_mean_error},
    )


if __name__ == "__main__":
    typer.run(main)
