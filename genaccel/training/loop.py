# SPDX-License-Identifier: Apache-2.0
"""The loop of a training run: optimiser, averaged weights, checkpoints, logs, exact resume.

Batch ``n`` of a run is a pure function of ``n``, and so are the random numbers of step ``n``: the step
number is all the data and generator state there is.
"""

from __future__ import annotations

import math
import os
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Annotated, Any, ClassVar, TypeVar

import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from genaccel.training.options import (
    ABOVE_0,
    AT_LEAST_0,
    AT_LEAST_1,
    SHARE_ABOVE_0,
    SHARE_BELOW_1,
    Option,
    check,
)
from genaccel.training.precision import NAMES, Precision, fast_precision
from genaccel.training.run_folder import CHECKPOINT_NAME, CONFIG_NAME, RunFolder

PathLike = str | os.PathLike[str]
RunPath = Annotated[PathLike, Option(name="out")]

# Steps after which the speed is told: the first ones are slower, while memory and kernels are made ready.
_SPEED_STEPS = 10


class NonFiniteLossError(ArithmeticError):
    """The loss became infinite or not a number; the last checkpoint is from before."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LoopConfig:
    """How a run proceeds, whatever it trains.

    Args:
        steps: Optimiser steps.
        batch_size: Samples of a step, of one process.
        learning_rate: Peak of the cosine schedule.
        final_learning_rate_ratio: Last learning rate over the peak.
        warmup_steps: Steps over which the learning rate rises to its peak.
        weight_decay: Of AdamW.
        ema_decay: Decay of the averaged weights that are exported.
        gradient_clip_norm: Largest global norm of the gradient.
        checkpoint_minutes: Minutes between checkpoints.
        log_every: Steps between log entries.
        seed: Of the initial weights, the samples and the noise.
        mixed_precision: Format of the products, by autocast; auto is bf16 where the device is faster in it.
    """

    steps: Annotated[int, Option(), AT_LEAST_1] = 100_000
    batch_size: Annotated[int, Option(), AT_LEAST_1] = 16
    learning_rate: Annotated[float, Option(), ABOVE_0] = 4e-4
    final_learning_rate_ratio: Annotated[float, SHARE_ABOVE_0] = 0.02
    warmup_steps: Annotated[int, Option(), AT_LEAST_0] = 200
    weight_decay: Annotated[float, AT_LEAST_0] = 0.0
    ema_decay: Annotated[float, SHARE_BELOW_1] = 0.999
    gradient_clip_norm: Annotated[float, ABOVE_0] = 1.0
    checkpoint_minutes: Annotated[float, Option(), ABOVE_0] = 5.0
    log_every: Annotated[int, AT_LEAST_1] = 20
    seed: Annotated[int, Option(), AT_LEAST_0] = 0
    mixed_precision: Annotated[Precision, Option()] = "no"

    def __post_init__(self) -> None:
        check(self)


def warmup_cosine(
    step: int, *, steps: int, peak: float, warmup_steps: int, final_ratio: float
) -> float:
    """Learning rate after ``step`` steps: linear warm-up, then a half cosine from the peak to a share of it.

    Args:
        step: Number of finished steps.
        steps: Length of the run.
        peak: Highest learning rate.
        warmup_steps: Steps of the warm-up.
        final_ratio: Last learning rate over the peak.

    Example:
        >>> warmup_cosine(100, steps=100, peak=1.0, warmup_steps=10, final_ratio=0.1)
        0.1
    """
    if step < warmup_steps:
        return peak * (step + 1) / warmup_steps
    progress = (step - warmup_steps) / max(1, steps - warmup_steps)
    cosine = 0.5 * (1 + math.cos(math.pi * min(progress, 1.0)))
    return peak * (final_ratio + (1 - final_ratio) * cosine)


class TrainingLoop(ABC):
    """One run in one folder; subclasses say what a batch is and what its loss.

    Args:
        model: What is trained.
        config: How.
        run: The folder; a checkpoint found there is continued.
        options: Further options that a resumed run must share.
        cpu: Train on the CPU even where a GPU is.

    Attributes:
        recipe: Name of what is trained, as the run folder has it.
        channels_last: Whether convolutions keep channels innermost in fp32 too, the layout in which both oneDNN and
            cuDNN run them without reordering; in half precision they always do.

    Raises:
        ValueError: If the folder holds a run with other options, of another recipe, or a damaged one.
    """

    recipe: ClassVar[str]
    channels_last: ClassVar[bool] = True

    def __init__(
        self,
        model: nn.Module,
        config: LoopConfig,
        *,
        run: RunFolder,
        options: Mapping[str, Any],
        cpu: bool = False,
    ) -> None:
        # Here, for they take seconds, and the command line reads a recipe's options without training it.
        from accelerate import Accelerator
        from diffusers.training_utils import EMAModel

        if config.mixed_precision == "auto":
            begun = run.options() if (run.path / CONFIG_NAME).is_file() else {}
            chosen: Any = begun.get("mixed_precision", fast_precision(cpu=cpu))
            config = replace(config, mixed_precision=chosen)
        self.config, self.run = config, run
        self.accelerator = Accelerator(cpu=cpu, mixed_precision=config.mixed_precision)
        is_new = run.claim(
            {"recipe": self.recipe, **asdict(config), **options},
            write=self.accelerator.is_main_process,
        )
        if self.channels_last or config.mixed_precision != "no":
            model.to(memory_format=torch.channels_last)
        self.step = 0
        self.gradient_norm = torch.zeros(())
        self.model, self.optimizer = self.accelerator.prepare(model, self.make_optimizer(model))
        self.ema = EMAModel(
            model.parameters(), decay=config.ema_decay, use_ema_warmup=True, power=0.75
        )
        self.ema.to(self.accelerator.device)
        try:
            self.setup()
        except Exception:
            if is_new:  # so that the corrected command is not refused for its other options
                run.release()
            raise
        if run.has_checkpoint:
            self.load_state(run.load(self.accelerator.device))

    @abstractmethod
    def setup(self) -> None:
        """Make all that needs the device: data, losses, networks beside the model. Called before a run is resumed."""

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

    @abstractmethod
    def export(self) -> str:
        """Write the model of the last checkpoint into the folder of the run; returns what to tell about it."""

    def make_optimizer(self, model: nn.Module) -> torch.optim.Optimizer:
        """AdamW, unless a recipe has its own."""
        config = self.config
        return torch.optim.AdamW(
            model.parameters(),
            lr=config.learning_rate,
            betas=(0.9, 0.99),
            weight_decay=config.weight_decay,
        )

    def after_step(self) -> dict[str, Tensor]:
        """Act once the optimiser has stepped, before weights are averaged; returns further parts to report."""
        return {}

    def readings(self, parts: Mapping[str, Tensor]) -> dict[str, float]:
        """Numbers that a recipe logs beside the losses."""
        return {}

    def plain_model(self) -> Any:
        """The model without what accelerate wraps around it."""
        return self.accelerator.unwrap_model(self.model)

    def train(self) -> None:
        """Run to the last step, and save.

        Raises:
            NonFiniteLossError: If the loss is not finite.
        """
        from torch.utils.tensorboard import SummaryWriter

        config, main = self.config, self.accelerator.is_main_process
        writer = SummaryWriter(str(self.run.path)) if main else None
        progress = tqdm(
            total=config.steps, initial=self.step, unit="step", disable=None if main else True
        )

        def say(text: str) -> None:
            if main:
                progress.write(text, file=sys.stderr)
                sys.stderr.flush()

        say(f"training on {self.accelerator.device} in {NAMES[config.mixed_precision]}")
        first = self.step
        begin = last_save = time.monotonic()
        last_step = first
        try:
            while self.step < config.steps:
                loss, parts = self._update()
                progress.update()
                if writer is not None and self.step % config.log_every == 0:
                    self._log(writer, progress, loss, parts)
                done = self.step - first
                if done == 1:
                    begin = time.monotonic()
                elif done == min(_SPEED_STEPS, config.steps - first):
                    say(f"{self._samples_per_second(done - 1, begin):.2f} samples/s")
                if time.monotonic() - last_save > 60 * config.checkpoint_minutes:
                    self.save()
                    if progress.disable:  # a log file has no progress bar
                        speed = self._samples_per_second(self.step - last_step, last_save)
                        say(self._progress(speed, parts))
                    last_save, last_step = time.monotonic(), self.step
        finally:
            progress.close()
            if writer is not None:
                writer.close()
        self.save()

    def _samples_per_second(self, steps: int, since: float) -> float:
        samples = steps * self.config.batch_size * self.accelerator.num_processes
        return samples / (time.monotonic() - since)

    def _progress(self, samples_per_second: float, parts: Mapping[str, Tensor]) -> str:
        values = ", ".join(f"{name} {float(value.detach()):.4f}" for name, value in parts.items())
        return (
            f"step {self.step} of {self.config.steps}: {samples_per_second:.1f} samples/s, {values}"
        )

    def _log(self, writer: Any, progress: Any, loss: Tensor, parts: Mapping[str, Tensor]) -> None:
        shown = {name: float(value.detach()) for name, value in parts.items()}
        scalars = {f"loss/{name}": value for name, value in {"total": float(loss), **shown}.items()}
        scalars |= {
            "gradient_norm": float(self.gradient_norm),
            "learning_rate": self.optimizer.param_groups[0]["lr"],
            **self.readings(parts),
        }
        for name, value in scalars.items():
            writer.add_scalar(name, value, self.step)
        progress.set_postfix({name: f"{value:.4f}" for name, value in shown.items()})

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
        self.gradient_norm = accelerator.clip_grad_norm_(
            self.model.parameters(), config.gradient_clip_norm
        )
        self.optimizer.step()
        parts |= self.after_step()
        self.ema.step(self.plain_model().parameters())
        self.step += 1
        return loss.detach(), parts

    def save(self) -> None:
        """Write all state."""
        if self.accelerator.is_main_process:
            self.run.save(self.state())

    def state(self) -> dict[str, Any]:
        """The state that a checkpoint holds; a subclass with more state adds it here and in :meth:`load_state`."""
        scaler = self.accelerator.scaler
        return {
            "step": self.step,
            "model": self.plain_model().state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "ema": self.ema.state_dict(),
            "scaler": None if scaler is None else scaler.state_dict(),
        }

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Continue from :meth:`state`.

        Raises:
            ValueError: If it is of another model.
        """
        model = self.plain_model()
        shapes, found = (
            {name: value.shape for name, value in weights.items()}
            for weights in (model.state_dict(), state["model"])
        )
        if shapes != found:
            raise ValueError(
                f"{self.run.path / CHECKPOINT_NAME} holds another model than {self.recipe} trains; use another folder"
            )
        model.load_state_dict(state["model"])
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
        ValueError: If the checkpoint is damaged, or another model's.
    """
    from diffusers.training_utils import EMAModel

    state = run.load()
    try:
        model.load_state_dict(state["model"])
        ema = EMAModel(model.parameters())
        ema.load_state_dict(state["ema"])
        ema.copy_to(model.parameters())
    except (AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ValueError(f"the checkpoint in {run.path} is another model's: {reason}") from error
    return model.eval()
