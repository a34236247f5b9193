# SPDX-License-Identifier: Apache-2.0
"""The common part of the codec's training stages: the crops, the run folder, the export, and how the rate is reported."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, ClassVar, Generic, TypeVar

import torch
from torch import Tensor

from genaccel.codec.training.export import export_model
from genaccel.codec.training.rate_distortion_model import Rate, RateDistortionModel
from genaccel.codec.training.stage_config import RateConfig, StageConfig
from genaccel.codec.training.trained_networks import SCALES_KEY, CodecRun
from genaccel.models.autoencoder import Autoencoder
from genaccel.models.masked_entropy_model import MaskedEntropyModel
from genaccel.models.quantization_aware import ModelScales
from genaccel.training.crops import CropBatches
from genaccel.training.loop import LoopConfig, PathLike, RunPath, TrainingLoop

# Steps between calibrations of the entropy model's grids, each of which costs about as much as half a step. A new
# model's activations grow tenfold in the first tens of steps, and what a grid clips has no gradient.
_CALIBRATE_EVERY = 10

C = TypeVar("C", bound=StageConfig)
R = TypeVar("R", bound=RateConfig)


class CodecStage(TrainingLoop, Generic[C]):
    """One run of a stage.

    Args:
        model: The networks.
        config: The stage's own numbers.
        loop: How the run proceeds.
        data: Folder of training images.
        run: Run folder: checkpoints, logs, and the model at the end; a checkpoint found there is continued.
        num_workers: Processes that prepare crops.
        cpu: Train on the CPU even where a GPU is.

    Raises:
        ValueError: If the crop size does not fit the networks, or the folder holds a run with other options.
        FileNotFoundError: If the perceptual metric's weights are not installed.
    """

    stage: ClassVar[str]

    def __init__(
        self,
        model: Autoencoder | RateDistortionModel,
        config: C,
        loop: LoopConfig,
        *,
        data: PathLike,
        run: RunPath,
        num_workers: int = 0,
        cpu: bool = False,
    ) -> None:
        options: dict[str, Any] = {"stage": self.stage}
        if isinstance(model, RateDistortionModel):
            options["entropy_model"] = model.entropy_model.params.to_dict()
        autoencoder = model if isinstance(model, Autoencoder) else model.autoencoder
        self.params, crop_size = autoencoder.params, config.crops.crop_size
        options["autoencoder"] = self.params.to_dict()
        if crop_size % self.params.alignment:
            raise ValueError(
                f"crop_size must be a multiple of {self.params.alignment}, got {crop_size}"
            )
        self.stage_config, self._data, self._num_workers = config, data, num_workers
        training = options["training"] = asdict(config)
        if "quantization_aware" in training:
            # Not in "training", which runs of former versions have without it.
            options["quantization_aware"] = training.pop("quantization_aware")
        super().__init__(model.train(), loop, run=CodecRun(run), options=options, cpu=cpu)

    def setup(self) -> None:
        """Open the images."""
        self._crops = CropBatches(
            self.stage_config.crops.dataset(self._data, seed=self.config.seed),
            stride=self.config.batch_size * self.accelerator.num_processes,
            num_workers=self._num_workers,
        )

    def batch(self, numbers: range) -> Tensor:
        """Crops ``[B, 3, S, S]`` in [-1, 1]."""
        return self._crops(numbers).to(self.accelerator.device, memory_format=torch.channels_last)

    def export(self) -> str:
        """Write the folder ``model`` of the run."""
        return export_model(self.run.path, self.run.path / "model", data=self._data).rates()


class RateStage(CodecStage[R]):
    """A stage that trains an entropy model.

    Args:
        autoencoder: Of an earlier stage; its codebook stays as it is.
        entropy_model: To train, from random weights or further.

    Attributes:
        freezes: Whether all of the autoencoder stays as it is.

    Raises:
        ValueError: If the networks do not fit each other, the crop size does not fit them, or the folder holds
            a run with other options.
    """

    freezes: ClassVar[bool]

    def __init__(
        self,
        autoencoder: Autoencoder,
        entropy_model: MaskedEntropyModel,
        config: R,
        loop: LoopConfig,
        *,
        data: PathLike,
        run: RunPath,
        cpu: bool = False,
    ) -> None:
        if self.freezes:
            autoencoder.requires_grad_(False)
        model = RateDistortionModel(autoencoder, entropy_model)
        super().__init__(model, config, loop, data=data, run=run, cpu=cpu)

    def calibrate(self, batch: Tensor) -> None:
        """Choose the grids of a quantisation-aware run by a batch ``[B, 3, S, S]``, where that is due."""
        from accelerate.utils import broadcast_object_list

        if self.stage_config.quantization_aware and self.step % _CALIBRATE_EVERY == 0:
            model: RateDistortionModel = self.plain_model()
            model.calibrate(batch)
            # Of all processes' grids those of the first, which writes the checkpoint.
            (model.scales,) = broadcast_object_list([model.scales])

    def state(self) -> dict[str, Any]:
        """The state that a checkpoint holds."""
        scales = self.plain_model().scales
        return super().state() | ({} if scales is None else {SCALES_KEY: asdict(scales)})

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Continue from :meth:`state`."""
        super().load_state(state)
        scales = state.get(SCALES_KEY)
        if self.stage_config.quantization_aware and scales is None:
            raise ValueError(
                f"{self.run.path} holds a run that is not quantisation-aware; "
                "use the same options to resume it, or another folder"
            )
        self.plain_model().scales = None if scales is None else ModelScales.from_dict(scales)


def per_pixel(rate: Rate, batch: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """The rate in bits per pixel of ``batch`` ``[B, 3, S, S]``, and what is reported of it."""
    pixels = batch.shape[0] * batch.shape[2] * batch.shape[3]
    bits_per_pixel = rate.bits / pixels
    return bits_per_pixel, {
        "bits_per_pixel": bits_per_pixel,
        "hard_bits_per_pixel": rate.hard_bits / pixels,
        "hard_bits_per_token": rate.hard_bits / rate.tokens,
    }
