# SPDX-License-Identifier: Apache-2.0
"""Makes a run of every call of one pipeline, and of nothing else.

A call is a context of the thread that made it. Calls of the model outside of it, by another pipeline on
the same weights, a callback or a training step, belong to no run and compute plainly.
"""

from __future__ import annotations

import copy
import functools
import inspect
import itertools
from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from genaccel.hooks.clock import (
    _CURRENT,
    PipelineRun,
    count_steps_of,
    current_run,
    stop_counting,
)
from genaccel.hooks.unhook import new_instance

_NAME = "_genaccel_runs"


class PipelineRuns:
    """The calls of one pipeline, for all that accelerates it.

    The pipeline's class becomes a subclass of itself with a ``__call__`` of ours, the only way to
    know of a call of one instance, until nobody needs to know any more.

    Args:
        pipeline: A diffusers pipeline.

    Attributes:
        begins: Functions that are called before each run.
        kinds: Kinds of handles that accelerate the pipeline, so that none does so twice.
    """

    def __init__(self, pipeline: Any) -> None:
        self.pipeline = pipeline
        self.begins: list[Callable[[], None]] = []
        self.kinds: list[Any] = []
        self._numbers = itertools.count(1)
        self._stock = type(pipeline)
        self._scheduler: Any = None
        self._users = 0

    @classmethod
    def of(cls, pipeline: Any) -> PipelineRuns:
        """The runs of a pipeline; :meth:`release` them when they are not needed any more."""
        runs = vars(pipeline).get(_NAME)
        if not isinstance(runs, cls) or runs.pipeline is not pipeline:
            runs = cls(pipeline)
            vars(pipeline)[_NAME] = runs
            pipeline.__class__ = _with_runs(type(pipeline))
            runs._follow_scheduler()
        runs._users += 1
        return runs

    def release(self) -> None:
        """Leave the pipeline as it was, if nobody else needs its runs."""
        self._users -= 1
        if self._users > 0:
            return
        if vars(self.pipeline).get(_NAME) is self:
            del vars(self.pipeline)[_NAME]
            self.pipeline.__class__ = self._stock
        if self._scheduler is not None:
            stop_counting(self._scheduler)
            self._scheduler = None

    def _follow_scheduler(self) -> None:
        scheduler = getattr(self.pipeline, "scheduler", None)
        if scheduler is self._scheduler:
            return
        if self._scheduler is not None:
            stop_counting(self._scheduler)
        self._scheduler = scheduler
        if scheduler is not None:
            count_steps_of(scheduler)

    def run(self, call: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Make a call of the pipeline, as a run."""
        outer = current_run()
        if outer is not None and outer.owner is self:
            return call(*args, **kwargs)
        self._follow_scheduler()
        for begins in list(self.begins):
            begins()
        run = PipelineRun(
            next(self._numbers), owner=self, pipeline=self.pipeline, scheduler=self._scheduler
        )
        token = _CURRENT.set(run)
        whole = False
        try:
            result = call(
                *(_outside_of_runs(value) for value in args),
                **{name: _outside_of_runs(value) for name, value in kwargs.items()},
            )
            # Interrupted pipelines end their loop without calling the model.
            whole = not getattr(self.pipeline, "_interrupt", False)
        finally:
            _CURRENT.reset(token)
            run.end(whole=whole)
        return result


def _with_runs(stock: type) -> type:
    """A subclass of a pipeline class whose calls are runs; it goes by the same name."""
    stock_call = stock.__call__

    @functools.wraps(stock_call)
    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        bound = functools.partial(stock_call, self)
        runs = vars(self).get(_NAME)
        return bound(*args, **kwargs) if runs is None else runs.run(bound, args, kwargs)

    def reduce(self: Any, protocol: Any) -> Any:
        # A copy is a plain pipeline.
        reduction: Any = object.__reduce_ex__(self, protocol)
        _, (_, *rest), state, *more = reduction
        if isinstance(state, dict):
            state = {key: value for key, value in state.items() if not key.startswith("_genaccel")}
        return (new_instance, (stock, *rest), state, *more)

    made = type(
        stock.__name__,
        (stock,),
        {
            "__call__": call,
            "__reduce_ex__": reduce,
            "__module__": stock.__module__,
            "__qualname__": stock.__qualname__,
            "__doc__": stock.__doc__,
        },
    )
    return made


def _outside_of_runs(value: Any) -> Any:
    """A callback that is no part of the run it is called in; anything else as it is."""
    if not callable(value) or isinstance(value, Tensor | nn.Module | type):
        return value
    if inspect.isroutine(value) or isinstance(value, functools.partial):

        @functools.wraps(value)
        def suspended(*args: Any, **kwargs: Any) -> Any:
            token = _CURRENT.set(None)
            try:
                return value(*args, **kwargs)
            finally:
                _CURRENT.reset(token)

        return suspended
    # diffusers looks at the class of its own callbacks, and they may keep something.
    plain_call = type(value).__call__

    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        token = _CURRENT.set(None)
        try:
            return plain_call(value, *args, **kwargs)
        finally:
            _CURRENT.reset(token)

    try:
        wrapped = copy.copy(value)
        wrapped.__class__ = type(type(value).__name__, (type(value),), {"__call__": call})
    except TypeError:  # of a class that can't be derived from or exchanged
        return value
    return wrapped
