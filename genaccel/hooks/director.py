# SPDX-License-Identifier: Apache-2.0
"""Who decides what a model computes, and what it is told: the protocol between the methods and the engine."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor

from genaccel.hooks.clock import Run, Tick
from genaccel.hooks.memory import Stream
from genaccel.hooks.segments import Segment
from genaccel.hooks.submodules import Layer, PartialStep


@dataclass(frozen=True, slots=True)
class Decision:
    """What to do with a segment at one call.

    Attributes:
        compute: Run its blocks in full.
        weights: If not: for each tensor that it returns the weights of what it added at the last
            computed steps, the newest first.
        offsets: For each tensor a number to add to that.
        partial: Instead of both: run its blocks on forecast outputs of their modules. Where these
            are not known, the blocks are run in full.
    """

    compute: bool
    weights: tuple[tuple[float, ...], ...] = ()
    offsets: tuple[float, ...] = ()
    partial: PartialStep | None = None


COMPUTE = Decision(compute=True)


@dataclass(frozen=True, slots=True)
class CallDecision:
    """What to do at one call.

    Attributes:
        segments: One decision for each segment.
        output_weights: Instead: do not run the model at all, and return the sum of its outputs at
            the last computed steps, the newest first, with these weights.
        time_weights: Steps of the run and what each counts, where the model is to be given the mean
            of their embedded times instead of its own (:mod:`genaccel.hooks.time_window`). A model
            that embeds its time in another way gets its own.
    """

    segments: Sequence[Decision] = ()
    output_weights: tuple[float, ...] = ()
    time_weights: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True, slots=True, eq=False)
class Structure:
    """How a model is built in one kind of call.

    Attributes:
        segments: Runs of blocks that can be skipped as one.
        layers: Blocks that can run partially; none unless they are wanted.
        total_flops: Of a call.
        input_shape: Of the first tensor of more than two dimensions that the model takes.
        left_out: Blocks that are in no segment, and why.
        output_bytes: Of what the model returns.
        takes_windows: Whether it can be given the mean of several times.
    """

    segments: tuple[Segment, ...]
    layers: tuple[Layer, ...]
    total_flops: int
    input_shape: tuple[int, ...] = ()
    left_out: tuple[str, ...] = ()
    output_bytes: int = 0
    takes_windows: bool = False

    @property
    def names(self) -> tuple[str, ...]:
        """Of the segments: what a plan for this kind of call belongs to."""
        return tuple(segment.name for segment in self.segments)


class RunDirector(Protocol):
    """Decides what is computed in one run."""

    @property
    def history(self) -> int:
        """Computed outputs to keep for each segment; 0 keeps none."""

    @property
    def module_history(self) -> int:
        """Outputs of attention and feed-forward modules to keep; 0 keeps none."""

    @property
    def output_history(self) -> int:
        """Outputs of the model to keep; 0 keeps none."""

    @property
    def observes_feed_forwards(self) -> bool:
        """Whether :meth:`feed_forward_called` wants to know."""

    def learn(self, tick: Tick, structure: Structure) -> None:
        """A call was computed and watched: this is how the model is built in it."""

    def decide(self, tick: Tick, structure: Structure, stream: Stream) -> CallDecision:
        """What to do in the call that begins."""

    def feed_forward_called(self, tick: Tick, layer: int, states: Tensor, output: Tensor) -> None:
        """What a feed-forward took and returned, ``[B, N, C]`` each, before :meth:`ended`."""

    def ended(
        self,
        tick: Tick,
        structure: Structure,
        added: Sequence[tuple[Tensor, ...] | None],
        output: Any,
    ) -> None:
        """A call is over.

        Args:
            tick: Which one.
            structure: How the model is built in it.
            added: For each segment what it added, or None where it was not computed or not kept.
            output: What the model returned; None where it was not run.
        """

    def finish(self, *, whole: bool) -> None:
        """The run is over.

        Args:
            whole: Whether it came to its end, and was not interrupted.
        """


class Director(Protocol):
    """Makes what directs the runs of one model."""

    @property
    def wants_submodules(self) -> bool:
        """Whether there may be partial steps, so that modules of blocks must be hooked."""

    @property
    def wants_times(self) -> bool:
        """Whether the model may be given the mean of several times."""

    def begin(self, run: Run) -> RunDirector:
        """A run begins: the model is called in it for the first time."""
