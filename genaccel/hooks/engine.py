# SPDX-License-Identifier: Apache-2.0
"""Runs the calls of a bound model as a director says: computes, keeps, forecasts.

Data flow of a call: the clock says which run and which step it is; the first call of each kind is
computed and watched; the director decides for each segment; forecasts of all skipped segments are made
in one go; the model runs, its blocks computing or passing through; what computed segments added is kept
for later forecasts, as long as the run lasts.

No error of the engine fails a call: the call is computed as it would have been without acceleration, as
are those that follow in the run, and a warning says why.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from genaccel.hooks.binding import AlreadyEnabledError, Binding, Forward
from genaccel.hooks.blocks import SKIP, CallFrame, Parameters
from genaccel.hooks.call_kind import call_kind, first_states_shape, first_tensor
from genaccel.hooks.call_record import CallRecord, record_call
from genaccel.hooks.clock import Clock, PipelineClock, Run, Tick, current_run
from genaccel.hooks.directing import direct, stream_of, submodule_memory_of, window_of
from genaccel.hooks.director import Director, Structure
from genaccel.hooks.flop_count import FlopCount
from genaccel.hooks.learning import CallWatcher, KnownLayouts, Layout
from genaccel.hooks.run_state import DecidedCall, RunState
from genaccel.hooks.segments import Segment
from genaccel.hooks.submodule_memory import TokenScore

_logger = logging.getLogger(__name__)

# What it takes to watch a call, compiled blocks running as they are written, is set for all threads.
_WATCHING = threading.RLock()

# What our own code and forecasts of wrong shape raise. Others belong to whoever raised them: a model
# that is cancelled from within must stay cancelled.
_OURS = ("builtins", "torch", "torch._C")


class Engine:
    """Accelerates one model.

    Args:
        model: Any model with lists of transformer blocks.
        clock: Tells which run and step a call belongs to.
        director: Decides what is computed in it.
        max_blocks: Longest run of blocks that is skipped as one, or None for any.
        max_bytes: Most bytes that are kept for forecasts, or None for no limit. The oldest go first,
            which lowers the order of forecasts.
        token_score: How partial steps rank tokens.

    Raises:
        AlreadyEnabledError: If the model is accelerated already, for the same calls.
        ValueError: If it has no lists of transformer blocks.
    """

    def __init__(
        self,
        model: nn.Module,
        clock: Clock,
        director: Director,
        *,
        max_blocks: int | None = None,
        max_bytes: int | None = None,
        token_score: TokenScore = "mean",
    ) -> None:
        self.clock = clock
        self.director = director
        self.max_blocks = max_blocks
        self.max_bytes = max_bytes
        self.token_score: TokenScore = token_score
        self.binding: Binding
        self._paused = 0
        self._warned: set[str] = set()
        self.bind(model)

    def bind(self, model: nn.Module) -> None:
        """Accelerate this model, and no other any more.

        Raises:
            AlreadyEnabledError: If it is accelerated already, for the same calls.
            ValueError: If it has no lists of transformer blocks.
        """
        binding = Binding.of(model)
        of_pipeline = isinstance(self.clock, PipelineClock)
        if not of_pipeline and any(
            isinstance(host, Engine) and not isinstance(host.clock, PipelineClock)
            for host in binding.hosts
        ):
            raise AlreadyEnabledError(
                f"{type(binding.model).__name__} is accelerated already; call disable() on its handle first"
            )
        self.unbind()
        self.binding = binding
        self.parameters = Parameters(binding.model)
        self._layouts = KnownLayouts()
        self._latest: RunState | None = None
        self._newest: Layout | None = None
        self._plain_calls = binding.plain_calls
        binding.add(self, first=of_pipeline)

    def unbind(self) -> None:
        """Take the hooks away from the model, unless somebody else needs them too."""
        if hasattr(self, "binding"):
            self.binding.remove(self)

    def detach(self) -> None:
        """End the acceleration. The model then computes what it did before, bit for bit."""
        self.unbind()
        self.clock.close()
        self.reset()

    @property
    def model(self) -> Any:
        """The model, without what ``torch.compile`` wrapped around it."""
        return self.binding.model

    @property
    def structure(self) -> Structure | None:
        """How the model is built in the kind of call that was learned last; None before the first call."""
        return None if self._newest is None else self._newest.structure

    @property
    def segments(self) -> list[Segment]:
        """Segments of :attr:`structure`; empty before the first call."""
        return [] if self._newest is None else list(self._newest.structure.segments)

    @property
    def total_flops(self) -> int:
        """FLOPs of a plain call of :attr:`structure`; 0 before the first call."""
        return 0 if self._newest is None else self._newest.structure.total_flops

    @property
    def left_out(self) -> list[str]:
        """Blocks that are always computed, and why."""
        return [] if self._newest is None else list(self._newest.structure.left_out)

    @property
    def is_learned(self) -> bool:
        """Whether a call has been watched."""
        return self._newest is not None

    @property
    def latest(self) -> RunState | None:
        """State of the run that began last; None before the first."""
        return self._latest

    @property
    def records(self) -> Sequence[CallRecord]:
        """Records of the calls of the last run."""
        return () if self._latest is None else self._latest.records

    @property
    def bytes_held(self) -> int:
        """Bytes of all that is kept of the last run."""
        return 0 if self._latest is None else self._latest.bytes_held

    @property
    def peak_bytes(self) -> int:
        """Most bytes that were kept in the last run."""
        return 0 if self._latest is None else self._latest.peak_bytes

    @property
    def plain_calls(self) -> int:
        """Calls of the model since it was bound that belonged to no run of anybody."""
        return self.binding.plain_calls - self._plain_calls

    def reset(self) -> None:
        """Forget what was computed; the next call computes everything."""
        if self._latest is not None:
            self._latest.forget()

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Run as if nothing were attached; what is kept is forgotten."""
        self.reset()
        self._paused += 1
        try:
            yield
        finally:
            self._paused -= 1

    def claims(self) -> bool:
        """Whether the clock counts the call that begins in this context."""
        return self.clock.claims()

    def run_call(self, forward: Forward, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Make a call as the director decides; plainly while paused, and in training."""
        if self._paused or (self.model.training and torch.is_grad_enabled()):
            run = current_run()
            if run is not None and self in run.states:
                run.states[self].is_whole = False
            return forward(*args, **kwargs)
        try:
            run, tick = self.clock.call_begins(self.model, args, kwargs)
            state = run.states.get(self)
            if state is None:
                state = self._latest = run.states[self] = RunState(
                    self.director.begin(run), self.token_score
                )
        except Exception as error:
            self.warn(f"a call of {type(self.model).__name__} is not accelerated: {error}")
            return forward(*args, **kwargs)
        try:
            return self._run_call(run, tick, state, forward, args, kwargs)
        except BaseException:
            state.forget()
            raise
        finally:
            self.clock.call_ends(run, tick)

    def run_ended(self, run: Run, state: RunState, *, whole: bool) -> None:
        """Let the director finish a run that is over, and release what was kept for it."""
        try:
            is_ours = self in self.binding.hosts
            state.director.finish(
                whole=whole and is_ours and state.is_whole and state.problem is None
            )
        except Exception as error:
            sentence = f"nothing was learned from a run of {type(self.model).__name__}: {error}"
            state.notes.append(sentence)
            self.warn(sentence)
        state.forget()

    def _run_call(
        self,
        run: Run,
        tick: Tick,
        state: RunState,
        forward: Forward,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> Any:
        plain = functools.partial(forward, *args, **kwargs)
        if state.problem is not None:
            return self._plain_call(tick, state, plain)
        try:
            call = self._begin(run, tick, state, args, kwargs)
        except Exception as error:
            self._give_up(state, error)
            return self._plain_call(tick, state, plain)
        if call.layout is None:
            return self._watch(call, forward, args, kwargs)
        try:
            if call.output_weights:
                return self._forecast_output(call)
            output = self.binding.in_frame(call.frame, forward, args, kwargs)
        except Exception as error:
            if call.is_plain or type(error).__module__ not in _OURS:
                raise
            layout, had_window = call.layout, call.frame.time_window is not None
            # Before the call is repeated: memory may be what was lacking.
            self._give_up(state, error)
            del call
            output = self._plain_call(tick, state, plain)
            if had_window:
                layout.time_scale = None  # it was us: the model itself can be run
            return output
        try:
            is_as_learned = self._end(call, output)
        except Exception as error:
            self._give_up(state, error)
            return output
        if not is_as_learned and call.forecasts:
            return self._plain_call(tick, state, plain)
        return output

    def _plain_call(self, tick: Tick, state: RunState, plain: Callable[[], Any]) -> Any:
        began = time.perf_counter()
        output = plain()
        count = len(self.segments)
        state.records.append(
            CallRecord(tick, (True,) * count, time.perf_counter() - began, (False,) * count)
        )
        return output

    def _give_up(self, state: RunState, error: BaseException) -> None:
        """Compute the rest of a run plainly."""
        state.forget()
        text = str(error).partition("\n")[0]
        named = text if isinstance(error, ValueError) else f"{type(error).__name__}: {text}"
        self.give_up(state, named)

    def give_up(self, state: RunState, reason: str) -> None:
        """Compute the rest of a run plainly, and say why."""
        state.forget()
        state.problem = reason
        self.warn(
            f"{type(self.model).__name__} is not accelerated any more in this run, and computed in full: {reason}"
        )

    def warn(self, sentence: str) -> None:
        """Log a warning, each sentence once."""
        if sentence not in self._warned:
            self._warned.add(sentence)
            _logger.warning("%s", sentence)

    def _begin(
        self,
        run: Run,
        tick: Tick,
        state: RunState,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> DecidedCall:
        """Decide what the blocks do in the call that follows, and make the forecasts for it."""
        kind = call_kind(self.parameters, args, kwargs)
        layout = self._layouts.get(kind)
        if layout is None:
            return DecidedCall(run, tick, state, kind, None, CallFrame())
        frame = CallFrame(layout.places, len(layout.structure.segments))
        call = DecidedCall(run, tick, state, kind, layout, frame)
        if self._layouts.is_unsteady(kind):
            return call
        stream = stream_of(call)
        decision = state.director.decide(tick, layout.structure, stream)
        if decision.output_weights and stream.outputs.steps:
            call.output_weights = decision.output_weights
        elif decision.segments:
            states = first_tensor(args, kwargs)
            direct(call, stream, decision, states)
            if decision.time_weights and states is not None:
                frame.time_window = window_of(call, decision, states.device)
        call.began = time.perf_counter()
        return call

    def _forecast_output(self, call: DecidedCall) -> Any:
        """Forecast the output of the model from those that are kept, without running it."""
        assert call.layout is not None
        structure = call.layout.structure
        output = call.state.streams[call.tick.call].outputs.combine(call.output_weights)
        count = len(structure.segments)
        call.state.records.append(
            CallRecord(
                call.tick,
                (False,) * count,
                time.perf_counter() - call.began,
                (False,) * count,
                structure.total_flops,
            )
        )
        call.state.director.ended(call.tick, structure, [None] * count, None)
        return output

    def _end(self, call: DecidedCall, output: Any) -> bool:
        """Keep what the computed segments added; returns whether the call was built as expected."""
        seconds = time.perf_counter() - call.began
        layout, frame, state, tick = call.layout, call.frame, call.state, call.tick
        assert layout is not None
        if frame.broken or frame.called != layout.called:
            self._surprised(call)
            return False
        state.records.append(
            record_call(
                tick,
                seconds,
                layout.structure.segments,
                [action == SKIP for action in frame.actions],
                call.partial,
                layout.structure.layers,
            )
        )
        if self._layouts.is_unsteady(call.kind):
            return True
        director, copies = state.director, self.binding.copies_outputs
        if frame.submodules is not None:
            memory = submodule_memory_of(call)
            assert memory is not None
            if director.observes_feed_forwards:
                memory.observed(
                    frame.submodules, functools.partial(director.feed_forward_called, tick)
                )
            memory.end_call(
                frame.submodules,
                history=director.submodule_history,
                updates=[i for i, step in call.partial.items() if step.weights == (1.0,)],
                copies=copies,
            )
        added = [
            # The memory of a CUDA graph's outputs is used again by its next replay.
            None
            if tensors is None
            else tuple(t.detach().clone() if copies else t.detach() for t in tensors)
            for tensors in frame.added
        ]
        self._keep(call, added, output)
        return True

    def _keep(
        self, call: DecidedCall, added: Sequence[tuple[Tensor, ...] | None], output: Any
    ) -> None:
        assert call.layout is not None
        state, step, director = call.state, call.tick.step, call.state.director
        stream = stream_of(call)
        for memory, tensors in zip(stream.memories, added, strict=True):
            if tensors is not None:
                memory.keep(step, tensors, history=director.history)
        if director.output_history > 0 and not call.forecasts:
            stream.outputs.keep(step, output, history=director.output_history)
        if self._is_over_budget(state):
            return
        state.peak_bytes = max(state.peak_bytes, state.bytes_held)
        director.ended(call.tick, call.layout.structure, added, output)

    def _is_over_budget(self, state: RunState) -> bool:
        """Drop the oldest outputs while too many bytes are held; give up if that is not enough."""
        if self.max_bytes is None:
            return False
        if state.shorten_to(self.max_bytes):
            return False
        self.give_up(
            state,
            f"forecasts of {type(self.model).__name__} hold {state.bytes_held / 1e6:.1f} MB at least, "
            f"which is over the budget of {self.max_bytes / 1e6:g} MB: raise cache_megabytes",
        )
        return True

    def _surprised(self, call: DecidedCall) -> None:
        """Let a kind of call be learned anew, after one that was not built like those before."""
        self._layouts.surprised(call.kind)
        call.state.streams.pop(call.tick.call, None)
        why = call.frame.broken[0] if call.frame.broken else "other blocks were called"
        sentence = (
            f"{type(self.model).__name__} was built otherwise than before in a call of the same kind ({why}): "
            + (
                "it is computed in full"
                if self._layouts.is_unsteady(call.kind)
                else "it is learned anew"
            )
        )
        call.state.notes.append(sentence)
        _logger.info("%s", sentence)

    def _watch(
        self, call: DecidedCall, forward: Forward, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        """Compute a call, and learn from it how the model is built."""
        state, tick = call.state, call.tick
        try:
            hooks = self.binding.hook_submodules() if self.director.wants_submodules else None
            time_hooks = self.binding.hook_times() if self.director.wants_times else None
        except Exception as error:
            self._give_up(state, error)
            return self._plain_call(tick, state, functools.partial(forward, *args, **kwargs))
        if time_hooks is not None:
            call.frame.seen_times = []
        keeps = state.director.history > 0
        began = time.perf_counter()
        with _WATCHING, torch.compiler.set_stance("force_eager"), FlopCount() as counter:
            watcher = CallWatcher(self.binding, hooks, counter, call.frame, self.max_blocks, keeps)
            output = self.binding.in_frame(call.frame, forward, args, kwargs)
        seconds = time.perf_counter() - began
        try:
            if watcher.error is not None:
                raise watcher.error
            layout = watcher.layout(first_states_shape(args, kwargs), counter.total, output)
            times = call.run.times()
            if time_hooks is not None and tick.step < len(times):
                layout.time_scale = time_hooks.scale(call.frame.seen_times or (), times[tick.step])
            layout.structure = dataclasses.replace(
                layout.structure, takes_windows=layout.time_scale is not None
            )
            call.layout = self._newest = layout
            self._layouts.keep(call.kind, layout)
            count = len(layout.structure.segments)
            state.records.append(
                CallRecord(tick, (True,) * count, seconds, (False,) * count, is_watched=True)
            )
            added = watcher.learner.added() if keeps else [None] * count
            state.director.learn(tick, layout.structure)
            self._keep_watched(call, args, kwargs)
            self._keep(call, added, output)
        except Exception as error:
            self._give_up(state, error)
        return output

    def _keep_watched(
        self, call: DecidedCall, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> None:
        memory, submodules = submodule_memory_of(call), call.frame.submodules
        if memory is None or submodules is None:
            return
        tick, director = call.tick, call.state.director
        stream_of(call)
        if director.observes_feed_forwards:
            memory.observed(submodules, functools.partial(director.feed_forward_called, tick))
        if director.submodule_history > 0:
            memory.keep_watched(submodules, tick.call, tick.step, first_tensor(args, kwargs))
