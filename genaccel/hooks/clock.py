# SPDX-License-Identifier: Apache-2.0
"""Which run, and which step of its sampler, a call of the model belongs to.

No pipeline tells its model, but for Wan's. With a pipeline at hand, each of its calls is a run, a
context of the thread that made it, and its scheduler tells of every step. A bare model has only the
timestep that it is given.
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
    """The run of the pipeline call that this context is in."""
    return _CURRENT.get()


@dataclass(frozen=True, slots=True)
class Tick:
    """One call of the model.

    Attributes:
        run: Grows with every generation.
        step: From 0, of those that this run has: one from an image begins later in the schedule.
        call: From 0, among the calls of this step: the halves of classifier-free guidance, if they
            come one after the other.
        num_steps: Steps of the run.
    """

    run: int
    step: int
    call: int
    num_steps: int


class RunHost(Protocol):
    """Keeps something for the time of a run."""

    def run_ended(self, run: Run, state: Any, *, whole: bool) -> None:
        """A run is over, and what was kept for it is let go.

        Args:
            run: Which one.
            state: What was kept.
            whole: Whether it came to its last step.
        """


@dataclass(eq=False)
class Run:
    """One generation.

    Attributes:
        number: Of the run, among those of its clock.
        owner: What makes the runs; tells those of two pipelines apart.
        step: At hand, from 0.
        num_steps: Steps of the run, as far as known.
        start: Place of its first step in the scheduler's timesteps.
        states: What each host keeps for it.
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
        """Count a call of a model."""
        step, call = self._calls.get(id(model), (-1, 0))
        call = call + 1 if step == self.step else 0
        self._calls[id(model)] = (self.step, call)
        return Tick(self.number, self.step, call, max(self.num_steps, self.step + 1))

    @property
    def steps_done(self) -> int:
        """Steps that are over, or at hand where nothing tells of their ends."""
        return self.step + 1

    def end(self, *, whole: bool) -> None:
        """Let go of all that is kept for the run; may be called more than once."""
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
    """Counts steps, and knows nothing of what is done in them."""

    def claims(self) -> bool:
        """Whether a call of the model in this context belongs to a run of this clock."""

    def call_begins(
        self, model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[Run, Tick]:
        """Count a call; only where it is claimed."""

    def call_ends(self, run: Run, tick: Tick) -> None:
        """The call is over."""

    def close(self) -> None:
        """Leave everything as it was."""


class _Counted:
    """A method of one scheduler object that also tells the run at hand."""

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
        pipeline: It.
        scheduler: The one that it had when the call began.
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
        """See :class:`Run`."""
        return self.step if self.told else self.step + 1

    def timesteps_set(self) -> None:
        """The scheduler has new timesteps: a run begins, or another part of one."""
        if self._calls:
            self.end(whole=self.step >= self.num_steps)
            self.is_over = False
        self.step = 0
        self.told = self._changed = False
        self._last = None
        self._place(getattr(self.scheduler, "begin_index", None) or 0)

    def step_ends(self, timestep: Any) -> None:
        """The scheduler made a step."""
        if not self.told and not self._changed:
            self.told = True
            self._place(self._first_place(timestep))
        if self.told:
            self.step += 1

    def _place(self, start: int) -> None:
        self.start = start
        self.num_steps = self._count(start)

    def _first_place(self, timestep: Any) -> int:
        """Where in the schedule the step was that just ended, the first one of this run."""
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
        """A model was called with a timestep: that counts where the scheduler tells nothing."""
        if self.told or value is None:
            return
        now = float(value.flatten()[0]) if isinstance(value, Tensor) else float(value)
        if self._last is not None and now != self._last:
            self._changed = True
            self.step += 1
        self._last = now

    def call_begins(self, model: Any) -> Tick:
        """See :class:`Run`."""
        if not self._calls:
            self._place(getattr(self.scheduler, "begin_index", None) or 0)
        elif self.step == 1 and self._changed:
            self._place(self.start)
        return Run.call_begins(self, model)

    def schedule(self) -> list[float]:
        """See :class:`Run`."""
        return self._values("timesteps") + self._values("sigmas")

    def times(self) -> list[float]:
        """See :class:`Run`."""
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
    """Counts by the scheduler of a pipeline, in the runs that one owner makes of its calls.

    Args:
        owner: Of the runs; see :class:`~genaccel.hooks.pipeline_runs.PipelineRuns`.
    """

    def __init__(self, owner: Any) -> None:
        self._owner = owner
        self._parameters: dict[type, Parameters] = {}

    def claims(self) -> bool:
        """See :class:`Clock`."""
        run = current_run()
        return run is not None and run.owner is self._owner

    def call_begins(
        self, model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[Run, Tick]:
        """See :class:`Clock`."""
        run = current_run()
        assert isinstance(run, PipelineRun)
        if not run.told:
            parameters = self._parameters.setdefault(type(model), Parameters(model))
            names = [n for n in _TIMESTEP_NAMES if n in parameters.position]
            run.timestep_seen(parameters.get(names[0], args, kwargs) if names else None)
        return run, run.call_begins(model)

    def call_ends(self, run: Run, tick: Tick) -> None:
        """See :class:`Clock`."""

    def close(self) -> None:
        """See :class:`Clock`."""


class TimestepClock:
    """Counts by the changes of the model's timestep argument, which costs a device a wait each step.

    A run ends where the timestep turns back, or after ``num_steps``. Each thread has runs of its own.

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
        self._numbers = itertools.count(1)
        self._thread = _ThreadRun()

    def claims(self) -> bool:
        """See :class:`Clock`: a bare model is always in some run, and in that of a pipeline not."""
        return True

    def call_begins(
        self, model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[Run, Tick]:
        """See :class:`Clock`."""
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
        """See :class:`Clock`."""
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
        """See :class:`Clock`."""
        if self._thread.run is not None:
            self._thread.run.end(whole=False)


class _ThreadRun(threading.local):
    def __init__(self) -> None:
        self.run: Run | None = None
        self.last = 0.0
        self.direction = 0.0
        self.calls_per_step = 0
