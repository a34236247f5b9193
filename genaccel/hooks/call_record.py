# SPDX-License-Identifier: Apache-2.0
"""What happened in one call of an accelerated model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from genaccel.hooks.partial_steps import PartialStep, PartialSteps
from genaccel.hooks.segments import Segment
from genaccel.hooks.step_clock import Tick


@dataclass(frozen=True, slots=True)
class CallRecord:
    """What happened in one call of the model.

    Attributes:
        tick: Which call.
        computed: For each segment whether it was.
        seconds: Of the call, on the host; a GPU may still have been at work.
        partial: For each segment whether it ran on forecasts of its modules.
        saved_flops: What was not computed.
    """

    tick: Tick
    computed: tuple[bool, ...]
    seconds: float
    partial: tuple[bool, ...] = ()
    saved_flops: int = 0


def record_call(
    tick: Tick,
    seconds: float,
    segments: Sequence[Segment],
    skipped: Sequence[bool],
    partial: Mapping[int, PartialStep],
    modules: PartialSteps | None,
) -> CallRecord:
    """Note a call.

    Args:
        tick: Which call.
        seconds: Of it.
        segments: Of the model.
        skipped: For each whether it was forecast as a whole.
        partial: Those that ran on forecasts of their modules.
        modules: What knows the costs of these; may be None if there are none.
    """
    saved = sum(s.flops for s, skips in zip(segments, skipped, strict=True) if skips)
    if modules is not None:
        saved += sum(
            modules.layers[layer].saved_flops(count)
            for segment, step in partial.items()
            for layer, count in zip(modules.layers_of(segment), step.token_counts, strict=True)
        )
    return CallRecord(
        tick,
        tuple(not skips and i not in partial for i, skips in enumerate(skipped)),
        seconds,
        tuple(i in partial for i in range(len(segments))),
        saved,
    )
