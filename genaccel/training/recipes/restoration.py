# SPDX-License-Identifier: Apache-2.0
"""Trains the restoration of coded base layers."""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from genaccel.models.oxford_vgg16 import OxfordVgg16
from genaccel.models.restoration import Restoration, RestorationConfig
from genaccel.training.loop import LoopConfig, TrainingLoop, averaged_weights
from genaccel.training.recipes.restoration_pairs import Pairs, PairsConfig, PairStream, write_pairs
from genaccel.training.run_folder import RunFolder

_PAIRS_NAME = "pairs"

# Of a base that is a rounding away from its picture nothing can be won, and its share would be noise.
_LEAST_ERROR = (1 / 255) ** 2
_LEAST_DISTANCE = 0.02

# Of VGG16: what a restoration can make better or worse, edges and textures rather than objects.
_FEATURE_STAGES = (1, 2, 3, 4)


@dataclass(frozen=True, kw_only=True, slots=True)
class RestorationTrainingConfig:
    """What the network is trained for.

    Args:
        window_size: Side of the training windows in pixels of the picture, a multiple of 8.
        feature_weight: Weight of the distance of VGG16 features beside the squared error, both as shares of those of the
            base.
        feature_size: Side of the middle of each window whose features are compared; VGG16 takes far longer than
            the network itself.
        feature_fraction: Share of the windows whose features are compared.
    """

    window_size: int = 128
    feature_weight: float = 0.0
    feature_size: int = 64
    feature_fraction: float = 0.25

    def __post_init__(self) -> None:
        if self.window_size < 1:
            raise ValueError(f"window_size must be at least 1, got {self.window_size}")
        if not self.feature_weight >= 0:
            raise ValueError(f"feature_weight must not be negative, got {self.feature_weight}")
        if not 16 <= self.feature_size <= self.window_size and self.feature_weight > 0:
            raise ValueError(
                f"feature_size must be within 16 to {self.window_size}, got {self.feature_size}"
            )
        if not 0 < self.feature_fraction <= 1:
            raise ValueError(f"feature_fraction must be in (0, 1], got {self.feature_fraction}")


def relative_error(restored: Tensor, base: Tensor, target: Tensor) -> Tensor:
    """Squared errors ``[B]`` of restored pictures ``[B, 3, H, W]`` as shares of those of the enlarged base.

    So a decibel counts the same in fine and in coarse pictures; plain squared error is nearly all due to coarse ones.
    """
    before = (base - target).square().mean(dim=(1, 2, 3))
    after = (restored - target).square().mean(dim=(1, 2, 3))
    return after / (before + _LEAST_ERROR)


class RestorationTraining(TrainingLoop):
    """One run.

    Args:
        model: Shape of the network.
        config: What it is trained for.
        pairs: What it is trained on; made in the folder of the run if it is not there.
        loop: How the run proceeds.
        data: Folder of images.
        run: Folder of the run.
        start: Folder of the model to begin with, or None for one that changes nothing.
        vgg16: ONNX file of :class:`OxfordVgg16`, if a weight is on features; by default that of the installed package.
        pairs_folder: Where the pairs are, or are to be; by default in the folder of the run.
        cpu: Train on the CPU even where a GPU is.

    Raises:
        ValueError: If the run or its pairs were made with other options.
    """

    def __init__(
        self,
        model: RestorationConfig,
        config: RestorationTrainingConfig,
        pairs: PairsConfig,
        loop: LoopConfig,
        *,
        data: str | os.PathLike[str],
        run: str | os.PathLike[str],
        start: str | os.PathLike[str] | None = None,
        pairs_folder: str | os.PathLike[str] | None = None,
        vgg16: str | os.PathLike[str] | None = None,
        cpu: bool = False,
    ) -> None:
        self.training_config = config
        folder = RunFolder(run)
        torch.manual_seed(loop.seed)
        network = Restoration(model)
        if start is not None:
            network.load_state_dict(Restoration.from_pretrained(start).state_dict())
        super().__init__(
            network.to(memory_format=torch.channels_last),
            loop,
            run=folder,
            options={"model": model.to_dict(), "training": asdict(config), "pairs": asdict(pairs)},
            cpu=cpu,
        )
        pairs_path = Path(pairs_folder) if pairs_folder is not None else folder.path / _PAIRS_NAME
        with self.accelerator.main_process_first():
            write_pairs(data, pairs_path, pairs)
        self.features: OxfordVgg16 | None = None
        if config.feature_weight > 0:
            features = OxfordVgg16.from_pretrained(vgg16, stages=_FEATURE_STAGES)
            self.features = features.to(self.accelerator.device)
        self.stream = PairStream(pairs_path, config.window_size, seed=loop.seed)

    def batch(self, numbers: range) -> list[Pairs]:
        """Windows, those of one scale together."""
        return [pairs.to(self.accelerator.device) for pairs in self.stream.windows(numbers)]

    def loss(
        self, batch: list[Pairs], generator: torch.Generator
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """See :class:`TrainingLoop`."""
        restored = self.plain_model().restore(
            [(pairs.base, pairs.quality, pairs.scale) for pairs in batch]
        )
        bases = torch.cat([pairs.enlarged for pairs in batch])
        targets = torch.cat([pairs.target for pairs in batch])
        pictures = torch.cat(restored)
        error = relative_error(pictures, bases, targets).mean()
        if self.features is None:
            return error, {"relative_error": error}
        config = self.training_config
        count = max(1, round(config.feature_fraction * len(targets)))
        chosen = torch.randperm(len(targets), generator=generator)[:count].to(targets.device)
        first = (config.window_size - config.feature_size) // 2
        middle = slice(first, first + config.feature_size)
        base, target, picture = (x[chosen, :, middle, middle] for x in (bases, targets, pictures))
        with torch.no_grad():
            expected = self.features.features(target)
            before = self.features.distance(self.features.features(base), expected)
        after = self.features.distance(self.features.features(picture), expected)
        distance = (after / (before + _LEAST_DISTANCE)).mean()
        loss = error + config.feature_weight * distance
        return loss, {"relative_error": error, "relative_distance": distance}


def load_restoration(run: str | os.PathLike[str]) -> Restoration:
    """The network with the averaged weights of a run's last checkpoint, in evaluation mode.

    Raises:
        FileNotFoundError: If the run has no checkpoint.
    """
    folder = RunFolder(run)
    values: dict[str, Any] = folder.options()["model"]
    return averaged_weights(folder, Restoration(RestorationConfig.from_dict(values)))
