# SPDX-License-Identifier: Apache-2.0
"""Finds for each method the setting of a speed, by the seconds of :class:`~genaccel.sampling.costs.Cost`."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from genaccel.sampling.costs import cost_of_call, flops_of_call
from genaccel.sampling.methods import Attached, Method, Setting, Workload

# A measured speed-up this much below a target still counts as it: it is a quotient of two times.
SLACK = 0.03
# Steps of the plain run that tells how fast the machine is just then.
_PROBE_STEPS = 5
# One run tells enough of a setting that is further from the wanted speed than its noise.
_NEAR, _ROUNDS_IF_NEAR = 0.03, 3


@dataclass(slots=True)
class Trial:
    """A method with one setting, on its pipeline.

    Attributes:
        method: The method.
        setting: Its setting.
        flop_ratio: FLOPs of the plain run over those of this one, known from the setting or counted.
        speedup: Speed-up measured on samples for calibration; None if it was not.
        attached: The pipeline; None once it is let go.
    """

    method: Method
    setting: Setting
    flop_ratio: float
    speedup: float | None = None
    attached: Attached | None = None


@dataclass(frozen=True, slots=True)
class Failure:
    """A method that has no row of figures."""

    method: Method
    reason: str

    @classmethod
    def of(cls, method: Method, error: Exception) -> Failure:
        """The failure that an exception of other people's code is."""
        text = " ".join(str(error).split())
        return cls(method, f"{type(error).__name__}: {text[:150]}")


@dataclass(slots=True)
class Search:
    """Finds the slowest setting that reaches a speed.

    Attributes:
        workload: Pipeline and samples that are run.
        is_timed: Whether settings are chosen by time; else by FLOPs.
    """

    workload: Workload
    is_timed: bool = True
    _trials: dict[tuple[str, str], Trial] = field(default_factory=dict)

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
            return Failure.of(method, error)

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
        # FLOPs bound the speed from above, and need no clock.
        while low < high:
            middle = (low + high) // 2
            expected = ladder[middle].expected
            if expected is None:
                expected = self._trial(method, ladder[middle]).flop_ratio
            if expected >= wanted:
                high = middle
            else:
                low = middle + 1
        trial = self._trial(method, ladder[low])
        while self.is_timed and target > 0:
            self._time(trial, wanted)
            assert trial.speedup is not None
            if trial.speedup >= wanted or low + 1 == len(ladder):
                break
            low = _next_setting(ladder, low, wanted * trial.flop_ratio / trial.speedup)
            trial = self._trial(method, ladder[low])
        return trial

    def _trial(self, method: Method, setting: Setting) -> Trial:
        key = (method.name, setting.label)
        if key not in self._trials:
            self._trials[key] = Trial(method, setting, setting.expected or 0.0)
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
        samples = workload.calibration_samples(0)
        # What is measured must have nothing of a first run: ours watches there how a model is built.
        workload.sample(attached, samples, num_steps=2)
        if not trial.flop_ratio or not self.is_timed:
            trial.flop_ratio = plain_flops(workload, samples) / flops_of_run(
                workload, attached, samples
            )
        trial.attached = attached

    def _time(self, trial: Trial, wanted: float) -> None:
        """Measure the speed-up of a trial between short plain runs; near the wanted one, as a median of several."""
        if trial.speedup is not None and _is_clear([trial.speedup], wanted):
            return
        self._attach(trial)
        workload, attached = self.workload, trial.attached
        assert attached is not None
        samples = workload.calibration_samples(0)

        def probe() -> float:
            return cost_of_call(
                lambda: workload.sample(workload.plain, samples, num_steps=_PROBE_STEPS),
                workload.device,
            ).seconds

        ratios: list[float] = []
        plain = probe()
        while not ratios or (len(ratios) < _ROUNDS_IF_NEAR and not _is_clear(ratios, wanted)):
            own = cost_of_call(lambda: workload.sample(attached, samples), workload.device).seconds
            before, plain = plain, probe()
            ratios.append((before + plain) / 2 * workload.num_steps / _PROBE_STEPS / own)
        trial.speedup = statistics.median(ratios)


def _is_clear(ratios: Sequence[float], wanted: float) -> bool:
    return abs(statistics.median(ratios) / wanted - 1) > _NEAR


def _next_setting(ladder: Sequence[Setting], low: int, flop_ratio: float) -> int:
    """The next setting that could reach a FLOP ratio: those known to stay far below it are not tried."""
    for index in range(low + 1, len(ladder)):
        expected = ladder[index].expected
        if expected is None or expected >= flop_ratio * (1 - SLACK):
            return index
    return len(ladder) - 1


def _reached(trial: Trial) -> float:
    return trial.flop_ratio if trial.speedup is None else trial.speedup


def plain_flops(workload: Workload, samples: Any) -> int:
    """FLOPs of a run without acceleration; its steps cost the same."""
    run = flops_of_call(lambda: workload.sample(workload.plain, samples, num_steps=1))
    assert run
    return run * workload.num_steps


def flops_of_run(workload: Workload, attached: Attached, samples: Any) -> int:
    """FLOPs of a run of an accelerated pipeline."""
    flops = flops_of_call(lambda: workload.sample(attached, samples))
    assert flops
    return flops
