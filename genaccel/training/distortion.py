# SPDX-License-Identifier: Apache-2.0
"""Distortion of a reconstruction: the loss of the autoencoder without rate and adversary (RDVQ, equation 13)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from torch import Tensor

from genaccel.models.autoencoder import AutoencoderOutput
from genaccel.models.st_lpips import StLpips
from genaccel.training.options import AT_LEAST_0, SHARE_ABOVE_0, Option, check

# Periods along a side of the window in which a repeating error is looked for. Fewer, and the picture's own
# errors weigh in; more, and a pattern that changes with the picture's colours averages out.
_GRID_WINDOW = 8


def grid_error(error: Tensor, period: int) -> Tensor:
    """Power of what repeats in an error with the decoder's stride: the visible grid of upsampling.

    Its amplitude is a few grey levels, so the mean squared error hardly counts it, and ST-LPIPS, which
    blurs before it subsamples, does not see it; eyes do, on plain surfaces.

    Args:
        error: Reconstruction minus image, ``[B, C, H, W]``.
        period: Pixels after which the decoder repeats itself.

    Returns:
        Mean square, over windows of up to 8x8 periods, of the error's mean at each place within the
        period, less the window's mean. 0 for images smaller than a period.
    """
    rows, columns = error.shape[2] // period, error.shape[3] // period
    if min(rows, columns) == 0:
        return error.new_zeros(())
    down, across = min(rows, _GRID_WINDOW), min(columns, _GRID_WINDOW)
    height, width = rows // down * down * period, columns // across * across * period
    cells = error[:, :, :height, :width].unflatten(3, (-1, across, period))
    cells = cells.unflatten(
        2, (-1, down, period)
    )  # [B, C, window, down, period, window, across, period]
    pattern = cells.mean((3, 6))  # [B, C, window, period, window, period]
    return (pattern - pattern.mean((3, 5), keepdim=True)).square().mean()


@dataclass(frozen=True, kw_only=True, slots=True)
class DistortionWeights:
    """Weights of the terms, on images in [-1, 1].

    Args:
        mse: Weight of the mean squared error.
        grid: Weight of :func:`grid_error`, errors that repeat with the decoder's stride, which is ours.
        perceptual: Weight of ST-LPIPS.
        perceptual_net: Trunk of ST-LPIPS, or "none".
        perceptual_fraction: Share of the crops that ST-LPIPS sees.
        codebook: Code words towards features; without effect on a frozen codebook.
        commitment: Features towards code words.
    """

    mse: Annotated[float, Option(name="mse_weight"), AT_LEAST_0] = 1.0
    grid: Annotated[float, Option(name="grid_weight"), AT_LEAST_0] = 100.0
    perceptual: Annotated[float, Option(name="perceptual_weight"), AT_LEAST_0] = 1.0
    perceptual_net: Annotated[Literal["alex", "vgg", "none"], Option()] = "alex"
    perceptual_fraction: Annotated[float, Option(), SHARE_ABOVE_0] = 0.5
    codebook: Annotated[float, AT_LEAST_0] = 1.0
    commitment: Annotated[float, AT_LEAST_0] = 0.25

    def __post_init__(self) -> None:
        check(self)


class Distortion:
    """The weighted sum and its parts.

    Args:
        weights: Of the terms.
        period: Pixels after which the decoder repeats itself: its finest stride.
        device: Where the perceptual metric's network runs.

    Raises:
        FileNotFoundError: If that network's weights are not installed.
    """

    def __init__(
        self, weights: DistortionWeights, *, period: int, device: torch.device | str
    ) -> None:
        self.weights = weights
        self._period = period
        self._metric: StLpips | None = None
        if weights.perceptual_net != "none" and weights.perceptual > 0:
            metric = StLpips.from_pretrained(weights.perceptual_net)
            self._metric = metric.to(device).to(memory_format=torch.channels_last)

    def __call__(
        self, output: AutoencoderOutput, x: Tensor, *, perceptual: bool = True
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Scalar loss of images ``x`` ``[B, 3, H, W]`` and its parts by name, unweighted.

        Args:
            output: Of the autoencoder for ``x``.
            x: In [-1, 1].
            perceptual: Whether the perceptual term joins.
        """
        weights = self.weights
        reconstruction = output.reconstruction.float()
        parts = {
            "mse": torch.nn.functional.mse_loss(reconstruction, x),
            "grid": grid_error(reconstruction - x, self._period),
            "codebook": output.codebook_loss.float(),
            "commitment": output.commitment_loss.float(),
        }
        loss = (
            weights.mse * parts["mse"]
            + weights.grid * parts["grid"]
            + weights.codebook * parts["codebook"]
            + weights.commitment * parts["commitment"]
        )
        if self._metric is not None and perceptual:
            # The metric network costs more than the codec: part of the crops gives the same mean gradient.
            count = max(1, round(weights.perceptual_fraction * x.shape[0]))
            distance = self._metric(reconstruction[:count], x[:count])
            parts["perceptual"] = distance.float().mean()
            loss = loss + weights.perceptual * parts["perceptual"]
        return loss, parts
