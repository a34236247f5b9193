# SPDX-License-Identifier: Apache-2.0
"""Which step of the sampler a call of the model belongs to.

No pipeline tells its model, but for Wan's. With a pipeline at hand its scheduler is asked: it is
told of every run and every step. A bare model has only the timestep that it is given.
"""

from __future__ import annotations

import types
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor, nn

from genaccel.hooks.block_lists import Parameters

_TIMESTEP_NAMES = ("timestep", "timesteps", "t", "time", "sigma", "time_step")


@dataclass(frozen=True, slots=True)
class Tick:
    """One call of the model.

    Attributes:
        run: Grows with every generation.
        step: From 0.
        call: From 0, among the calls of this step: the halves of classifier-free guidance, if they
            come one after the other.
        num_steps: Steps of the run.
        follows_whole_run: Whether the run before came to its last step.
    """

    run: int
    step: int
    call: int
    num_steps: int
    follows_whole_run: bool = False


class StepClock(Protocol):
    """Counts steps, and knows nothing of what is done in them."""

    def tick(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tick:
        """A call of the model begins."""

    def close(self) -> None:
        """Leave everything as it was."""


class _Counted:
    """A method of one scheduler object that also tells the clocks of all who follow it."""

    def __init__(self, scheduler: Any, name: str) -> None:
        self._scheduler = scheduler
        self._name = name
        self.told: list[Callable[[], None]] = []
        self.plain = getattr(scheduler, name)
        self.__doc__ = self.plain.__doc__
        # Pipelines ask by inspect.signature which arguments a scheduler's methods take.
        self.__wrapped__ = self.plain

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        result = self.plain(*args, **kwargs)
        for tell in self.told:
            tell()
        return result

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        # Some pipelines copy their scheduler; the copy's steps are not ours to count.
        copied = memo.get(id(self._scheduler))
        if copied is None:
            return self.plain
        return types.MethodType(getattr(type(copied), self._name), copied)


class SchedulerClock:
    """Counts by the calls of ``set_timesteps`` and ``step`` of a pipeline's scheduler.

    Args:
        pipeline: Its ``scheduler`` may be exchanged later on.
    """

    def __init__(self, pipeline: Any) -> None:
        self._pipeline = pipeline
        self._scheduler: Any = None
        self._run = 0
        self._step = 0
        self._call = 0
        self._num_steps = 0
        self._was_whole = False
        self._follow()

    def _follow(self) -> None:
        if self._pipeline.scheduler is self._scheduler:
            return
        self.close()
        self._scheduler = self._pipeline.scheduler
        for name, tell in self._told().items():
            # Pipelines may share a scheduler.
            counted = vars(self._scheduler).get(name)
            if not isinstance(counted, _Counted):
                counted = vars(self._scheduler)[name] = _Counted(self._scheduler, name)
            counted.told.append(tell)

    def _told(self) -> dict[str, Callable[[], None]]:
        return {"set_timesteps": self._run_begins, "step": self._step_ends}

    def _run_begins(self) -> None:
        self._was_whole = 0 < self._num_steps <= self._step
        self._run += 1
        self._step = self._call = 0

    def _step_ends(self) -> None:
        self._step += 1
        self._call = 0

    def tick(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tick:
        """See :class:`StepClock`."""
        if self._pipeline.scheduler is not self._scheduler:
            self._run += 1
            self._step = self._call = 0
            self._follow()
        scheduler = self._scheduler
        timesteps = getattr(scheduler, "timesteps", None)
        num_steps = len(timesteps) if timesteps is not None else 1
        # Image-to-image runs leave out the first steps.
        begin = getattr(scheduler, "begin_index", None) or 0
        self._num_steps = num_steps - begin
        tick = Tick(self._run, begin + self._step, self._call, num_steps, self._was_whole)
        self._call += 1
        return tick

    def close(self) -> None:
        """Give the scheduler its own methods back."""
        if self._scheduler is not None:
            for name, tell in self._told().items():
                counted = vars(self._scheduler).get(name)
                if isinstance(counted, _Counted) and tell in counted.told:
                    counted.told.remove(tell)
                    if not counted.told:
                        del vars(self._scheduler)[name]
            self._scheduler = None


class TimestepClock:
    """Counts by the changes of the model's timestep argument, which costs a device a wait each step.

    A run ends where the timestep turns back, or after ``num_steps``.

    Args:
        model: Its signature says where the timestep is.
        num_steps: Steps of each run.

    Raises:
        ValueError: If the model has no argument that looks like a timestep.
    """

    def __init__(self, model: nn.Module, num_steps: int) -> None:
        if num_steps < 1:
            raise ValueError(f"num_inference_steps must be at least 1, got {num_steps}")
        self._parameters = Parameters(model)
        names = [n for n in _TIMESTEP_NAMES if n in self._parameters.position]
        if not names:
            raise ValueError(
                f"{type(model).__name__} takes none of the arguments {', '.join(_TIMESTEP_NAMES)}; "
                "pass the pipeline instead of the model"
            )
        self._name = names[0]
        self._num_steps = num_steps
        self._run = 0
        self._step = self._call = 0
        self._last: float | None = None
        self._direction = 0.0

    def tick(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tick:
        """See :class:`StepClock`."""
        value = self._parameters.get(self._name, args, kwargs)
        now = float(value.flatten()[0]) if isinstance(value, Tensor) else float(value or 0.0)
        if self._last is None:
            self._begin()
        elif now != self._last:
            change = now - self._last
            if self._step + 1 >= self._num_steps or change * self._direction < 0:
                self._begin()
            else:
                self._direction = change
                self._step += 1
                self._call = 0
        self._last = now
        tick = Tick(self._run, self._step, self._call, self._num_steps)
        self._call += 1
        return tick

    def _begin(self) -> None:
        self._run += 1
        self._step = self._call = 0
        self._direction = 0.0

    def close(self) -> None:
        """Nothing to undo."""
