# SPDX-License-Identifier: Apache-2.0
"""What ``bench/soda.py`` runs: a DiT pipeline, fixed classes and noise, accelerated copies of it, and their cost."""

from __future__ import annotations

import contextlib
import copy
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from genaccel.eval.one_call import flops_of_call, seconds_of_call
from genaccel.eval.speed import round_order

# A measured speed-up this much below a target still counts as it: it is a quotient of two times.
SLACK = 0.03
# Steps of the plain run that tells how fast the machine is just then.
_PROBE_STEPS = 3


@dataclass(frozen=True, slots=True)
class Samples:
    """Some images to generate.

    Attributes:
        labels: A class for each.
        seeds: A noise for each.
    """

    labels: tuple[int, ...]
    seeds: tuple[int, ...]


@dataclass(slots=True)
class Attached:
    """A pipeline with a method on it.

    Attributes:
        pipeline: A copy that belongs to the method.
        num_steps: Steps, if they are not those of the workload.
        around: Entered around each run.
        note: What was found out when it was attached, for the table.
    """

    pipeline: Any
    num_steps: int | None = None
    around: Callable[[], contextlib.AbstractContextManager[Any]] = contextlib.nullcontext
    note: str = ""


@dataclass(frozen=True, slots=True)
class Setting:
    """One setting of a method.

    Attributes:
        label: For the table.
        values: For its ``attach``.
        expected: FLOP ratio, where it is known without a run.
    """

    label: str
    values: Mapping[str, Any]
    expected: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Method:
    """A way to accelerate.

    Attributes:
        name: For the table.
        attach: Puts it on a fresh copy of the pipeline.
        ladders: Settings, each tuple from the slowest to the fastest. A later ladder is for speeds
            that the earlier ones do not reach.
        is_ours: Whether it is what the bars are about.
        note: For the table.
    """

    name: str
    attach: Callable[[Any, Mapping[str, Any]], Attached]
    ladders: tuple[tuple[Setting, ...], ...]
    is_ours: bool = False
    note: str = ""


def settings(name: str, values: Sequence[Any], **others: Any) -> tuple[Setting, ...]:
    """A ladder over one parameter."""
    return tuple(
        Setting(f"{name} {v:.3g}" if isinstance(v, float) else f"{name} {v}", {name: v, **others})
        for v in values
    )


class LatentCatcher:
    """Stands where the pipeline has its decoder and keeps what it is given.

    Decoding costs the same with every method: it is timed by itself, and done only where images are looked at.
    """

    def __init__(self, scaling_factor: float = 1.0) -> None:
        self.config = SimpleNamespace(scaling_factor=scaling_factor)
        self.latents: Tensor | None = None

    def decode(self, latents: Tensor) -> Any:
        self.latents = latents
        return SimpleNamespace(sample=latents[:, :1, :1, :1])


class Workload:
    """A pipeline and the samples that are drawn from it.

    Args:
        name: For the table.
        pipeline: A ``DiTPipeline``; it is kept as it is, but for its decoder.
        num_steps: Of the sampler.
        guidance: Scale of classifier-free guidance; 1 for none.
        num_classes: Classes of the model; every other one is for calibration.
        batch_size: Samples in a call.
    """

    def __init__(
        self,
        name: str,
        pipeline: Any,
        *,
        num_steps: int,
        guidance: float,
        num_classes: int,
        batch_size: int,
    ) -> None:
        self.name = name
        self.num_steps = num_steps
        self.guidance = guidance
        self.num_classes = num_classes
        self.batch_size = batch_size
        self.decoder = pipeline.vae
        pipeline.set_progress_bar_config(disable=True)
        self.device = pipeline.transformer.device
        scale = 1.0 if self.decoder is None else float(self.decoder.config.scaling_factor)
        pipeline.vae = LatentCatcher(scale)
        self.pristine = pipeline
        self.plain = Attached(self.copy())

    def copy(self) -> Any:
        """A pipeline of its own, sharing the weights."""
        transformer = self.pristine.transformer
        weights = [*transformer.parameters(), *transformer.buffers()]
        return copy.deepcopy(self.pristine, {id(w): w for w in weights})

    def test_samples(self, batch: int) -> Samples:
        """What methods are judged by."""
        return self._samples(batch * self.batch_size, first_class=0)

    def calibration_samples(self, batch: int) -> Samples:
        """What methods may look at before: other noise and, where there are several, other classes."""
        return self._samples(1_000_000 + batch * self.batch_size, first_class=1)

    def _samples(self, first_seed: int, *, first_class: int) -> Samples:
        classes = range(first_class if self.num_classes > 1 else 0, self.num_classes, 2)
        seeds = tuple(range(first_seed, first_seed + self.batch_size))
        return Samples(tuple(classes[s % len(classes)] for s in seeds), seeds)

    def latents(
        self, attached: Attached, samples: Samples, *, num_steps: int | None = None
    ) -> Tensor:
        """Run a pipeline; ``[B, C, H, W]``."""
        pipeline = attached.pipeline
        with attached.around():
            pipeline(
                class_labels=list(samples.labels),
                guidance_scale=self.guidance,
                # One for each sample, on the CPU: the same noise in any batch and on any device.
                generator=[torch.Generator().manual_seed(seed) for seed in samples.seeds],
                num_inference_steps=num_steps or attached.num_steps or self.num_steps,
                output_type="pt",
            )
        caught: Tensor = pipeline.vae.latents
        return caught

    @torch.inference_mode()
    def images(self, latents: Tensor) -> Tensor:
        """Decoded, uint8 ``[B, H, W, 3]`` on the CPU."""
        decoded = self.decoder.decode(latents.to(self.decoder.dtype)).sample
        scaled = (decoded.float() / 2 + 0.5).clamp(0, 1) * 255
        return scaled.round().to(torch.uint8).permute(0, 2, 3, 1).cpu()


@dataclass(slots=True)
class Trial:
    """A method with one setting, on its pipeline.

    Attributes:
        method: Which.
        setting: Of it.
        flop_ratio: FLOPs of the plain run over those of this one.
        speedup: Measured; None if it was not.
        attached: The pipeline; None once it is let go.
        latents: Of the first test samples.
    """

    method: Method
    setting: Setting
    flop_ratio: float
    speedup: float | None = None
    attached: Attached | None = None
    latents: Tensor | None = None


@dataclass(frozen=True, slots=True)
class Failure:
    """A method that does not run."""

    method: Method
    reason: str


@dataclass(slots=True)
class Search:
    """Finds for each method the setting of a speed.

    Attributes:
        workload: What is run.
        is_timed: Whether settings are chosen by time; else by the FLOPs of a single sample, which takes less
            of it.
    """

    workload: Workload
    is_timed: bool = True
    _trials: dict[tuple[str, str], Trial] = field(default_factory=dict)
    _single: dict[tuple[str, str], float] = field(default_factory=dict)
    _plain_flops: dict[int, int] = field(default_factory=dict)

    def choose(self, method: Method, target: float) -> Trial | Failure:
        """The slowest setting that reaches a speed, or the fastest of all where none does."""
        try:
            best: Trial | None = None
            for ladder in method.ladders:
                trial = self._choose(method, ladder, target)
                if best is None or _reached(trial) > _reached(best):
                    best = trial
                if _reached(best) >= target * (1 - SLACK):
                    break
            assert best is not None
            self._attach(best)
            return best
        except Exception as error:  # other people's code, on a class that it may not know
            text = " ".join(str(error).split())
            return Failure(method, f"{type(error).__name__}: {text[:150]}")

    def next_faster(self, trial: Trial) -> Trial | None:
        """The setting after this one, or None at the end."""
        for ladder in trial.method.ladders:
            if trial.setting in ladder[:-1]:
                following = self._trial(trial.method, ladder[ladder.index(trial.setting) + 1])
                self._attach(following)
                return following
        return None

    def _choose(self, method: Method, ladder: Sequence[Setting], target: float) -> Trial:
        wanted = target * (1 - SLACK)
        low, high = 0, len(ladder) - 1
        # FLOPs bound the speed from above, and need no quiet machine.
        while low < high:
            middle = (low + high) // 2
            expected = ladder[middle].expected
            if expected is None and self.is_timed:
                expected = self._trial(method, ladder[middle]).flop_ratio
            elif expected is None:
                expected = self._single_flop_ratio(method, ladder[middle])
            if expected >= wanted:
                high = middle
            else:
                low = middle + 1
        trial = self._trial(method, ladder[low])
        while self.is_timed:
            if trial.speedup is None:
                self._time(trial)
            if trial.speedup is None or trial.speedup >= wanted or low + 1 == len(ladder):
                break
            low = _next_setting(ladder, low, wanted * trial.flop_ratio / trial.speedup)
            trial = self._trial(method, ladder[low])
        return trial

    def _trial(self, method: Method, setting: Setting) -> Trial:
        key = (method.name, setting.label)
        if key not in self._trials:
            self._trials[key] = Trial(method, setting, 0.0)
            self._attach(self._trials[key])
        return self._trials[key]

    def _attach(self, trial: Trial) -> None:
        """Build its pipeline and warm it up; only that of the last trial of a method is kept."""
        if trial.attached is not None:
            return
        for other in self._trials.values():
            if other.method is trial.method:
                other.attached = None
        workload = self.workload
        attached = trial.method.attach(workload.copy(), trial.setting.values)
        # The counted run must have nothing of a first one: ours runs a model once more to learn how it is built.
        workload.latents(attached, workload.calibration_samples(0), num_steps=2)
        trial.flop_ratio = self._flop_ratio(attached, workload.test_samples(0))
        trial.latents = attached.pipeline.vae.latents
        trial.attached = attached

    def _single_flop_ratio(self, method: Method, setting: Setting) -> float:
        key = (method.name, setting.label)
        if key not in self._single:
            samples = self.workload.test_samples(0)
            attached = method.attach(self.workload.copy(), setting.values)
            first = Samples(samples.labels[:1], samples.seeds[:1])
            self._single[key] = self._flop_ratio(attached, first)
        return self._single[key]

    def _flop_ratio(self, attached: Attached, samples: Samples) -> float:
        workload, count = self.workload, len(samples.seeds)
        if count not in self._plain_flops:
            # Its steps cost the same.
            step = _flops(lambda: workload.latents(workload.plain, samples, num_steps=1))
            self._plain_flops[count] = step * workload.num_steps
        return self._plain_flops[count] / _flops(lambda: workload.latents(attached, samples))

    def _time(self, trial: Trial) -> None:
        """One run, between two short plain ones that tell what a step costs just now."""
        self._attach(trial)
        workload, attached = self.workload, trial.attached
        assert attached is not None
        samples = workload.test_samples(0)

        def probe() -> float:
            return seconds_of_call(
                lambda: workload.latents(workload.plain, samples, num_steps=_PROBE_STEPS),
                workload.device,
            )

        before = probe()
        seconds = seconds_of_call(lambda: workload.latents(attached, samples), workload.device)
        plain = (before + probe()) / 2 * workload.num_steps / _PROBE_STEPS
        trial.speedup = plain / seconds


def _next_setting(ladder: Sequence[Setting], low: int, flop_ratio: float) -> int:
    """The next setting that could reach a FLOP ratio: those known to stay far below it are not tried."""
    for index in range(low + 1, len(ladder)):
        expected = ladder[index].expected
        if expected is None or expected >= flop_ratio * (1 - SLACK):
            return index
    return len(ladder) - 1


def _reached(trial: Trial) -> float:
    return trial.flop_ratio if trial.speedup is None else trial.speedup


def _flops(run: Callable[[], object]) -> int:
    found = flops_of_call(run)
    assert found
    return int(found)


def measure_speedups(
    workload: Workload, trials: Sequence[Trial], *, repeats: int
) -> tuple[float, float]:
    """Time plain and accelerated runs in turn; sets the trials' speed-ups.

    Returns:
        Median seconds of a plain run, and of decoding a batch.
    """
    samples = workload.test_samples(0)
    sides: list[Attached] = [workload.plain]
    for trial in trials:
        assert trial.attached is not None
        sides.append(trial.attached)
    seconds: list[list[float]] = [[] for _ in sides]
    for round_number in range(repeats):
        for name in round_order([str(i) for i in range(len(sides))], round_number):
            attached = sides[int(name)]
            seconds[int(name)].append(
                seconds_of_call(lambda a=attached: workload.latents(a, samples), workload.device)
            )
    for trial, times in zip(trials, seconds[1:], strict=True):
        # By round: what slowed one round down slowed both.
        trial.speedup = statistics.median(
            plain / own for plain, own in zip(seconds[0], times, strict=True)
        )
    decoding = 0.0
    if workload.decoder is not None:
        latents = workload.latents(workload.plain, samples, num_steps=1)
        decoding = min(
            seconds_of_call(lambda: workload.images(latents), workload.device) for _ in range(2)
        )
    return statistics.median(seconds[0]), decoding
