# SPDX-License-Identifier: Apache-2.0
"""The codec's third training stage, ``joint``: rate and distortion together (RDVQ, arXiv 2604.10546, equation 11)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from genaccel.codec.training.stage import RateStage, per_pixel
from genaccel.codec.training.stage_config import JointTrainingConfig
from genaccel.codec.training.trained_networks import load_networks
from genaccel.training.adversary import Adversary
from genaccel.training.distortion import Distortion
from genaccel.training.loop import LoopConfig, PathLike, RunPath

LOOP = LoopConfig(steps=50_000, batch_size=8, learning_rate=1e-4)


class JointTraining(RateStage[JointTrainingConfig]):
    """Encoder, decoder and entropy model learn from rate and distortion."""

    recipe = "codec-joint"
    stage = "joint"
    freezes = False

    @classmethod
    def from_start(
        cls,
        config: JointTrainingConfig,
        loop: LoopConfig = LOOP,
        *,
        data: PathLike,
        start: PathLike,
        run: RunPath,
        cpu: bool = False,
    ) -> JointTraining:
        """A run that begins with what was trained before.

        Args:
            start: Run folder of `genaccel train entropy` or `joint`, or its model.

        Raises:
            ValueError: If there is no entropy model.
        """
        autoencoder, entropy_model = load_networks(start)
        if entropy_model is None:
            raise ValueError(f"{start} has no entropy model: run `genaccel train entropy` first")
        return cls(autoencoder, entropy_model, config, loop, data=data, run=run, cpu=cpu)

    def setup(self) -> None:
        """Make the distortion and, where it has a weight, the discriminator."""
        super().setup()
        config, device = self.stage_config, self.accelerator.device
        self.temperature = config.temperature_for(self.params.strides)
        self.distortion = Distortion(
            config.distortion, period=min(self.params.strides), device=device
        )
        self.adversary: Adversary | None = None
        self._judged: tuple[Tensor, Tensor] | None = None  # images and what was made of them
        if config.adversarial_weight > 0:
            torch.manual_seed(self.config.seed)
            self.adversary = Adversary(
                self.accelerator,
                learning_rate=self.config.learning_rate,
                gradient_clip_norm=self.config.gradient_clip_norm,
            )

    def loss(self, batch: Tensor, generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        """Distortion, weighted bits a pixel and, from its step on, the discriminator's verdict, of crops in [-1, 1]."""
        config = self.stage_config
        self.calibrate(batch)
        output, rate = self.model(batch, temperature=self.temperature)
        distortion, parts = self.distortion(output, batch)
        bits_per_pixel, rate_parts = per_pixel(rate, batch)
        loss = distortion + config.rate_weight * bits_per_pixel
        if self.adversary is not None and self.step >= config.adversarial_start_step:
            parts["adversarial"] = self.adversary.verdict(output.reconstruction)
            loss = loss + config.adversarial_weight * parts["adversarial"]
            self._judged = batch, output.reconstruction.detach()
        return loss, parts | rate_parts

    def after_step(self) -> dict[str, Tensor]:
        """Let the discriminator learn from what it has judged."""
        if self.adversary is None or self._judged is None:
            return {}
        learning_rate = self.optimizer.param_groups[0]["lr"]
        loss = self.adversary.update(*self._judged, learning_rate=learning_rate)
        self._judged = None
        return {"discriminator": loss}

    def state(self) -> dict[str, Any]:
        """The state that a checkpoint holds."""
        own = {} if self.adversary is None else {"adversary": self.adversary.state_dict()}
        return super().state() | own

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Continue from :meth:`state`."""
        super().load_state(state)
        if self.adversary is not None:
            self.adversary.load_state_dict(state["adversary"])
