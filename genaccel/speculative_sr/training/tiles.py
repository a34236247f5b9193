# SPDX-License-Identifier: Apache-2.0
"""What super-resolution is trained on: tiles of photographs and what the degradation left of them."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from genaccel.data.image_folder import RandomCropDataset
from genaccel.models.st_lpips import StLpips
from genaccel.speculative_sr.degradation import Degradation, DegradationConfig
from genaccel.speculative_sr.networks import TOKEN_SIDE
from genaccel.training.crops import CropBatches, CropConfig
from genaccel.training.loop import PathLike

# What is done to held-out tiles has a stream of its own, the same in every run.
_HELD_OUT_SEED = 1 << 32
_HELD_OUT_TILES = 16

# A small picture ``[B, 3, h, w]`` to the estimates of the good one ``[B, 3, 4 h, 4 w]`` by name, all in [-1, 1].
Estimator = Callable[[Tensor], dict[str, Tensor]]


class Tiles:
    """A numbered stream of good and degraded tiles.

    Args:
        data: Folder of images.
        crops: Which tiles of them.
        degradation: What is done to them.
        seed: Of the stream.
        stride: From the first number of a batch to that of the next one asked for; with workers only.
        num_workers: Processes that prepare the tiles; with 0, they are made when they are asked for.
        device: Where they are degraded.

    Raises:
        ValueError: If the tiles' side is no multiple of 8, or at least 32.
    """

    def __init__(
        self,
        data: PathLike,
        crops: CropConfig,
        degradation: DegradationConfig,
        *,
        seed: int,
        device: torch.device,
        stride: int = 0,
        num_workers: int = 0,
    ) -> None:
        if crops.crop_size % TOKEN_SIDE or crops.crop_size < 4 * TOKEN_SIDE:
            raise ValueError(
                f"crop_size must be a multiple of {TOKEN_SIDE} and at least {4 * TOKEN_SIDE}, got {crops.crop_size}"
            )
        dataset = crops.dataset(data, seed=seed)
        self._crops = CropBatches(dataset, stride=stride, num_workers=num_workers)
        self._degrade = Degradation(degradation, seed=seed)
        self._device = device

    def __call__(self, numbers: range) -> tuple[Tensor, Tensor]:
        """Degraded tiles ``[B, 3, S / 4, S / 4]`` and good ones ``[B, 3, S, S]``, in [-1, 1]."""
        high = self._crops(numbers).to(self._device)
        return degraded(high, numbers, self._degrade), high


def degraded(high: Tensor, numbers: range, degrade: Degradation) -> Tensor:
    """Small pictures of ``high`` ``[B, 3, S, S]``, in [-1, 1] as they are."""
    pairs = zip(high, numbers, strict=True)
    return torch.stack([degrade(picture / 2 + 0.5, number) for picture, number in pairs]) * 2 - 1


class HeldOut:
    """Measures estimates of tiles that nothing is trained on, always the same ones.

    Args:
        data: Folder of held-out images.
        crop_size: Side of the tiles in pixels.
        degradation: What is done to them.
        log: File to which each measure adds a line.
        device: Where they are measured.
    """

    def __init__(
        self,
        data: PathLike,
        crop_size: int,
        degradation: DegradationConfig,
        *,
        log: str | os.PathLike[str],
        device: torch.device,
    ) -> None:
        dataset = RandomCropDataset(data, crop_size, scale=(0.7, 1.0), seed=_HELD_OUT_SEED)
        numbers = range(_HELD_OUT_TILES)
        self._high = torch.stack([dataset[n] for n in numbers]).to(device)
        self._small = degraded(self._high, numbers, Degradation(degradation, seed=_HELD_OUT_SEED))
        self._log = log
        self._metric: StLpips | None = None
        try:
            self._metric = StLpips.from_pretrained("alex").to(device)
        except FileNotFoundError:
            return  # PSNR can be had without its weights
        with torch.no_grad():
            self._features = [self._metric.features(tile[None]) for tile in self._high]

    @torch.no_grad()
    def measure(self, estimator: Estimator, step: int) -> dict[str, float]:
        """PSNR in dB, the mean over tiles, and ST-LPIPS (AlexNet) of each estimate; added to the log."""
        estimates: dict[str, list[Tensor]] = {}
        for small in self._small:
            for name, estimate in estimator(small[None]).items():
                estimates.setdefault(name, []).append(estimate.float().clamp(-1, 1))
        found: dict[str, float] = {}
        for name, tiles in estimates.items():
            error = (torch.cat(tiles) - self._high).div(2).square().mean((1, 2, 3))
            found[f"{name}_psnr"] = float(-10 * error.clamp_min(1e-10).log10().mean())
            if self._metric is not None:
                distances = [
                    self._metric.distance(self._metric.features(tile), features)
                    for tile, features in zip(tiles, self._features, strict=True)
                ]
                found[f"{name}_st_lpips"] = float(torch.cat(distances).mean())
        entry: dict[str, Any] = {"step": step, **{k: round(v, 4) for k, v in found.items()}}
        with open(self._log, "a", encoding="utf-8") as file:
            file.write(json.dumps(entry) + "\n")
        return found
