# SPDX-License-Identifier: Apache-2.0
"""Who decides what a model computes, and what it is told: the interface of the methods to the hooks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from torch import Tensor

from genaccel.hooks.segments import Segment
from genaccel.hooks.step_clock import Tick


@dataclass(frozen=True, slots=True)
class Decision:
    """What to do with a segment at one call.

    Attributes:
        compute: Run its blocks.
        weights: If not: for each tensor that it returns the weights of what it added at the last
            computed steps, the newest first.
        offsets: For each tensor a number to add to that.
    """

    compute: bool
    weights: tuple[tuple[float, ...], ...] = ()
    offsets: tuple[float, ...] = ()


COMPUTE = Decision(compute=True)


@dataclass(slots=True)
class Memory:
    """What one segment added at its last computed steps, in one stream of calls.

    Attributes:
        steps: Those steps, the newest first.
        added: The tensors of each.
    """

    steps: list[int] = field(default_factory=list)
    added: list[tuple[Tensor, ...]] = field(default_factory=list)

    @property
    def bytes_held(self) -> int:
        """Bytes of the tensors."""
        return sum(t.numel() * t.element_size() for tensors in self.added for t in tensors)


class Director(Protocol):
    """Decides what is computed."""

    @property
    def history(self) -> int:
        """Computed outputs to keep for each segment; 0 keeps none."""

    def segments_learned(self, segments: Sequence[Segment], *, total_flops: int) -> None:
        """The first call is over: this is how the model is built."""

    def decide(self, tick: Tick, memories: Sequence[Memory]) -> Sequence[Decision]:
        """One decision for each segment."""

    def call_ends(
        self, tick: Tick, computed: Sequence[tuple[Tensor, ...] | None], seconds: float
    ) -> None:
        """A call is over.

        Args:
            tick: Which one.
            computed: For each segment what it added, or None where it was skipped.
            seconds: Of the call, on the host.
        """
