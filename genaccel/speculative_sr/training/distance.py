# SPDX-License-Identifier: Apache-2.0
"""Distance of an estimate from the good picture: the loss of super-resolution."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from torch import Tensor
from torch.nn import functional

from genaccel.models.st_lpips import StLpips
from genaccel.training.options import AT_LEAST_0, AT_LEAST_1, SHARE_ABOVE_0, Option, check


@dataclass(frozen=True, kw_only=True, slots=True)
class DistanceConfig:
    """Weights of the terms, on pictures in [-1, 1].

    Args:
        pixel: Distance of pixels: the mean of absolute differences, l1, or of squared ones, l2 as published.
        perceptual_weight: Weight of ST-LPIPS beside that of pixels, which has 1.
        perceptual_net: Trunk of ST-LPIPS.
        perceptual_size: Side of the window of each tile that ST-LPIPS sees; its network costs more than ours.
        perceptual_fraction: Share of the tiles that it sees.
    """

    pixel: Annotated[Literal["l1", "l2"], Option(name="pixel_distance")] = "l1"
    perceptual_weight: Annotated[float, Option(), AT_LEAST_0] = 0.0
    perceptual_net: Annotated[Literal["alex", "vgg"], Option()] = "alex"
    perceptual_size: Annotated[int, AT_LEAST_1] = 64
    perceptual_fraction: Annotated[float, Option(), SHARE_ABOVE_0] = 0.5

    def __post_init__(self) -> None:
        check(self)


class Distance:
    """The weighted sum and its parts.

    Args:
        config: Weights of the terms.
        device: Where the perceptual distance's network runs.

    Raises:
        FileNotFoundError: If that network's weights are not installed.
    """

    def __init__(self, config: DistanceConfig, *, device: torch.device) -> None:
        self._config = config
        self._metric: StLpips | None = None
        if config.perceptual_weight > 0:
            metric = StLpips.from_pretrained(config.perceptual_net)
            self._metric = metric.to(device).to(memory_format=torch.channels_last)

    def __call__(
        self, estimate: Tensor, high: Tensor, generator: torch.Generator
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Scalar loss of estimates of ``high`` ``[B, 3, H, W]``, in [-1, 1], and its parts by name, unweighted.

        Args:
            estimate: Of that shape.
            high: The good pictures.
            generator: On the CPU; chooses what the perceptual distance sees.
        """
        config = self._config
        compare = functional.l1_loss if config.pixel == "l1" else functional.mse_loss
        loss = compare(estimate.float(), high)
        parts: dict[str, Tensor] = {config.pixel: loss}
        if self._metric is not None:
            count = max(1, round(config.perceptual_fraction * len(high)))
            chosen = torch.randperm(len(high), generator=generator)[:count].tolist()
            side = min(config.perceptual_size, *high.shape[2:])
            windows = []
            for tile in chosen:
                top, left = (
                    int(torch.randint(extent - side + 1, (), generator=generator))
                    for extent in high.shape[2:]
                )
                windows.append((tile, slice(top, top + side), slice(left, left + side)))
            made, wanted = (
                torch.stack([pictures[tile, :, rows, columns] for tile, rows, columns in windows])
                for pictures in (estimate, high)
            )
            parts["perceptual"] = self._metric(made, wanted).float().mean()
            loss = loss + config.perceptual_weight * parts["perceptual"]
        return loss, parts
