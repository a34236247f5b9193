# SPDX-License-Identifier: Apache-2.0
"""Replays a plan: decides what each step computes, and with which weights the rest is forecast."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from genaccel.hooks.director import COMPUTE, CallDecision, Decision
from genaccel.hooks.memory import Memory, Stream
from genaccel.hooks.submodules import Layer, PartialStep
from genaccel.sensitivity.plans.plan import Plan
from genaccel.sensitivity.run.forecast import Affine, Forecaster, Reuse, Taylor


class Replay:
    """A plan with its forecasters, ready to decide about calls.

    Args:
        plan: The plan to replay.
        layers: Layers of the model; they matter where the plan has partial steps.
    """

    def __init__(self, plan: Plan, layers: Sequence[Layer]) -> None:
        self.plan = plan
        self._is_partial = plan.partial_mask
        self._layers = [
            [i for i, layer in enumerate(layers) if layer.segment == g]
            for g in range(plan.num_segments)
        ]
        in_partial = {int(i) for i in plan.forecaster_index[self._is_partial]}
        used = sorted({int(i) for i in plan.forecaster_index[~self._is_partial] if i >= 0})
        tensors = 1 if plan.affine_slope is None else int(plan.affine_slope.shape[3])
        # [segment][forecaster][tensor of the segment]
        self._forecasters: list[dict[int, list[Forecaster]]] = [
            {i: [_make(plan, i, g, m) for m in range(tensors)] for i in used}
            for g in range(plan.num_segments)
        ]
        longest = max((_history(plan.forecasters[i]) for i in used), default=0)
        self.is_of_outputs = plan.granularity == "output"
        self.history = 0 if self.is_of_outputs else longest
        self.output_history = longest if self.is_of_outputs else 0
        self._times = _time_weights(plan)
        self.submodule_history = max((_history(plan.forecasters[i]) for i in in_partial), default=0)

    def decide(self, step: int, stream: Stream) -> CallDecision:
        """Compute where the plan says so, and where there is nothing to forecast from."""
        if self.is_of_outputs:
            return self._output(step, stream)
        decisions = [self._decision(step, g, memory) for g, memory in enumerate(stream.memories)]
        is_computed = all(decision.compute for decision in decisions)
        return CallDecision(
            decisions, time_weights=self._times.get(step, ()) if is_computed else ()
        )

    def _output(self, step: int, stream: Stream) -> CallDecision:
        known = stream.outputs.steps
        if self._is_computed(step, 0) or not known or known[0] >= step:
            return CallDecision(
                [COMPUTE] * len(stream.memories), time_weights=self._times.get(step, ())
            )
        forecaster = self._forecasters[0][int(self.plan.forecaster_index[step, 0])][0]
        return CallDecision(output_weights=tuple(forecaster.coefficients(step, known)))

    def _is_computed(self, step: int, segment: int) -> bool:
        mask = self.plan.compute_mask
        return step >= len(mask) or bool(mask[step, segment])

    def _decision(self, step: int, segment: int, memory: Memory) -> Decision:
        if self._is_computed(step, segment):
            return COMPUTE
        if self._is_partial[step, segment]:
            return self._partial(step, segment, memory)
        if not memory.steps or memory.steps[0] >= step:
            return COMPUTE
        choices = self._forecasters[segment][int(self.plan.forecaster_index[step, segment])]
        tensors = len(memory.added[0])
        forecasters = [choices[min(m, len(choices) - 1)] for m in range(tensors)]
        try:
            return Decision(
                compute=False,
                weights=tuple(tuple(f.coefficients(step, memory.steps)) for f in forecasters),
                offsets=tuple(f.offset(step, memory.steps) for f in forecasters),
            )
        except ValueError:
            return COMPUTE  # the affine corrector knows no interval so long

    def _partial(self, step: int, segment: int, memory: Memory) -> Decision:
        if not memory.submodule_steps or memory.submodule_steps[0] >= step:
            return COMPUTE
        name = self.plan.forecasters[int(self.plan.forecaster_index[step, segment])]
        weights: Sequence[float] = (1.0,)
        if name.startswith("taylor"):
            weights = _make(self.plan, self.plan.forecasters.index(name), segment, 0).coefficients(
                step, memory.submodule_steps
            )
        counts = self.plan.token_counts
        layers = self._layers[segment]
        tokens = (0,) * len(layers) if counts is None else tuple(counts[step, layers, 0].tolist())
        return Decision(compute=False, partial=PartialStep(tokens, tuple(weights)))


def _time_weights(plan: Plan) -> dict[int, tuple[tuple[int, float], ...]]:
    """For each computed step, steps and their weights; equally many, so that one graph is compiled."""
    if plan.time_weights is None:
        return {}
    half = plan.time_weights.shape[1] // 2
    windows = {
        int(step): [(int(step + j - half), float(row[j])) for j in np.flatnonzero(row)]
        for step, row in enumerate(plan.time_weights)
        if row.any()
    }
    widest = max(map(len, windows.values()))
    return {
        step: tuple(window + [(step, 0.0)] * (widest - len(window)))
        for step, window in windows.items()
    }


def _history(name: str) -> int:
    return int(name.removeprefix("taylor")) + 1 if name.startswith("taylor") else 1


def _make(plan: Plan, index: int, segment: int, tensor: int) -> Any:
    name = plan.forecasters[index]
    if name.startswith("taylor"):
        return Taylor(int(name.removeprefix("taylor")))
    if name == "affine":
        assert plan.affine_slope is not None
        assert plan.affine_intercept is not None
        return Affine(
            plan.affine_slope[:, :, segment, tensor], plan.affine_intercept[:, :, segment, tensor]
        )
    return Reuse()
