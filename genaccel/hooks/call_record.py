# SPDX-License-Identifier: Apache-2.0
"""Records of the calls of an accelerated model, which reports are made of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from genaccel.hooks.clock import Tick
from genaccel.hooks.segments import Segment
from genaccel.hooks.submodules import Layer, PartialStep


@dataclass(frozen=True, slots=True)
class CallRecord:
    """Record of one call: the segments that were computed, and the time it took.

    Attributes:
        tick: Place of the call in its run.
        computed: For each segment whether it was computed in full.
        seconds: Duration of the call on the host; a GPU may still have been at work.
        partial: For each segment whether it ran on forecasts of its submodules.
        saved_flops: FLOPs that were not computed.
        is_watched: Whether it was learned from, which takes time.
    """

    tick: Tick
    computed: tuple[bool, ...]
    seconds: float
    partial: tuple[bool, ...] = ()
    saved_flops: int = 0
    is_watched: bool = False


def record_call(
    tick: Tick,
    seconds: float,
    segments: Sequence[Segment],
    skipped: Sequence[bool],
    partial: Mapping[int, PartialStep],
    layers: Sequence[Layer],
) -> CallRecord:
    """Make the record of a call.

    Args:
        tick: Place of the call in its run.
        seconds: Duration of the call on the host.
        segments: Segments of the model.
        skipped: For each segment whether it was forecast as a whole.
        partial: Segments that ran on forecasts of their submodules, by index.
        layers: Layers of the model, with the FLOPs of their submodules.
    """
    saved = sum(s.flops for s, skips in zip(segments, skipped, strict=True) if skips)
    for segment, step in partial.items():
        owned = [layer for layer in layers if layer.segment == segment]
        saved += sum(
            layer.saved_flops(count) for layer, count in zip(owned, step.token_counts, strict=True)
        )
    return CallRecord(
        tick,
        tuple(not skips and i not in partial for i, skips in enumerate(skipped)),
        seconds,
        tuple(i in partial for i in range(len(segments))),
        saved,
    )
