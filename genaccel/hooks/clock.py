# SPDX-License-Identifier: Apache-2.0
"""Clocks: they tell which run, and which step of its sampler, a call of the model belongs to.

Pipelines do not pass the step number to their model; Wan's are the exception. Where a pipeline is at
hand, each of its calls is a run, a context of the thread that made it, and its scheduler reports every
step. A bare model has only the timestep that it is given.
"""

from __future__ import annotations

import itertools
import threading
import types
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from genaccel.hooks.blocks import Parameters

_TIMESTEP_NAMES = ("timestep", "timesteps", "t", "time", "sigma", "time_step")

# The run that this context is in. A module holds nothing else: what a call of a pipeline belongs to
# can't be passed down through code that is not ours.
_CURRENT: ContextVar[Run | None] = ContextVar("genaccel_run", default=None)


def current_run() -> Run | None:
    """The run of the pipeline call that this context is in; None outside of one."""
    return _CURRENT.get()


@dataclass(frozen=True, slots=True)
class Tick:
    """One call of the model.

    Attributes:
        run: Number of the run; it grows with every generation.
        step: Index of the step in this run, from 0. A run from an image begins later in the
            schedule, and its first step is 0 all the same.
        call: Index among the calls of this step, from 0: the halves of classifier-free guidance may
            be two calls.
        num_steps: Steps of the run.
    """

    run: int
    step: int
    call: int
    num_steps: int


@dataclass(eq=False)
class Run:
    """One generation.

    Attributes:
        number: Number of the run, among those of its clock.
        owner: The object that makes the runs; it tells those of two pipelines apart.
        step: Index of the current step, from 0.
        num_steps: Steps of the run, as far as known.
        start: Place of its first step in the scheduler's timesteps.
        states: State that each host keeps for it; the host takes it back at the end,
            by ``run_ended(run, state, whole=...)``.
        is_over: Whether it ended.
    """

    number: int
    owner: Any = None
    step: int = 0
    num_steps: int = 1
    start: int = 0
    states: dict[Any, Any] = field(default_factory=dict)
    is_over: bool = False
    _calls: dict[Any, tuple[int, int]] = field(default_factory=dict)

    def call_begins(self, model: Any) -> Tick:
        """Count a call of a model, and return its place in the run."""
        step, call = self._calls.get(id(model), (-1, 0))
        call = call + 1 if step == self.step else 0
        self._calls[id(model)] = (self.step, call)
        return Tick(self.number, self.step, call, max(self.num_steps, self.step + 1))

    @property
    def steps_done(self) -> int:
        """Number of finished steps; the current one counts, as a bare model never tells that it ended."""
        return self.step + 1

    def end(self, *, whole: bool) -> None:
        """End the run and release all that is kept for it; may be called more than once."""
        states, self.states = self.states, {}
        for host, state in states.items():
            host.run_ended(self, state, whole=whole)
        self._calls.clear()
        self.is_over = True

    def schedule(self) -> list[float]:
        """Timesteps, and noise levels where the scheduler has them; empty if unknown."""
        return []

    def times(self) -> list[float]:
        """The scheduler's timesteps of this run; empty if unknown."""
        return []


class Clock(Protocol):
    """Counts the steps of runs; what is computed in them is the director's business."""

    def claims(self) -> bool:
        """Whether a call of the model in this context belongs to a run of this clock."""

    def call_begins(
        self, model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[Run, Tick]:
        """Count a call that the clock claims, and return its run and its place in it."""

    def call_ends(self, run: Run, tick: Tick) -> None:
        """Note that a call is over."""

    def close(self) -> None:
        """Undo whatever the clock changed, and end its runs."""


class _Counted:
    """A method of one scheduler object that also tells the current run that it was called."""

    def __init__(self, scheduler: Any, name: str) -> None:
        self._scheduler = scheduler
        self._name = name
        self.users = 0
        self.plain = getattr(scheduler, name)
        self.__doc__ = self.plain.__doc__
        # Pipelines ask by inspect.signature which arguments a scheduler's methods take.
        self.__wrapped__ = self.plain

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        result = self.plain(*args, **kwargs)
        run = current_run()
        if isinstance(run, PipelineRun) and run.scheduler is self._scheduler:
            if self._name == "step":
                run.step_ends(kwargs.get("timestep", args[1] if len(args) > 1 else None))
            else:
                run.timesteps_set()
        return result

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        # Some pipelines copy their scheduler; the copy's steps are not ours to count.
        copied = memo.get(id(self._scheduler))
        if copied is None:
            return self.plain
        return types.MethodType(getattr(type(copied), self._name), copied)


def count_steps_of(scheduler: Any) -> None:
    """Let a scheduler tell runs of its steps, until :func:`stop_counting` was called as often."""
    for name in ("set_timesteps", "step"):
        if not hasattr(scheduler, name):
            continue
        counted = vars(scheduler).get(name)
        if not isinstance(counted, _Counted):
            counted = vars(scheduler)[name] = _Counted(scheduler, name)
        counted.users += 1


def stop_counting(scheduler: Any) -> None:
    """Give a scheduler its own methods back, once nobody counts its steps any more."""
    for name in ("set_timesteps", "step"):
        counted = vars(scheduler).get(name)
        if isinstance(counted, _Counted):
            counted.users -= 1
            if counted.users < 1:
                del vars(scheduler)[name]


@dataclass(eq=False)
class PipelineRun(Run):
    """One call of a pipeline.

    Attributes:
        pipeline: The pipeline.
        scheduler: The scheduler that it had when the call began.
        told: Whether the scheduler tells its steps; else changes of the timestep do.
    """

    pipeline: Any = None
    scheduler: Any = None
    told: bool = False
    _last: float | None = None
    _changed: bool = False
    _times: tuple[Any, list[float]] | None = None

    @property
    def steps_done(self) -> int:
        """Number of finished steps; the current one counts where the scheduler reports no ends."""
        return self.step if self.told else self.step + 1

    def timesteps_set(self) -> None:
        """Start counting anew: the scheduler has new timesteps, so a run or another part of one begins."""
        if self._calls:
            self.end(whole=self.step >= self.num_steps)
            self.is_over = False
        self.step = 0
        self.told = self._changed = False
        self._last = None
        self._place(getattr(self.scheduler, "begin_index", None) or 0)

    def step_ends(self, timestep: Any) -> None:
        """Count a step that the scheduler made."""
        if not self.told and not self._changed:
            self.told = True
            self._place(self._first_place(timestep))
        if self.told:
            self.step += 1

    def _place(self, start: int) -> None:
        self.start = start
        self.num_steps = self._count(start)

    def _first_place(self, timestep: Any) -> int:
        """Index in the schedule of the step that just ended, the first one of this run."""
        begin = getattr(self.scheduler, "begin_index", None)
        if isinstance(begin, int):
            return begin
        after = getattr(self.scheduler, "step_index", None)
        if isinstance(after, int) and after > 0:
            return after - 1
        timesteps = getattr(self.scheduler, "timesteps", None)
        if isinstance(timesteps, Tensor) and timestep is not None:
            value = torch.as_tensor(timestep).flatten()[:1].to("cpu", torch.float64)
            found = (timesteps.to("cpu", torch.float64) == value).nonzero()
            if len(found):
                return int(found[0])
        return 0

    def _count(self, start: int) -> int:
        timesteps = getattr(self.scheduler, "timesteps", None)
        left = 1 if timesteps is None else max(1, len(timesteps) - start)
        # Pipelines that end early, or begin late without telling their scheduler, know their steps.
        known = getattr(self.pipeline, "_num_timesteps", None)
        return known if type(known) is int and 0 < known < left else left

    def timestep_seen(self, value: Any) -> None:
        """Count a change of the model's timestep as a step, where the scheduler reports none."""
        if self.told or value is None:
            return
        now = float(value.flatten()[0]) if isinstance(value, Tensor) else float(value)
        if self._last is not None and now != self._last:
            self._changed = True
            self.step += 1
        self._last = now

    def call_begins(self, model: Any) -> Tick:
        """Count a call of a model; at the first ones the number of steps is read off the scheduler."""
        if not self._calls:
            self._place(getattr(self.scheduler, "begin_index", None) or 0)
        elif self.step == 1 and self._changed:
            self._place(self.start)
        return Run.call_begins(self, model)

    def schedule(self) -> list[float]:
        """The scheduler's timesteps of this run, then its noise levels where it has them."""
        return self._values("timesteps") + self._values("sigmas")

    def times(self) -> list[float]:
        """The scheduler's timesteps of this run, read once for as long as the schedule stays."""
        key = (self.start, self.num_steps, id(getattr(self.scheduler, "timesteps", None)))
        if self._times is None or self._times[0] != key:
            self._times = (key, self._values("timesteps"))
        return self._times[1]

    def _values(self, name: str) -> list[float]:
        known = getattr(self.scheduler, name, None)
        if known is None:
            return []
        flat = torch.as_tensor(known).to("cpu", torch.float64).flatten()
        values: list[float] = flat[self.start : self.start + self.num_steps].tolist()
        return values


class PipelineClock:
    """A clock that counts by a pipeline's scheduler, in the runs that one owner makes of its calls.

    Args:
        owner: Owner of the runs, a :class:`~genaccel.hooks.pipeline_runs.PipelineRuns`.
    """

    def __init__(self, owner: Any) -> None:
        self._owner = owner
        self._parameters: dict[type, Parameters] = {}

    def claims(self) -> bool:
        """Whether this context is in a run of the owner's pipeline."""
        run = current_run()
        return run is not None and run.owner is self._owner

    def call_begins(
        self, model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[Run, Tick]:
        """Count a call in the current run, by the model's timestep if the scheduler reports no steps."""
        run = current_run()
        assert isinstance(run, PipelineRun)
        if not run.told:
            parameters = self._parameters.setdefault(type(model), Parameters(model))
            names = [n for n in _TIMESTEP_NAMES if n in parameters.position]
            run.timestep_seen(parameters.get(names[0], args, kwargs) if names else None)
        return run, run.call_begins(model)

    def call_ends(self, run: Run, tick: Tick) -> None:
        """Do nothing: the call of the pipeline ends the run."""

    def close(self) -> None:
        """Do nothing: the owner of the runs gives the scheduler its own methods back."""


class TimestepClock:
    """A clock that counts changes of the model's timestep argument, at the cost of a device sync a call.

    A run ends where the timestep turns back, or after ``num_steps``. Each thread has runs of its own.

    Args:
        model: The model, whose signature says which argument is the timestep.
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
        self._numbers = itertools.count(1)
        self._thread = _ThreadRun()

    def claims(self) -> bool:
        """True for every call: those of a bare model all belong to runs of this clock."""
        return True

    def call_begins(
        self, model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[Run, Tick]:
        """Count a call: a new timestep is a new step, and one that turns back begins a new run."""
        value = self._parameters.get(self._name, args, kwargs)
        now = float(value.flatten()[0]) if isinstance(value, Tensor) else float(value or 0.0)
        mine = self._thread
        if mine.run is None:
            self._begin()
        elif now != mine.last:
            change = now - mine.last
            if mine.run.step + 1 >= self._num_steps or change * mine.direction < 0:
                self._begin()
            else:
                mine.direction = change
                mine.run.step += 1
        mine.last = now
        assert mine.run is not None
        tick = mine.run.call_begins(model)
        if tick.step == 0:
            mine.calls_per_step = max(mine.calls_per_step, tick.call + 1)
        return mine.run, tick

    def call_ends(self, run: Run, tick: Tick) -> None:
        """End the run after the last call of its last step."""
        if tick.step == self._num_steps - 1 and tick.call + 1 >= self._thread.calls_per_step:
            run.end(whole=True)

    def _begin(self) -> None:
        mine = self._thread
        if mine.run is not None and not mine.run.is_over:
            mine.run.end(whole=False)
        mine.run = Run(next(self._numbers), num_steps=self._num_steps)
        mine.calls_per_step = 0
        mine.direction = 0.0

    def close(self) -> None:
        """End the run of this thread."""
        if self._thread.run is not None:
            self._thread.run.end(whole=False)


class _ThreadRun(threading.local):
    def __init__(self) -> None:
        self.run: Run | None = None
        self.last = 0.0
        self.direction = 0.0
        self.calls_per_step = 0
