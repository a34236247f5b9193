# SPDX-License-Identifier: Apache-2.0
"""What is kept of one run of one model, and of the call that it is in."""

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
    """What is kept of one run of one model.

    Attributes:
        director: Decides.
        token_score: How partial steps rank tokens.
        streams: By the place of a call within its step.
        submodules: What attention and feed-forwards returned, for the structure they belong to.
        records: Of its calls.
        peak_bytes: Most bytes that were held for forecasts.
        problem: Why the rest of it is computed plainly; None while all is well.
        notes: Further sentences for the report.
        is_whole: Whether no call was made past us, as while we were paused.
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
        """Bytes of all that is kept now."""
        held = sum(stream.bytes_held for stream in self.streams.values())
        return held + (self.submodules[1].bytes_held if self.submodules is not None else 0)

    def forget(self) -> None:
        """Let go of what was kept for forecasts."""
        self.streams.clear()
        self.submodules = None

    def shorten_to(self, max_bytes: int) -> bool:
        """Drop the oldest outputs while too many bytes are held; returns whether that was enough."""
        while self.bytes_held > max_bytes:
            depth = max((stream.depth for stream in self.streams.values()), default=0)
            modules = None if self.submodules is None else self.submodules[1]
            module_depth = 0 if modules is None else modules.depth
            if max(depth, module_depth) < 2:
                return False
            if modules is not None and module_depth >= max(2, depth):
                modules.drop_oldest()
                continue
            for stream in self.streams.values():
                stream.shorten(depth - 1)
        return True


@dataclass(eq=False)
class DecidedCall:
    """A call that was decided on.

    Attributes:
        run: That it belongs to.
        tick: Which call of the run.
        state: Of the run.
        kind: Of the call.
        layout: How the model is built in it; None where that is to be learned.
        frame: What the hooks are told.
        partial: Segments that run on forecasts of their modules.
        output_weights: Of the outputs whose sum stands in for the call; empty where the model runs.
        began: When, in seconds.
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
        """Whether the model computes just what it would without us."""
        return (
            not self.partial
            and not self.output_weights
            and self.frame.time_window is None
            and all(action == PLAIN for action in self.frame.actions)
        )

    @property
    def forecasts(self) -> bool:
        """Whether anything of it is not computed."""
        return bool(self.partial) or SKIP in self.frame.actions
