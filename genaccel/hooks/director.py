# SPDX-License-Identifier: Apache-2.0
"""Directors decide what a model computes: the protocol between the methods and the engine."""

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
    """Decision about one segment in one call: compute it, forecast it, or run it partially.

    Attributes:
        compute: Whether to run its blocks in full.
        weights: If not, for each tensor that the segment returns, the weights of what it added at
            the last computed steps, the newest first.
        offsets: For each tensor a number to add to that.
        partial: Instead of both, run its blocks on forecast outputs of their submodules. Where
            these are not known, the blocks are run in full.
    """

    compute: bool
    weights: tuple[tuple[float, ...], ...] = ()
    offsets: tuple[float, ...] = ()
    partial: PartialStep | None = None


COMPUTE = Decision(compute=True)


@dataclass(frozen=True, slots=True)
class CallDecision:
    """Decisions about one call of the model.

    Attributes:
        segments: One decision for each segment.
        output_weights: Instead, do not run the model at all, and return the sum of its outputs at
            the last computed steps, the newest first, with these weights.
        time_weights: Steps of the run with a weight each, where the model is to be given the mean
            of their embedded times instead of its own (:mod:`genaccel.hooks.time_window`). A model
            that embeds its time in another way gets its own.
    """

    segments: Sequence[Decision] = ()
    output_weights: tuple[float, ...] = ()
    time_weights: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True, slots=True, eq=False)
class Structure:
    """The structure of a model in one kind of call: its segments, layers and FLOPs.

    Attributes:
        segments: Runs of blocks that can be skipped as one.
        layers: Blocks that can run partially; empty if the director wants no submodules.
        total_flops: FLOPs of a call.
        input_shape: Shape of the first tensor of more than two dimensions that the model takes.
        left_out: Blocks that are in no segment, and why.
        output_bytes: Bytes of the model's output.
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
        """Names of the segments; a plan belongs to a model whose segments have the same names."""
        return tuple(segment.name for segment in self.segments)


class RunDirector(Protocol):
    """Decides what is computed in one run."""

    @property
    def history(self) -> int:
        """Number of computed steps to keep for each segment; 0 keeps none."""

    @property
    def submodule_history(self) -> int:
        """Number of computed steps to keep of attention and feed-forwards; 0 keeps none."""

    @property
    def output_history(self) -> int:
        """Number of outputs of the model to keep; 0 keeps none."""

    @property
    def observes_feed_forwards(self) -> bool:
        """Whether :meth:`feed_forward_called` is to be called."""

    def learn(self, tick: Tick, structure: Structure) -> None:
        """Take how the model is built in a call that was computed and watched."""

    def decide(self, tick: Tick, structure: Structure, stream: Stream) -> CallDecision:
        """Decide what the call that begins computes, and what stands in for the rest."""

    def feed_forward_called(self, tick: Tick, layer: int, states: Tensor, output: Tensor) -> None:
        """Take the input and output of a layer's feed-forward, ``[B, N, C]`` each, before :meth:`ended`."""

    def ended(
        self,
        tick: Tick,
        structure: Structure,
        added: Sequence[tuple[Tensor, ...] | None],
        output: Any,
    ) -> None:
        """Take the results of a call that is over.

        Args:
            tick: Place of the call in the run.
            structure: How the model is built in it.
            added: For each segment the tensors that it added to its inputs; None where it was not
                computed or not kept.
            output: The output of the model; None where it was not run.
        """

    def finish(self, *, whole: bool) -> None:
        """End the run.

        Args:
            whole: Whether the run came to its end, and was not interrupted.
        """


class Director(Protocol):
    """Makes the directors of the runs of one model."""

    @property
    def wants_submodules(self) -> bool:
        """Whether there may be partial steps, so that submodules of blocks must be hooked."""

    @property
    def wants_times(self) -> bool:
        """Whether the model may be given the mean of several times."""

    def begin(self, run: Run) -> RunDirector:
        """Make the director of a run, in which the model is called for the first time."""
