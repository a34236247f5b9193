# SPDX-License-Identifier: Apache-2.0
"""The engine's state: one object for each run of a model, and one for the call that it is in."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, field

from genaccel.hooks.blocks import PLAIN, SKIP, CallFrame
from genaccel.hooks.call_record import CallRecord
from genaccel.hooks.clock import Run, Tick
from genaccel.hooks.director import RunDirector, Structure
from genaccel.hooks.learning import Layout
from genaccel.hooks.memory import Stream
from genaccel.hooks.submodule_memory import SubmoduleMemory, TokenScore
from genaccel.hooks.submodules import PartialStep


@dataclass(eq=False)
class RunState:
    """All that the engine keeps for one run of one model.

    Attributes:
        director: Decides what the calls of the run compute.
        token_score: How partial steps rank tokens.
        streams: Memory of calls that follow one another, by the index of a call within its step.
        submodules: Memory of attention and feed-forwards, with the structure that it belongs to.
        records: One for each call so far.
        peak_bytes: Most bytes that were held for forecasts.
        problem: Why the rest of the run is computed plainly; None while all is well.
        notes: Further sentences for the report.
        is_whole: Whether the director was asked about every call; it is not while paused or training.
    """

    director: RunDirector
    token_score: TokenScore = "mean"
    streams: dict[int, Stream] = field(default_factory=dict)
    submodules: tuple[Structure, SubmoduleMemory] | None = None
    records: list[CallRecord] = field(default_factory=list)
    peak_bytes: int = 0
    problem: str | None = None
    notes: list[str] = field(default_factory=list)
    is_whole: bool = True

    @property
    def bytes_held(self) -> int:
        """Bytes of all tensors that are kept now."""
        held = sum(stream.bytes_held for stream in self.streams.values())
        return held + (self.submodules[1].bytes_held if self.submodules is not None else 0)

    def forget(self) -> None:
        """Release the tensors that were kept for forecasts."""
        self.streams.clear()
        self.submodules = None

    def shorten_to(self, max_bytes: int) -> bool:
        """Drop the oldest outputs while too many bytes are held; returns whether that was enough."""
        while self.bytes_held > max_bytes:
            depth = max((stream.depth for stream in self.streams.values()), default=0)
            submodules = None if self.submodules is None else self.submodules[1]
            submodule_depth = 0 if submodules is None else submodules.depth
            if max(depth, submodule_depth) < 2:
                return False
            if submodules is not None and submodule_depth >= max(2, depth):
                submodules.drop_oldest()
                continue
            for stream in self.streams.values():
                stream.shorten(depth - 1)
        return True


@dataclass(eq=False)
class DecidedCall:
    """A call of the model, and what was decided about it.

    Attributes:
        run: The run that it belongs to.
        tick: Its place in the run.
        state: State of the run.
        kind: Kind of the call, as a key.
        layout: How the model is built in it; None where that is to be learned.
        frame: Instructions to the hooks.
        partial: Segments that run on forecasts of their submodules.
        output_weights: Weights of the kept outputs whose sum stands in for the call; empty where the
            model runs.
        began: When it began, in seconds of ``time.perf_counter``.
    """

    run: Run
    tick: Tick
    state: RunState
    kind: Hashable
    layout: Layout | None
    frame: CallFrame
    partial: dict[int, PartialStep] = field(default_factory=dict)
    output_weights: tuple[float, ...] = ()
    began: float = 0.0

    @property
    def is_plain(self) -> bool:
        """Whether the model computes just what it would without acceleration."""
        return (
            not self.partial
            and not self.output_weights
            and self.frame.time_window is None
            and all(action == PLAIN for action in self.frame.actions)
        )

    @property
    def forecasts(self) -> bool:
        """Whether any block of the call is not computed in full."""
        return bool(self.partial) or SKIP in self.frame.actions
