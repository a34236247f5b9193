# SPDX-License-Identifier: Apache-2.0
"""Multi-scale structural similarity (Wang, Simoncelli, Bovik: Asilomar 2003), on RGB.

The conventions are those of the learned-compression literature: valid windows, scales halved by 2x2
means, the product over scales taken for each channel, then the mean over channels.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import torch.nn.functional as F
import typer
from numpy.typing import NDArray
from torch import Tensor

from genaccel.eval.pairs import match_folders, print_report, score_pairs

# Exponents of the five scales, finest first: table in section 3.2 of the paper.
_SCALE_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
_WINDOW_SIZE = 11
_WINDOW_DEVIATION = 1.5
_K1, _K2 = 0.01, 0.03

# The coarsest scale must still hold one window.
MIN_SIDE = (_WINDOW_SIZE - 1) * 2 ** (len(_SCALE_WEIGHTS) - 1) + 1


def _window_mean(x: Tensor) -> Tensor:
    """Gaussian mean of every full window of ``[B, C, H, W]``: ``[B, C, H - 10, W - 10]``."""
    offsets = [k - _WINDOW_SIZE // 2 for k in range(_WINDOW_SIZE)]
    taps = [math.exp(-(offset**2) / (2 * _WINDOW_DEVIATION**2)) for offset in offsets]
    # Eleven shifted sums: on a CPU many times faster than a grouped convolution.
    for dim in (2, 3):
        length = x.shape[dim] - _WINDOW_SIZE + 1
        x = sum(
            (x.narrow(dim, k, length) * (tap / sum(taps)) for k, tap in enumerate(taps)),
            x.new_zeros(()),
        )
    return x


def _similarities(a: Tensor, b: Tensor, data_range: float) -> tuple[Tensor, Tensor]:
    """Means over the image of SSIM and of its contrast-structure factor, each ``[B, C]``."""
    c1, c2 = (_K1 * data_range) ** 2, (_K2 * data_range) ** 2
    moments = _window_mean(torch.cat([a, b, a * a, b * b, a * b]))
    mean_a, mean_b, square_a, square_b, product = moments.chunk(5)
    variance_a, variance_b = square_a - mean_a.square(), square_b - mean_b.square()
    covariance = product - mean_a * mean_b
    structure = (2 * covariance + c2) / (variance_a + variance_b + c2)
    luminance = (2 * mean_a * mean_b + c1) / (mean_a.square() + mean_b.square() + c1)
    return (luminance * structure).mean((2, 3)), structure.mean((2, 3))


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
    if images_a.ndim != 4 or images_a.shape != images_b.shape:
        raise ValueError(
            "images must have the same shape [B, C, H, W], "
            f"got {list(images_a.shape)} and {list(images_b.shape)}"
        )
    height, width = images_a.shape[2:]
    if min(height, width) < MIN_SIDE:
        raise ValueError(
            f"MS-SSIM needs images of at least {MIN_SIDE}x{MIN_SIDE} pixels, got {width}x{height}"
        )
    a = images_a if images_a.is_floating_point() else images_a.float()
    b = images_b.to(a.dtype)
    result = torch.ones(a.shape[:2], dtype=a.dtype, device=a.device)  # [B, C]
    for scale, weight in enumerate(_SCALE_WEIGHTS):
        ssim, structure = _similarities(a, b, data_range)
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
    planes = [
        torch.tensor(image).permute(2, 0, 1)[None].float()  # [1, 3, H, W]
        for image in (original, reconstruction)
    ]
    return float(ms_ssim(planes[0], planes[1]))


def main(
    originals: Annotated[Path, typer.Argument(help="Folder of original images.")],
    reconstructions: Annotated[Path, typer.Argument(help="Folder of decoded images.")],
    intersect: Annotated[bool, typer.Option(help="Leave out files without a partner.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """MS-SSIM between two folders of images, matched by file stem."""
    try:
        pairs = match_folders(originals, reconstructions, intersect=intersect)
        scores = list(score_pairs(pairs, ms_ssim_of_images))
    except (ValueError, OSError) as error:
        raise typer.BadParameter(str(error)) from error
    print_report("MS-SSIM", scores, as_json=as_json)


if __name__ == "__main__":
    typer.run(main)
