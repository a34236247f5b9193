# SPDX-License-Identifier: Apache-2.0
"""Multi-scale structural similarity (Wang, Simoncelli, Bovik: Asilomar 2003), on RGB.

The conventions are those of the learned-compression literature: valid windows, scales halved by 2x2
means, the product over scales taken for each channel, then the mean over channels.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
import typer
from numpy.typing import NDArray
from torch import Tensor

from genaccel.eval._pairs.gaussian_similarity import WINDOW_SIZE, floating_pair, similarities
from genaccel.eval._pairs.image_tensors import require_side, to_planes
from genaccel.eval._pairs.pair_metrics import PairedMetric, paired_command
from genaccel.eval.metrics import METRICS

# Exponents of the five scales, finest first: table in section 3.2 of the paper.
_SCALE_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)

# The coarsest scale must still hold one window.
MIN_SIDE = (WINDOW_SIZE - 1) * 2 ** (len(_SCALE_WEIGHTS) - 1) + 1


def ms_ssim(images_a: Tensor, images_b: Tensor, *, data_range: float = 255.0) -> Tensor:
    """Multi-scale SSIM of two batches; 1 for equal images.

    Args:
        images_a: ``[B, C, H, W]``, floating point or 8 bit; at least 161 pixels a side.
        images_b: The same shape.
        data_range: Difference between the largest and the smallest possible value.

    Returns:
        Values in [0, 1], ``[B]``; differentiable.

    Raises:
        ValueError: If the shapes differ, or the images are too small for five scales.
    """
    a, b = floating_pair(images_a, images_b)
    require_side("MS-SSIM", MIN_SIDE, *a.shape[2:])
    result = torch.ones(a.shape[:2], dtype=a.dtype, device=a.device)  # [B, C]
    for scale, weight in enumerate(_SCALE_WEIGHTS):
        ssim, structure = similarities(a, b, data_range)
        coarsest = scale == len(_SCALE_WEIGHTS) - 1
        # A negative mean correlation has no real root; it counts as none.
        result = result * (ssim if coarsest else structure).clamp_min(0) ** weight
        if not coarsest:
            padding = [side % 2 for side in a.shape[2:]]
            a, b = F.avg_pool2d(a, 2, padding=padding), F.avg_pool2d(b, 2, padding=padding)
    return result.mean(1)


def ms_ssim_of_images(original: NDArray[np.uint8], reconstruction: NDArray[np.uint8]) -> float:
    """Multi-scale SSIM of two 8-bit images ``[H, W, 3]``.

    Raises:
        ValueError: As :func:`ms_ssim`.
    """
    return float(ms_ssim(to_planes(original).float(), to_planes(reconstruction).float()))


@paired_command
def main() -> PairedMetric:
    """MS-SSIM between two folders of images, matched by file stem."""
    return PairedMetric(
        metric=METRICS["ms-ssim"].metric,
        function=ms_ssim_of_images,
    )


if __name__ == "__main__":
    typer.run(main)
