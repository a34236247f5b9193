# SPDX-License-Identifier: Apache-2.0
"""Trains the base of super-resolution by four: the upscaler, and the transformer that makes the first step from its picture."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Annotated, Any

import torch
from torch import Tensor
from torch.nn import functional

from genaccel.models.registry import record_parts
from genaccel.speculative_sr.degradation import DegradationConfig
from genaccel.speculative_sr.networks import SuperResolutionBase, SuperResolutionParams
from genaccel.speculative_sr.training.distance import Distance, DistanceConfig
from genaccel.speculative_sr.training.tiles import HeldOut, Tiles
from genaccel.training.crops import CropConfig
from genaccel.training.loop import LoopConfig, PathLike, RunPath, TrainingLoop, averaged_weights
from genaccel.training.options import ABOVE_0, Option, check
from genaccel.training.run_folder import RunFolder

LOOP = LoopConfig(steps=20_000, batch_size=8, learning_rate=5e-4, mixed_precision="auto")
CROPS = CropConfig(min_scale=0.6)

HELD_OUT_NAME = "held_out.jsonl"

# The network's fields that are options, by the names that these have.
Shape = Annotated[
    SuperResolutionParams,
    Option(
        fields={
            "channels": "channels",
            "num_layers": "layers",
            "upscaler_channels": "upscaler_channels",
            "upscaler_blocks": "upscaler_blocks",
        }
    ),
]


@dataclass(frozen=True, kw_only=True, slots=True)
class BaseTrainingConfig:
    """Objective of the base.

    Args:
        upscaler_weight: Weight of the upscaler's distance of pixels beside the loss of the first step's estimate. The
            latter does not reach the upscaler: the flow begins with a picture that is as near as it can be.
    """

    upscaler_weight: Annotated[float, Option(), ABOVE_0] = 1.0

    def __post_init__(self) -> None:
        check(self)


class TilesTraining(TrainingLoop):
    """What runs of base and draft share: tiles, and a measure of held-out ones at each checkpoint.

    Args:
        model: What is trained.
        loop: How the run proceeds.
        crops: Which tiles are trained on.
        degradation: What is done to them.
        data: Folder of training images.
        run: Run folder.
        options: Further options that a resumed run must share.
        held_out: Folder of images to measure on.
        num_workers: Processes that prepare tiles.
        cpu: Train on the CPU even where a GPU is.
    """

    def __init__(
        self,
        model: torch.nn.Module,
        loop: LoopConfig,
        crops: CropConfig,
        degradation: DegradationConfig,
        *,
        data: PathLike,
        run: RunFolder,
        options: dict[str, Any],
        held_out: PathLike | None,
        num_workers: int,
        cpu: bool,
    ) -> None:
        self._crops, self._degradation = crops, degradation
        self._data, self._held_out, self._num_workers = data, held_out, num_workers
        super().__init__(
            model,
            loop,
            run=run,
            options={**options, "crops": asdict(crops), "degradation": asdict(degradation)},
            cpu=cpu,
        )

    def setup(self) -> None:
        """Open the tiles."""
        device = self.accelerator.device
        self.tiles = Tiles(
            self._data,
            self._crops,
            self._degradation,
            seed=self.config.seed,
            device=device,
            stride=self.config.batch_size * self.accelerator.num_processes,
            num_workers=self._num_workers,
        )
        self.held_out: HeldOut | None = None
        if self._held_out is not None and self.accelerator.is_main_process:
            self.held_out = HeldOut(
                self._held_out,
                self._crops.crop_size,
                self._degradation,
                log=self.run.path / HELD_OUT_NAME,
                device=device,
            )

    def batch(self, numbers: range) -> tuple[Tensor, Tensor]:
        """Degraded tiles ``[B, 3, S / 4, S / 4]`` and good ones ``[B, 3, S, S]``, in [-1, 1]."""
        return self.tiles(numbers)

    @abstractmethod
    def estimates(self, small: Tensor) -> dict[str, Tensor]:
        """Pictures that the model of now makes of degraded ones ``[B, 3, h, w]``, by name."""

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """The model has its averaged weights within the block."""
        parameters = list(self.plain_model().parameters())
        self.ema.store(parameters)
        self.ema.copy_to(parameters)
        try:
            yield
        finally:
            self.ema.restore(parameters)

    def save(self) -> None:
        """Write all state, and measure the averaged weights on held-out tiles."""
        super().save()
        if self.held_out is not None:
            with self.averaged(), self.accelerator.autocast():
                self.held_out.measure(self.estimates, self.step)


class SuperResolutionTraining(TilesTraining):
    """One run.

    Args:
        model: Shapes of the networks.
        config: What they are trained for.
        distance: Of the estimate from the good picture.
        crops: Which tiles are trained on.
        degradation: What is done to them.
        loop: How the run proceeds.
        data: Folder of training images.
        run: Run folder; the model is its folder `model`.
        held_out: Folder of images that are not trained on, to measure at each checkpoint; the file `held_out.jsonl` in
            the run has PSNR and ST-LPIPS.
        start: Model folder to begin with, of the same shape.
        num_workers: Processes that prepare tiles; with 0, they are made when they are needed.
        cpu: Train on the CPU even where a GPU is.

    Raises:
        ValueError: If the folder holds a run with other options, or tiles are no multiple of 8 pixels.
    """

    recipe = "super-resolution"

    def __init__(
        self,
        model: Shape,
        config: BaseTrainingConfig,
        distance: DistanceConfig,
        crops: CropConfig = CROPS,
        degradation: DegradationConfig = DegradationConfig(),  # noqa: B008
        loop: LoopConfig = LOOP,
        *,
        data: PathLike,
        run: RunPath,
        held_out: PathLike | None = None,
        start: PathLike | None = None,
        num_workers: int = 0,
        cpu: bool = False,
    ) -> None:
        self._config, self._distance = config, distance
        torch.manual_seed(loop.seed)
        network = SuperResolutionBase(model)
        if start is not None:
            network.load_state_dict(SuperResolutionBase.from_pretrained(start).state_dict())
        super().__init__(
            network,
            loop,
            crops,
            degradation,
            data=data,
            run=RunFolder(run),
            options={
                "model": model.to_dict(),
                "training": asdict(config),
                "distance": asdict(distance),
            },
            held_out=held_out,
            num_workers=num_workers,
            cpu=cpu,
        )

    def setup(self) -> None:
        """Open the tiles and load the perceptual distance, if it has a weight."""
        super().setup()
        self.distance = Distance(self._distance, device=self.accelerator.device)

    def loss(
        self, batch: tuple[Tensor, Tensor], generator: torch.Generator
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Distance of the first step's estimate, and that of the upscaler's picture."""
        small, high = batch
        low, estimate = self.model(small)
        loss, parts = self.distance(estimate, high, generator)
        parts["upscaler"] = functional.l1_loss(low, high)
        return loss + self._config.upscaler_weight * parts["upscaler"], parts

    def estimates(self, small: Tensor) -> dict[str, Tensor]:
        """Pictures of upscaler and base."""
        low, estimate = self.plain_model()(small)
        return {"upscaler": low, "base": estimate}

    def export(self) -> str:
        """Write the folder ``model`` of the run."""
        out = self.run.path / "model"
        load_base(self.run.path).save_pretrained(out)
        record_parts(out)
        return f"wrote {out}"


def load_base(run: PathLike) -> SuperResolutionBase:
    """The base with the averaged weights of a run's last checkpoint, in evaluation mode.

    Raises:
        FileNotFoundError: If the run has no checkpoint.
    """
    folder = RunFolder(run)
    params = SuperResolutionParams.from_dict(folder.options()["model"])
    return averaged_weights(folder, SuperResolutionBase(params))
