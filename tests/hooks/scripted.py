# SPDX-License-Identifier: Apache-2.0
"""Directors and clocks that do as a test says."""

from collections.abc import Sequence

from genaccel.hooks.attachment import Attachment
from genaccel.hooks.direction import COMPUTE, Decision
from genaccel.hooks.step_clock import Tick


class ScriptedClock:
    """Counts calls: `calls` of them make a step, `num_steps` steps a run."""

    def __init__(self, num_steps, calls=1):
        self.num_steps = num_steps
        self.calls = calls
        self.count = 0
        self.is_closed = False

    def tick(self, args, kwargs):
        step, call = divmod(self.count, self.calls)
        run, step = divmod(step, self.num_steps)
        self.count += 1
        return Tick(run, step, call, self.num_steps)

    def close(self):
        self.is_closed = True


class ScriptedDirector:
    """Computes the steps of a mask, and extrapolates the others linearly from the last computed ones.

    A step of the mask is one answer for all segments, or one for each.
    """

    module_history = 0
    observes_feed_forwards = wants_layers = False

    def __init__(self, mask, history=2):
        self.mask: Sequence[bool | Sequence[bool]] = mask
        self.history = history
        self.segments = ()
        self.total_flops = 0
        self.seen = []
        self.kept = []  # for each call the steps that each segment could be forecast from

    def segments_learned(self, segments, layers, *, total_flops):
        self.segments = tuple(segments)
        self.total_flops = total_flops

    def decide(self, tick, memories):
        self.kept.append([tuple(m.steps) for m in memories])
        return [self._decision(tick, g, m) for g, m in enumerate(memories)]

    def _decision(self, tick, segment, memory):
        wanted = self.mask[tick.step]
        if (wanted if isinstance(wanted, bool | int) else wanted[segment]) or not memory.steps:
            return COMPUTE
        weights = (1.0,)
        if len(memory.steps) > 1:
            newest, older = memory.steps[:2]
            slope = (tick.step - newest) / (newest - older)
            weights = (1 + slope, -slope)
        count = len(memory.added[0])
        return Decision(compute=False, weights=(weights,) * count, offsets=(0.0,) * count)

    def call_ends(self, tick, computed, seconds):
        self.seen.append((tick, computed))


def attach(model, mask, *, calls=1, history=2, **options):
    """An attachment that computes the steps of `mask`."""
    director = ScriptedDirector(mask, history)
    return Attachment(model, ScriptedClock(len(mask), calls), director, **options)
