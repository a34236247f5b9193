# SPDX-License-Identifier: Apache-2.0
"""Structural similarity (Wang, Bovik, Sheikh, Simoncelli: IEEE TIP 13(4), 2004), on RGB or luma.

One scale, Gaussian 11x11 windows of deviation 1.5, full windows only; the mean over pixels and then over
the three channels, as in the learned-compression literature. Other tools take luma, other windows or
padded borders, and give other values.
"""

from __future__ import annotations

import numpy as np
import torch
import typer
from numpy.typing import NDArray
from torch import Tensor

from genaccel.eval._pairs.gaussian_similarity import WINDOW_SIZE, floating_pair, similarities
from genaccel.eval._pairs.image_tensors import require_side, to_planes
from genaccel.eval._pairs.luma import LUMA_SETTING, Luma, luma_pair, luma_variant
from genaccel.eval._pairs.pair_metrics import PairedMetric, paired_command
from genaccel.eval.metrics import METRICS


def ssim(images_a: Tensor, images_b: Tensor, *, data_range: float = 255.0) -> Tensor:
    """SSIM of two batches; 1 for equal images.

    Args:
        images_a: ``[B, C, H, W]``, floating point or 8 bit; at least 11 pixels a side.
        images_b: The same shape.
        data_range: Difference between the largest and the smallest possible value.

    Returns:
        Values in [-1, 1], ``[B]``; differentiable.

    Raises:
        ValueError: If the shapes differ, or the images are smaller than a window.

    Example:
        >>> ssim(torch.zeros(2, 3, 16, 16), torch.zeros(2, 3, 16, 16))
        tensor([1., 1.])
    """
    a, b = floating_pair(images_a, images_b)
    require_side("SSIM", WINDOW_SIZE, *a.shape[2:])
    return similarities(a, b, data_range)[0].mean(1)


def ssim_of_images(original: NDArray[np.uint8], reconstruction: NDArray[np.uint8]) -> float:
    """SSIM of two 8-bit images ``[H, W, 3]``.

    Raises:
        ValueError: As :func:`ssim`.
    """
    # Variances are small differences of large squares: single precision would cost the fifth digit.
    return float(ssim(to_planes(original).double(), to_planes(reconstruction).double()))


def ssim_of_luma(original: NDArray[np.uint8], reconstruction: NDArray[np.uint8]) -> float:
    """SSIM of the luma of two images ``[H, W, 3]``, with a range of 255.

    Raises:
        ValueError: As :func:`ssim`.
    """
    planes = [torch.from_numpy(y)[None, None] for y in luma_pair(original, reconstruction)]
    return float(ssim(*planes))


@paired_command
def main(luma: Luma = False) -> PairedMetric:
    """SSIM between two folders of images, matched by file stem."""
    metric = METRICS["ssim"].metric
    return PairedMetric(
        metric=luma_variant(metric) if luma else metric,
        function=ssim_of_luma if luma else ssim_of_images,
        settings={"luma": LUMA_SETTING} if luma else {},
    )


if __name__ == "__main__":
    typer.run(main)
