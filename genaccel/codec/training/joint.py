# SPDX-License-Identifier: Apache-2.0
"""The codec's later training stages: ``entropy``, and ``joint`` rate and distortion (RDVQ, arXiv 2604.10546).

Both start from what an earlier stage made and keep the codebook as it is.
"""

from __future__ import annotations

import os
from dataclasses import asdict
from typing import Any, Literal

import torch
from accelerate.utils import broadcast_object_list
from torch import Tensor

from genaccel.codec.training.rate_distortion_model import Rate, RateDistortionModel
from genaccel.codec.training.stage_config import (
    CropConfig,
    EntropyTrainingConfig,
    JointTrainingConfig,
)
from genaccel.data.image_folder import RandomCropDataset
from genaccel.models.autoencoder import Autoencoder
from genaccel.models.masked_entropy_model import MaskedEntropyModel
from genaccel.models.quantization_aware import ModelScales
from genaccel.training.adversary import Adversary
from genaccel.training.distortion import Distortion
from genaccel.training.loop import LoopConfig, TrainingLoop
from genaccel.training.run_folder import RunFolder

# Name of the grids of the entropy model's activations in the checkpoint of a quantisation-aware run.
SCALES_KEY = "activation_scales"
# Steps between calibrations of those grids, each of which costs about as much as half a step. A new model's
# activations grow tenfold in the first tens of steps, and what a grid clips has no gradient.
_CALIBRATE_EVERY = 10


class _StageTraining(TrainingLoop):
    """What both stages share: the networks, the crops, the rounding, and how the rate is reported."""

    def __init__(
        self,
        stage: Literal["entropy", "joint"],
        model: RateDistortionModel,
        config: EntropyTrainingConfig | JointTrainingConfig,
        loop: LoopConfig,
        *,
        data: str | os.PathLike[str],
        run: str | os.PathLike[str],
        cpu: bool,
    ) -> None:
        params, crops = model.autoencoder.params, config.crops
        if crops.crop_size % params.alignment:
            raise ValueError(
                f"crop_size must be a multiple of {params.alignment}, got {crops.crop_size}"
            )
        training = asdict(config)
        self._quantization_aware = training.pop("quantization_aware")
        options = {
            "stage": stage,
            "autoencoder": params.to_dict(),
            "entropy_model": model.entropy_model.params.to_dict(),
            "training": training,
            # Not in "training", which runs of former versions have without it.
            "quantization_aware": self._quantization_aware,
        }
        # channels_last: the layout in which both oneDNN and cuDNN run convolutions without reordering.
        model.train().to(memory_format=torch.channels_last)
        super().__init__(model, loop, run=RunFolder(run), options=options, cpu=cpu)
        self.dataset = _crops(data, crops, loop.seed)

    def batch(self, numbers: range) -> Tensor:
        """Crops ``[B, 3, S, S]`` in [-1, 1]."""
        crops = torch.stack([self.dataset[n] for n in numbers])
        return crops.to(self.accelerator.device, memory_format=torch.channels_last)

    def _calibrate(self, batch: Tensor) -> None:
        """Choose the grids of a quantisation-aware run by a batch ``[B, 3, S, S]``, where that is due."""
        if self._quantization_aware and self.step % _CALIBRATE_EVERY == 0:
            model: RateDistortionModel = self.plain_model()
            model.calibrate(batch)
            # Of all processes' grids those of the first, which writes the checkpoint.
            (model.scales,) = broadcast_object_list([model.scales])

    def state(self) -> dict[str, Any]:
        """What a checkpoint holds."""
        scales = self.plain_model().scales
        return super().state() | ({} if scales is None else {SCALES_KEY: asdict(scales)})

    def _resume(self) -> None:
        super()._resume()
        scales = self.run.load().get(SCALES_KEY)
        if self._quantization_aware and scales is None:
            raise ValueError(
                f"{self.run.path} holds a run that is not quantisation-aware; "
                "use the same options to resume it, or another folder"
            )
        self.plain_model().scales = None if scales is None else ModelScales.from_dict(scales)


def _crops(data: str | os.PathLike[str], crops: CropConfig, seed: int) -> RandomCropDataset:
    return RandomCropDataset(
        data,
        crops.crop_size,
        scale=(crops.min_scale, 1.0),
        color_permutation=crops.color_permutation,
        seed=seed,
    )


def _per_pixel(rate: Rate, batch: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """The rate in bits per pixel of ``batch`` ``[B, 3, S, S]``, and what is reported of it."""
    pixels = batch.shape[0] * batch.shape[2] * batch.shape[3]
    bits_per_pixel = rate.bits / pixels
    return bits_per_pixel, {
        "bits_per_pixel": bits_per_pixel,
        "hard_bits_per_pixel": rate.hard_bits / pixels,
        "hard_bits_per_token": rate.hard_bits / rate.tokens,
    }


class EntropyTraining(_StageTraining):
    """Stage ``entropy``: only the entropy model learns, from the rate alone.

    Args:
        autoencoder: Of stage ``tokenizer``; it stays as it is.
        entropy_model: To train, from random weights or further.
        config: Crops and temperature.
        loop: How the run proceeds.
        data: Folder of images.
        run: Folder of the run; a checkpoint found there is continued.
        cpu: Train on the CPU even where a GPU is.

    Raises:
        ValueError: If the networks do not fit each other, the crop size does not fit them, or the folder holds
            a run with other options.
    """

    def __init__(
        self,
        autoencoder: Autoencoder,
        entropy_model: MaskedEntropyModel,
        config: EntropyTrainingConfig,
        loop: LoopConfig,
        *,
        data: str | os.PathLike[str],
        run: str | os.PathLike[str],
        cpu: bool = False,
    ) -> None:
        self.entropy_config = config
        model = RateDistortionModel(autoencoder.requires_grad_(False), entropy_model)
        super().__init__("entropy", model, config, loop, data=data, run=run, cpu=cpu)

    def loss(self, batch: Tensor, generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        """See :class:`TrainingLoop`."""
        self._calibrate(batch)
        output = self.model(batch, temperature=self.entropy_config.temperature, reconstruct=False)
        return _per_pixel(output.rate, batch)


class JointTraining(_StageTraining):
    """Stage ``joint``: encoder, decoder and entropy model learn from rate and distortion (equation 11).

    Args:
        autoencoder: Of stage ``entropy``.
        entropy_model: Of the same.
        config: The loss.
        loop: How the run proceeds.
        data: Folder of images.
        run: Folder of the run; a checkpoint found there is continued.
        cpu: Train on the CPU even where a GPU is.

    Raises:
        ValueError: If the networks do not fit each other, the crop size does not fit them, or the folder holds
            a run with other options.
        FileNotFoundError: If the perceptual metric's weights are not installed.
    """

    def __init__(
        self,
        autoencoder: Autoencoder,
        entropy_model: MaskedEntropyModel,
        config: JointTrainingConfig,
        loop: LoopConfig,
        *,
        data: str | os.PathLike[str],
        run: str | os.PathLike[str],
        cpu: bool = False,
    ) -> None:
        self.joint_config = config
        model = RateDistortionModel(autoencoder, entropy_model)
        super().__init__("joint", model, config, loop, data=data, run=run, cpu=cpu)
        strides = autoencoder.params.strides
        self.temperature = config.temperature_for(strides)
        self.distortion = Distortion(
            config.distortion, period=min(strides), device=self.accelerator.device
        )
        self.adversary: Adversary | None = None
        self._judged: tuple[Tensor, Tensor] | None = None  # images and what was made of them
        if config.adversarial_weight > 0:
            torch.manual_seed(loop.seed)
            self.adversary = Adversary(
                self.accelerator,
                learning_rate=loop.learning_rate,
                gradient_clip_norm=loop.gradient_clip_norm,
            )
            if self.run.has_checkpoint:
                self.adversary.load_state_dict(self.run.load(self.accelerator.device)["adversary"])

    def loss(self, batch: Tensor, generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        """See :class:`TrainingLoop`."""
        config = self.joint_config
        self._calibrate(batch)
        output, rate = self.model(batch, temperature=self.temperature)
        distortion, parts = self.distortion(output, batch)
        bits_per_pixel, rate_parts = _per_pixel(rate, batch)
        loss = distortion + config.rate_weight * bits_per_pixel
        if self.adversary is not None and self.step >= config.adversarial_start_step:
            parts["adversarial"] = self.adversary.verdict(output.reconstruction)
            loss = loss + config.adversarial_weight * parts["adversarial"]
            self._judged = batch, output.reconstruction.detach()
        return loss, parts | rate_parts

    def _update(self) -> tuple[Tensor, dict[str, Tensor]]:
        loss, parts = super()._update()
        if self.adversary is not None and self._judged is not None:
            learning_rate = self.optimizer.param_groups[0]["lr"]
            parts["discriminator"] = self.adversary.update(
                *self._judged, learning_rate=learning_rate
            )
            self._judged = None
        return loss, parts

    def state(self) -> dict[str, Any]:
        """What a checkpoint holds."""
        own = {} if self.adversary is None else {"adversary": self.adversary.state_dict()}
        return super().state() | own
