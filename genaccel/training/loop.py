# SPDX-License-Identifier: Apache-2.0
"""The loop of a training run: optimiser, averaged weights, checkpoints, logs, exact resume.

Batch ``n`` of a run is a pure function of ``n``, and so are the random numbers of step ``n``: the step
number is all the data and generator state there is.
"""

from __future__ import annotations

import math
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, TypeVar

import torch
from accelerate import Accelerator
from diffusers.training_utils import EMAModel
from torch import Tensor, nn
from torch.utils.tensorboard import SummaryWriter
from tqdm.auto import tqdm

from genaccel.training.run_folder import RunFolder
from genaccel.training.schedule import warmup_cosine


class NonFiniteLossError(ArithmeticError):
    """The loss became infinite or not a number; the last checkpoint is from before."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LoopConfig:
    """How a run proceeds, whatever it trains.

    Args:
        steps: Optimiser steps.
        batch_size: Samples of a step, of one process.
        learning_rate: Peak of the schedule.
        final_learning_rate_ratio: Last learning rate over the peak.
        warmup_steps: Steps of linear warm-up.
        weight_decay: Of AdamW.
        ema_decay: Decay of the averaged weights that are exported.
        gradient_clip_norm: Largest global norm of the gradient.
        checkpoint_minutes: Time between checkpoints.
        log_every: Steps between log entries.
        seed: Of the initial weights, the samples and the noise.
        mixed_precision: As in Hugging Face accelerate.
    """

    steps: int = 100_000
    batch_size: int = 16
    learning_rate: float = 4e-4
    final_learning_rate_ratio: float = 0.02
    warmup_steps: int = 200
    weight_decay: float = 0.0
    ema_decay: float = 0.999
    gradient_clip_norm: float = 1.0
    checkpoint_minutes: float = 5.0
    log_every: int = 20
    seed: int = 0
    mixed_precision: str = "no"

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "log_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        for name in ("warmup_steps", "seed", "weight_decay"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must not be negative, got {getattr(self, name)}")
        for name in ("learning_rate", "gradient_clip_norm", "checkpoint_minutes"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be above 0, got {getattr(self, name)}")
        if not 0 < self.final_learning_rate_ratio <= 1:
            raise ValueError(
                f"final_learning_rate_ratio must be in (0, 1], got {self.final_learning_rate_ratio}"
            )
        if not 0 <= self.ema_decay < 1:
            raise ValueError(f"ema_decay must be in [0, 1), got {self.ema_decay}")
        if self.mixed_precision not in ("no", "fp16", "bf16"):
            raise ValueError(
                f'mixed_precision must be "no", "fp16" or "bf16", got {self.mixed_precision!r}'
            )


class TrainingLoop(ABC):
    """One run in one folder; subclasses say what a batch is and what its loss.

    Args:
        model: What is trained.
        config: How.
        run: The folder; a checkpoint found there is continued.
        options: Further options that a resumed run must share.
        cpu: Train on the CPU even where a GPU is.

    Raises:
        ValueError: If the folder holds a run with other options.
    """

    def __init__(
        self,
        model: nn.Module,
        config: LoopConfig,
        *,
        run: RunFolder,
        options: Mapping[str, Any],
        cpu: bool = False,
    ) -> None:
        self.config, self.run = config, run
        self.accelerator = Accelerator(cpu=cpu, mixed_precision=config.mixed_precision)
        run.claim({**asdict(config), **options}, write=self.accelerator.is_main_process)
        optimizer = torch.optim.AdamW(
            model.parameters(),
            lr=config.learning_rate,
            betas=(0.9, 0.99),
            weight_decay=config.weight_decay,
        )
        self.step = 0
        self.model, self.optimizer = self.accelerator.prepare(model, optimizer)
        self.ema = EMAModel(
            model.parameters(), decay=config.ema_decay, use_ema_warmup=True, power=0.75
        )
        self.ema.to(self.accelerator.device)
        if run.has_checkpoint:
            self._resume()

    @abstractmethod
    def batch(self, numbers: range) -> Any:
        """The samples with these numbers, on the device."""

    @abstractmethod
    def loss(self, batch: Any, generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss of a batch and its parts by name.

        Args:
            batch: Of :meth:`batch`.
            generator: On the CPU, for the random numbers of the step; dropout layers, which take no
                generator, draw from the global one, seeded alike.
        """

    def plain_model(self) -> Any:
        """The model without what accelerate wraps around it."""
        return self.accelerator.unwrap_model(self.model)

    def train(self) -> None:
        """Run to the last step, and save.

        Raises:
            NonFiniteLossError: If the loss is not finite.
        """
        config, main = self.config, self.accelerator.is_main_process
        writer = SummaryWriter(str(self.run.path)) if main else None
        progress = tqdm(
            total=config.steps, initial=self.step, unit="step", disable=None if main else True
        )
        last_save, last_step = time.monotonic(), self.step
        try:
            while self.step < config.steps:
                loss, parts = self._update()
                progress.update()
                if writer is not None and self.step % config.log_every == 0:
                    shown = {name: float(value.detach()) for name, value in parts.items()}
                    for name, value in {"total": float(loss), **shown}.items():
                        writer.add_scalar(f"loss/{name}", value, self.step)
                    progress.set_postfix({k: f"{v:.4f}" for k, v in shown.items()})
                seconds = time.monotonic() - last_save
                if seconds > 60 * config.checkpoint_minutes:
                    self.save()
                    if main and progress.disable:  # a log file has no progress bar
                        self._print_progress((self.step - last_step) / seconds, parts)
                    last_save, last_step = time.monotonic(), self.step
        finally:
            progress.close()
            if writer is not None:
                writer.close()
        self.save()

    def _print_progress(self, steps_per_second: float, parts: Mapping[str, Tensor]) -> None:
        samples = steps_per_second * self.config.batch_size * self.accelerator.num_processes
        values = ", ".join(f"{name} {float(value.detach()):.4f}" for name, value in parts.items())
        print(
            f"step {self.step} of {self.config.steps}: {samples:.1f} samples/s, {values}",
            file=sys.stderr,
            flush=True,
        )

    def _update(self) -> tuple[Tensor, dict[str, Tensor]]:
        config, accelerator = self.config, self.accelerator
        for group in self.optimizer.param_groups:
            group["lr"] = warmup_cosine(
                self.step,
                steps=config.steps,
                peak=config.learning_rate,
                warmup_steps=config.warmup_steps,
                final_ratio=config.final_learning_rate_ratio,
            )
        index = self.step * accelerator.num_processes + accelerator.process_index
        numbers = range(index * config.batch_size, (index + 1) * config.batch_size)
        seed = (config.seed << 32) + index
        generator = torch.Generator().manual_seed(seed)
        torch.manual_seed(seed)  # dropout layers draw from the global generator
        with accelerator.autocast():
            loss, parts = self.loss(self.batch(numbers), generator)
        if not math.isfinite(float(loss.detach())):
            raise NonFiniteLossError(
                f"loss is {float(loss.detach())} at step {self.step}; the run stopped. Resume from the "
                "last checkpoint with a lower learning rate, or with mixed_precision 'no'"
            )
        self.optimizer.zero_grad(set_to_none=True)
        accelerator.backward(loss)
        accelerator.clip_grad_norm_(self.model.parameters(), config.gradient_clip_norm)
        self.optimizer.step()
        self.ema.step(self.plain_model().parameters())
        self.step += 1
        return loss.detach(), parts

    def save(self) -> None:
        """Write all state."""
        if self.accelerator.is_main_process:
            self.run.save(self.state())

    def state(self) -> dict[str, Any]:
        """What a checkpoint holds; a subclass with more state adds it here."""
        scaler = self.accelerator.scaler
        return {
            "step": self.step,
            "model": self.plain_model().state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "ema": self.ema.state_dict(),
            "scaler": None if scaler is None else scaler.state_dict(),
        }

    def _resume(self) -> None:
        state = self.run.load(self.accelerator.device)
        self.plain_model().load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.ema.load_state_dict(state["ema"])
        if self.accelerator.scaler is not None and state["scaler"] is not None:
            self.accelerator.scaler.load_state_dict(state["scaler"])
        self.step = state["step"]


M = TypeVar("M", bound=nn.Module)


def averaged_weights(run: RunFolder, model: M) -> M:
    """Load the averaged weights of a run's last checkpoint into a model, in evaluation mode.

    Raises:
        FileNotFoundError: If the run has no checkpoint.
    """
    state = run.load()
    model.load_state_dict(state["model"])
    ema = EMAModel(model.parameters())
    ema.load_state_dict(state["ema"])
    ema.copy_to(model.parameters())
    return model.eval()
