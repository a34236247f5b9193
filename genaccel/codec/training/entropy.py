# SPDX-License-Identifier: Apache-2.0
"""The codec's second training stage, ``entropy``: an entropy model for an autoencoder that stays as it is."""

from __future__ import annotations

import torch
from torch import Tensor

from genaccel.codec.training.rate_distortion_model import entropy_params
from genaccel.codec.training.stage import RateStage, per_pixel
from genaccel.codec.training.stage_config import EntropyTrainingConfig
from genaccel.codec.training.trained_networks import load_networks
from genaccel.models.masked_entropy_model import MaskedEntropyModel
from genaccel.training.loop import LoopConfig, PathLike, RunPath

LOOP = LoopConfig(steps=50_000, learning_rate=1e-3)


class EntropyTraining(RateStage[EntropyTrainingConfig]):
    """Only the entropy model learns, from the rate alone."""

    recipe = "codec-entropy"
    stage = "entropy"
    freezes = True

    @classmethod
    def from_start(
        cls,
        config: EntropyTrainingConfig,
        loop: LoopConfig = LOOP,
        *,
        data: PathLike,
        start: PathLike,
        run: RunPath,
        preset: str = "small",
        cpu: bool = False,
    ) -> EntropyTraining:
        """A run that begins with what was trained before.

        Args:
            start: Run folder of `genaccel train codec`, model folder, or model of the zoo; with an entropy model in
                it, that is trained further.
            preset: Size of a new entropy model: small or paper.
        """
        autoencoder, entropy_model = load_networks(start)
        if entropy_model is None:
            torch.manual_seed(loop.seed)
            entropy_model = MaskedEntropyModel(entropy_params(preset, autoencoder.params))
        return cls(autoencoder, entropy_model, config, loop, data=data, run=run, cpu=cpu)

    def loss(self, batch: Tensor, generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        """Bits a pixel that the entropy model takes for the codec's indices, by the relaxed rate."""
        self.calibrate(batch)
        output = self.model(batch, temperature=self.stage_config.temperature, reconstruct=False)
        return per_pixel(output.rate, batch)
