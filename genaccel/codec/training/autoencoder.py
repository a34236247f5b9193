# SPDX-License-Identifier: Apache-2.0
"""Trains the codec's autoencoder; resumes exactly where a run was interrupted.

Sample i of the data stream is a pure function of (seed, i), so the step number is all the data state there is.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch
from accelerate import Accelerator
from diffusers.training_utils import EMAModel
from torch import Tensor
from torch.utils.data import DataLoader
from torch.utils.tensorboard import SummaryWriter
from tqdm.auto import tqdm

from genaccel.codec.training.autoencoder_config import CodecTrainingConfig
from genaccel.data.image_folder import RandomCropDataset
from genaccel.models.autoencoder import PRESETS, Autoencoder, AutoencoderOutput
from genaccel.training.codebook_upkeep import CodebookUpkeep
from genaccel.training.distortion import Distortion, DistortionWeights
from genaccel.training.loop import NonFiniteLossError, averaged_weights
from genaccel.training.run_folder import RunFolder
from genaccel.training.schedule import warmup_cosine


def learning_rate_at(step: int, config: CodecTrainingConfig) -> float:
    """Learning rate after ``step`` steps: linear warm-up, then a half cosine to its final share."""
    return warmup_cosine(
        step,
        steps=config.steps,
        peak=config.learning_rate,
        warmup_steps=config.warmup_steps,
        final_ratio=config.final_learning_rate_ratio,
    )


class CodecTrainer:
    """One training run in one folder.

    Args:
        config: How to train.
        data: Folder of images.
        run: Folder for checkpoints and logs; a checkpoint found there is continued.
        cpu: Train on the CPU even where a GPU is present.

    Raises:
        ValueError: If the run folder was made with another configuration.
    """

    def __init__(
        self,
        config: CodecTrainingConfig,
        *,
        data: str | os.PathLike[str],
        run: str | os.PathLike[str],
        cpu: bool = False,
    ) -> None:
        self.config = config
        self.run = RunFolder(run)
        self.accelerator = Accelerator(cpu=cpu, mixed_precision=config.mixed_precision)
        self.run.claim(config.to_dict(), write=self.accelerator.is_main_process)
        self.dataset = RandomCropDataset(
            data,
            config.crop_size,
            scale=(config.min_scale, 1.0),
            color_permutation=config.color_permutation,
            seed=config.seed,
        )
        torch.manual_seed(config.seed)
        # channels_last: the layout in which both oneDNN and cuDNN run convolutions without reordering.
        model = Autoencoder(PRESETS[config.preset]).to(memory_format=torch.channels_last)
        optimizer = torch.optim.Adam(
            model.parameters(), lr=config.learning_rate, betas=(0.9, 0.95), eps=1e-8
        )
        self.step = 0
        self.model, self.optimizer = self.accelerator.prepare(model, optimizer)
        plain = self.accelerator.unwrap_model(self.model)
        self.ema = EMAModel(
            plain.parameters(), decay=config.ema_decay, use_ema_warmup=True, power=0.75
        )
        self.ema.to(self.accelerator.device)
        self.upkeep = CodebookUpkeep(
            plain.params.codebook_size, dead_below=config.restart_usage, seed=config.seed
        )
        self.distortion = Distortion(
            DistortionWeights(
                mse=config.mse_weight,
                grid=config.grid_weight,
                perceptual=config.perceptual_weight,
                perceptual_net=config.perceptual_net,
                perceptual_fraction=config.perceptual_fraction,
                codebook=config.codebook_weight,
                commitment=config.commitment_weight,
            ),
            period=min(model.params.strides),
            device=self.accelerator.device,
        )
        if self.run.has_checkpoint:
            self._load_checkpoint()

    def _batches(self) -> Iterator[Tensor]:
        """This process's crops ``[B, 3, S, S]`` in [-1, 1], from the current step on."""
        config, accelerator = self.config, self.accelerator
        per_step = config.batch_size * accelerator.num_processes

        def sample_numbers() -> Iterator[list[int]]:
            for step in range(self.step, config.steps):
                first = step * per_step + accelerator.process_index * config.batch_size
                yield list(range(first, first + config.batch_size))

        loader = DataLoader(
            self.dataset,
            batch_sampler=_Numbers(sample_numbers, config.steps - self.step),
            num_workers=config.num_workers,
            pin_memory=accelerator.device.type == "cuda",
        )
        for batch in loader:
            yield batch.to(accelerator.device, memory_format=torch.channels_last)

    def loss(self, x: Tensor) -> tuple[Tensor, dict[str, Tensor], AutoencoderOutput]:
        """Loss of one batch ``[B, 3, S, S]``, its parts, and the model's output."""
        with self.accelerator.autocast():
            output = self.model(x)
            loss, parts = self.distortion(
                output, x, perceptual=self.step >= self.config.perceptual_start_step
            )
        return loss, parts, output

    def train(self, on_step: Callable[[int], None] | None = None) -> None:
        """Run to the last step, and save.

        Args:
            on_step: Called with the number of finished steps after each.

        Raises:
            NonFiniteLossError: If the loss is not finite.
        """
        config, accelerator = self.config, self.accelerator
        self.model.train()
        writer = SummaryWriter(str(self.run.path)) if accelerator.is_main_process else None
        progress = tqdm(
            total=config.steps,
            initial=self.step,
            unit="step",
            # None: shown on a terminal only, so that log files stay readable.
            disable=None if accelerator.is_main_process else True,
        )
        last_save = time.monotonic()
        try:
            for x in self._batches():
                loss, parts, gradient_norm = self._update(x)
                progress.update()
                if writer is not None and self.step % config.log_every == 0:
                    self._log(writer, progress, loss, parts, gradient_norm)
                if time.monotonic() - last_save > 60 * config.checkpoint_minutes:
                    self.save_checkpoint()
                    last_save = time.monotonic()
                if on_step is not None:
                    on_step(self.step)
        finally:
            progress.close()
            if writer is not None:
                writer.close()
        self.save_checkpoint()

    def _update(self, x: Tensor) -> tuple[Tensor, dict[str, Tensor], Tensor]:
        """One optimiser step; returns the loss, its parts, and the gradient's norm before clipping."""
        config, accelerator = self.config, self.accelerator
        plain = accelerator.unwrap_model(self.model)
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate_at(self.step, config)
        loss, parts, output = self.loss(x)
        if not bool(torch.isfinite(loss)):
            raise NonFiniteLossError(
                f"loss is {float(loss.detach())} at step {self.step}; the run stopped. Resume from the last "
                "checkpoint with a lower learning rate, or with mixed_precision 'no'"
            )
        self.optimizer.zero_grad(set_to_none=True)
        accelerator.backward(loss)
        gradient_norm = accelerator.clip_grad_norm_(
            self.model.parameters(), config.gradient_clip_norm
        )
        self.optimizer.step()
        self.upkeep.count(output.indices, accelerator)
        if (
            self.step % config.restart_every == 0
            and self.step < config.restart_until * config.steps
        ):
            self.upkeep.restart(
                plain.quantize.embedding.weight,
                self.optimizer.optimizer,
                [f.detach() for f in output.features],
                self.step,
            )
        self.ema.step(plain.parameters())
        self.step += 1
        return loss.detach(), parts, gradient_norm

    def _log(
        self,
        writer: SummaryWriter,
        progress: Any,
        loss: Tensor,
        parts: dict[str, Tensor],
        gradient_norm: Tensor,
    ) -> None:
        used = self.upkeep.usage / self.upkeep.usage.sum()
        entropy_bits = float(-(used * used.clamp_min(1e-12).log2()).sum())
        scalars = {f"loss/{name}": float(value.detach()) for name, value in parts.items()}
        scalars["loss/total"] = float(loss.detach())
        scalars["psnr_db"] = 10 * math.log10(4 / max(float(parts["mse"].detach()), 1e-12))
        scalars["index_entropy_bits"] = entropy_bits
        scalars["gradient_norm"] = float(gradient_norm)
        scalars["learning_rate"] = self.optimizer.param_groups[0]["lr"]
        for name, value in scalars.items():
            writer.add_scalar(name, value, self.step)
        shown = {"psnr": f"{scalars['psnr_db']:.2f} dB", "bits": f"{entropy_bits:.2f}"}
        if "perceptual" in parts:
            shown["st_lpips"] = f"{scalars['loss/perceptual']:.3f}"
        progress.set_postfix(shown)

    def save_checkpoint(self) -> None:
        """Write all state, atomically: an interrupted write leaves the previous checkpoint."""
        if not self.accelerator.is_main_process:
            return
        scaler = self.accelerator.scaler
        self.run.save(
            {
                "step": self.step,
                "model": self.accelerator.unwrap_model(self.model).state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "ema": self.ema.state_dict(),
                "upkeep": self.upkeep.state_dict(),
                "scaler": None if scaler is None else scaler.state_dict(),
            }
        )

    def _load_checkpoint(self) -> None:
        state = self.run.load(self.accelerator.device)
        self.accelerator.unwrap_model(self.model).load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.ema.load_state_dict(state["ema"])
        self.upkeep.load_state_dict(state["upkeep"])
        if self.accelerator.scaler is not None and state["scaler"] is not None:
            self.accelerator.scaler.load_state_dict(state["scaler"])
        self.step = state["step"]


class _Numbers:
    """A batch sampler over sample numbers made on the fly."""

    def __init__(self, numbers: Callable[[], Iterator[list[int]]], length: int) -> None:
        self._numbers, self._length = numbers, length

    def __iter__(self) -> Iterator[list[int]]:
        return self._numbers()

    def __len__(self) -> int:
        return self._length


def load_trained(run: str | os.PathLike[str]) -> Autoencoder:
    """The averaged weights of a run's last checkpoint, in evaluation mode, with uniform index tables.

    Raises:
        FileNotFoundError: If ``run`` holds no checkpoint.
    """
    folder = RunFolder(run)
    config = CodecTrainingConfig.from_dict(folder.options())
    return averaged_weights(folder, Autoencoder(PRESETS[config.preset]))
