# SPDX-License-Identifier: Apache-2.0
"""The codec's first training stage, ``autoencoder``: encoder, decoder and codebook (RDVQ, arXiv 2604.10546)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from genaccel.codec.training.stage import CodecStage
from genaccel.codec.training.stage_config import AutoencoderTrainingConfig
from genaccel.models.autoencoder import PRESETS, Autoencoder, AutoencoderOutput
from genaccel.training.codebook_upkeep import CodebookUpkeep
from genaccel.training.distortion import Distortion
from genaccel.training.loop import LoopConfig, PathLike, RunPath

LOOP = LoopConfig()


class AutoencoderTraining(CodecStage[AutoencoderTrainingConfig]):
    """The autoencoder learns from distortion alone, and dead code words are replaced."""

    recipe = "codec-autoencoder"
    stage = "autoencoder"

    @classmethod
    def from_preset(
        cls,
        config: AutoencoderTrainingConfig,
        loop: LoopConfig = LOOP,
        *,
        data: PathLike,
        run: RunPath,
        preset: str = "small",
        num_workers: int = 0,
        cpu: bool = False,
    ) -> AutoencoderTraining:
        """A run that begins with random weights.

        Args:
            preset: Size of the network: small or paper.

        Raises:
            ValueError: If there is no such preset.
        """
        if preset not in PRESETS:
            raise ValueError(f"preset must be one of {sorted(PRESETS)}, got {preset!r}")
        torch.manual_seed(loop.seed)
        network = Autoencoder(PRESETS[preset])
        return cls(network, config, loop, data=data, run=run, num_workers=num_workers, cpu=cpu)

    def setup(self) -> None:
        """Make the distortion and the upkeep of the codebook."""
        super().setup()
        config = self.stage_config
        self.distortion = Distortion(
            config.distortion, period=min(self.params.strides), device=self.accelerator.device
        )
        self.upkeep = CodebookUpkeep(
            self.params.codebook_size, dead_below=config.restart_usage, seed=self.config.seed
        )

    def make_optimizer(self, model: nn.Module) -> torch.optim.Optimizer:
        """Adam with the authors' moments."""
        return torch.optim.Adam(
            model.parameters(), lr=self.config.learning_rate, betas=(0.9, 0.95), eps=1e-8
        )

    def loss(self, batch: Tensor, generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        """Distortion of crops ``[B, 3, S, S]`` in [-1, 1] that went through the autoencoder (RDVQ, equation 13)."""
        self._output: AutoencoderOutput = self.model(batch)
        return self.distortion(
            self._output, batch, perceptual=self.step >= self.stage_config.perceptual_start_step
        )

    def after_step(self) -> dict[str, Tensor]:
        """Count code words, and restart dead ones where that is due."""
        config, output = self.stage_config, self._output
        del self._output  # with it the graph
        self.upkeep.count(output.indices, self.accelerator)
        if (
            self.step % config.restart_every == 0
            and self.step < config.restart_until * self.config.steps
        ):
            self.upkeep.restart(
                self.plain_model().quantize.embedding.weight,
                self.optimizer.optimizer,
                [f.detach() for f in output.features],
                self.step,
            )
        return {}

    def readings(self, parts: Mapping[str, Tensor]) -> dict[str, float]:
        """Quality, and bits of an index by its use alone."""
        used = self.upkeep.usage / self.upkeep.usage.sum()
        return {
            "psnr_db": 10 * math.log10(4 / max(float(parts["mse"].detach()), 1e-12)),
            "index_entropy_bits": float(-(used * used.clamp_min(1e-12).log2()).sum()),
        }

    def state(self) -> dict[str, Any]:
        """The state that a checkpoint holds."""
        return super().state() | {"upkeep": self.upkeep.state_dict()}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Continue from :meth:`state`."""
        super().load_state(state)
        self.upkeep.load_state_dict(state["upkeep"])
