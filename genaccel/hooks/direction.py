# SPDX-License-Identifier: Apache-2.0
"""Who decides what a model computes, and what it is told: the interface of the methods to the hooks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from torch import Tensor

from genaccel.hooks.partial_steps import Layer, PartialStep
from genaccel.hooks.segments import Segment
from genaccel.hooks.step_clock import Tick


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


@dataclass(slots=True)
class Memory:
    """What one segment added at its last computed steps, in one stream of calls.

    Attributes:
        steps: Those steps, the newest first.
        added: The tensors of each.
        module_steps: Computed steps whose outputs of attention and feed-forward modules are kept,
            the newest first.
    """

    steps: list[int] = field(default_factory=list)
    added: list[tuple[Tensor, ...]] = field(default_factory=list)
    module_steps: list[int] = field(default_factory=list)

    @property
    def bytes_held(self) -> int:
        """Bytes of the tensors."""
        return sum(t.numel() * t.element_size() for tensors in self.added for t in tensors)


class Director(Protocol):
    """Decides what is computed."""

    @property
    def history(self) -> int:
        """Computed outputs to keep for each segment; 0 keeps none."""

    @property
    def module_history(self) -> int:
        """Outputs of attention and feed-forward modules to keep; 0 keeps none."""

    @property
    def wants_layers(self) -> bool:
        """Whether there may be partial steps, so that modules of blocks must be hooked."""

    @property
    def observes_feed_forwards(self) -> bool:
        """Whether :meth:`feed_forward_called` wants to know."""

    def segments_learned(
        self, segments: Sequence[Segment], layers: Sequence[Layer], *, total_flops: int
    ) -> None:
        """The first call is over: this is how the model is built.

        Args:
            segments: Runs of blocks.
            layers: Blocks that can run partially; none unless they are wanted.
            total_flops: Of a call.
        """

    def decide(self, tick: Tick, memories: Sequence[Memory]) -> Sequence[Decision]:
        """One decision for each segment."""

    def feed_forward_called(self, tick: Tick, layer: int, states: Tensor, output: Tensor) -> None:
        """What a feed-forward took and returned, ``[B, N, C]`` each, before :meth:`call_ends`."""

    def call_ends(
        self, tick: Tick, computed: Sequence[tuple[Tensor, ...] | None], seconds: float
    ) -> None:
        """A call is over.

        Args:
            tick: Which one.
            computed: For each segment what it added, or None where it was skipped.
            seconds: Of the call, on the host.
        """
