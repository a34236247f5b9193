# SPDX-License-Identifier: Apache-2.0
"""Directors and clocks that do as a test says."""

from collections.abc import Sequence

from genaccel.hooks.clock import Run
from genaccel.hooks.director import COMPUTE, CallDecision, Decision
from genaccel.hooks.engine import Engine


class ScriptedClock:
    """Counts calls: `calls` of them make a step, `num_steps` steps a run."""

    def __init__(self, num_steps, calls=1):
        self.num_steps = num_steps
        self.calls = calls
        self.count = 0
        self.is_closed = False
        self.run = None

    def claims(self):
        return True

    def call_begins(self, model, args, kwargs):
        step, call = divmod(self.count, self.calls)
        number, step = divmod(step, self.num_steps)
        self.count += 1
        if self.run is None or self.run.number != number or step == call == 0:
            if self.run is not None:
                self.run.end(whole=True)
            self.run = Run(number, num_steps=self.num_steps)
        self.run.step = step
        return self.run, self.run.call_begins(model)

    def call_ends(self, run, tick):
        pass

    def close(self):
        self.is_closed = True


class ScriptedDirector:
    """Computes the steps of a mask, and extrapolates the others linearly from the last computed ones.

    A step of the mask is one answer for all segments, or one for each. It directs all runs alike.
    """

    submodule_history = output_history = 0
    observes_feed_forwards = wants_submodules = wants_times = False

    def __init__(self, mask, history=2):
        self.mask: Sequence[bool | Sequence[bool]] = mask
        self.history = history
        self.segments = ()
        self.total_flops = 0
        self.seen = []
        self.kept = []  # for each call the steps that each segment could be forecast from
        self.finished = []

    def begin(self, run):
        return self

    def learn(self, tick, structure):
        self.segments = structure.segments
        self.total_flops = structure.total_flops
        self.kept.append([()] * len(structure.segments))

    def decide(self, tick, structure, stream):
        self.kept.append([tuple(m.steps) for m in stream.memories])
        return CallDecision([self._decision(tick, g, m) for g, m in enumerate(stream.memories)])

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

    def ended(self, tick, structure, added, output):
        self.seen.append((tick, added))

    def finish(self, *, whole):
        self.finished.append(whole)


def attach(model, mask, *, calls=1, history=2, **options):
    """An engine that computes the steps of `mask`."""
    director = ScriptedDirector(mask, history)
    return Engine(model, ScriptedClock(len(mask), calls), director, **options)
