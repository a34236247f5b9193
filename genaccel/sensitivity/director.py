# SPDX-License-Identifier: Apache-2.0
"""Replays a plan; without one, computes everything and measures what a plan needs to know."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor

from genaccel.hooks.direction import COMPUTE, Decision, Memory
from genaccel.hooks.partial_steps import Layer, PartialStep
from genaccel.hooks.segments import Segment
from genaccel.hooks.step_clock import Tick
from genaccel.sensitivity.calibration_moments import CalibrationMoments
from genaccel.sensitivity.config import SensitivityConfig
from genaccel.sensitivity.forecast import Affine, Forecaster, Reuse, Taylor
from genaccel.sensitivity.interpolate import interpolate_steps
from genaccel.sensitivity.plan import Plan
from genaccel.sensitivity.pruning_moments import FeedForwardObserver

_logger = logging.getLogger(__name__)


class SensitivityDirector:
    """Directs one model.

    Args:
        config: What the user asked for.
        plan: What to replay, or None to measure first.
        measured: Called with the moments at the end of a measured run; returns the plan to replay
            from then on, or None to go on measuring.
        run_begins: Called with the number of steps when a run begins; may call :meth:`use` or
            :meth:`measure`.
    """

    def __init__(
        self,
        config: SensitivityConfig,
        plan: Plan | None,
        *,
        measured: Callable[[CalibrationMoments], Plan | None],
        run_begins: Callable[[int], None] | None = None,
    ) -> None:
        self.config = config
        self.plan: Plan | None = None
        self.segments: tuple[Segment, ...] = ()
        self.layers: tuple[Layer, ...] = ()
        self.total_flops = 0
        self.moments: CalibrationMoments | None = None
        self.feed_forwards = FeedForwardObserver(config) if config.pruning_share > 0 else None
        self._measured = measured
        self._announce = run_begins
        self._replay: _Replay | None = None
        self._stretched: dict[int, _Replay] = {}
        self._run: int | None = None
        self._first_step = 0
        self._calls_per_step = 0
        self._is_unfinished = False
        self._resumed: Mapping[str, Tensor] | None = None
        if plan is not None:
            self.use(plan)

    def measure(self) -> None:
        """Drop the plan, and measure the runs that follow."""
        self.plan = self._replay = None
        self._stretched.clear()

    def resume(self, state: Mapping[str, Tensor]) -> None:
        """Go on measuring from the sums of :meth:`CalibrationMoments.state_dict`."""
        self._resumed = state

    def use(self, plan: Plan) -> None:
        """Replay a plan from the next run on.

        Raises:
            ValueError: If it was made for a model of other segments.
        """
        if self.segments and plan.num_segments != len(self.segments):
            raise ValueError(
                f"the plan has {plan.num_segments} segments and this model {len(self.segments)}: "
                "it was made for another model, or with another max_blocks"
            )
        if self.layers and plan.token_counts is not None:
            owners = tuple(layer.segment for layer in self.layers)
            if plan.segment_of_layer != owners:
                raise ValueError(
                    f"the plan prunes tokens of {len(plan.segment_of_layer)} layers and this model has "
                    f"{len(owners)}, or in other segments: it was made for another model"
                )
        self.plan = plan
        self._replay = _Replay(plan, self.layers)
        self._stretched.clear()

    @property
    def history(self) -> int:
        """See :class:`~genaccel.hooks.direction.Director`."""
        return 1 if self._replay is None else self._replay.history

    @property
    def module_history(self) -> int:
        """See :class:`~genaccel.hooks.direction.Director`."""
        return 0 if self._replay is None else self._replay.module_history

    @property
    def observes_feed_forwards(self) -> bool:
        """See :class:`~genaccel.hooks.direction.Director`."""
        return self._replay is None and self.feed_forwards is not None

    @property
    def wants_layers(self) -> bool:
        """Whether partial steps are planned for, or may be."""
        return self.config.has_partial_steps or self.module_history > 0

    def segments_learned(
        self, segments: Sequence[Segment], layers: Sequence[Layer], *, total_flops: int
    ) -> None:
        """See :class:`~genaccel.hooks.direction.Director`."""
        self.segments = tuple(segments)
        self.layers = tuple(layers)
        self.total_flops = total_flops
        if self.plan is not None:
            self.use(self.plan)

    def decide(self, tick: Tick, memories: Sequence[Memory]) -> Sequence[Decision]:
        """See :class:`~genaccel.hooks.direction.Director`."""
        if tick.run != self._run:
            self._run_begins(tick)
        if self._replay is None:
            return [COMPUTE] * len(memories)
        replay = self._replay
        steps = replay.plan.fingerprint.num_inference_steps
        if tick.num_steps != steps:
            replay = self._stretch(tick.num_steps)
        return replay.decide(tick.step, memories)

    def _run_begins(self, tick: Tick) -> None:
        self._run = tick.run
        if tick.follows_whole_run and self._replay is None:
            self.finish()  # the run before ended without this model
        self._first_step = tick.step  # not 0 where an image is the beginning
        self._calls_per_step = 0
        if self.moments is not None:
            self.moments.start_generation()
        if self.feed_forwards is not None:
            self.feed_forwards.start_generation()
        if self._announce is not None:
            self._announce(tick.num_steps)

    def _stretch(self, num_steps: int) -> _Replay:
        replay = self._stretched.get(num_steps)
        if replay is None:
            assert self.plan is not None
            _logger.warning(
                "The plan was made for %d steps and is stretched to %d; calibrate for these steps to do better.",
                self.plan.fingerprint.num_inference_steps,
                num_steps,
            )
            replay = self._stretched[num_steps] = _Replay(
                interpolate_steps(self.plan, num_steps), self.layers
            )
        return replay

    def feed_forward_called(self, tick: Tick, layer: int, states: Tensor, output: Tensor) -> None:
        """See :class:`~genaccel.hooks.direction.Director`."""
        assert self.feed_forwards is not None
        self.feed_forwards.called(tick, layer, len(self.layers), states, output)

    def call_ends(
        self, tick: Tick, computed: Sequence[tuple[Tensor, ...] | None], seconds: float
    ) -> None:
        """See :class:`~genaccel.hooks.direction.Director`."""
        if self._replay is not None:
            return
        if self.moments is None or self.moments.shape[0] != tick.num_steps:
            self.moments = CalibrationMoments(
                num_steps=tick.num_steps,
                max_interval=min(self.config.max_interval, max(1, tick.num_steps - 1)),
                num_segments=max(1, len(self.segments)),
                num_modules=max((len(s.entries) for s in self.segments), default=1),
                taylor_orders=tuple(
                    order for order in (1, 2) if f"taylor{order}" in self.config.forecasters
                ),
            )
            if self._resumed is not None:
                self.moments.load_state_dict(self._resumed)
                self._resumed = None
        for g, tensors in enumerate(computed):
            for m, tensor in enumerate(tensors or ()):
                self.moments.observe(tick.step, g, m, tensor, stream=tick.call)
        if tick.step == self._first_step:
            self._calls_per_step = max(self._calls_per_step, tick.call + 1)
        self._is_unfinished = True
        if tick.step == tick.num_steps - 1 and tick.call + 1 >= self._calls_per_step:
            self.finish()

    def finish(self) -> None:
        """Make the plan of what was measured, if anything was since the last one.

        At the last step that happens by itself. A model that is not called there, as the first of
        Wan's two transformers, is done when its pipeline is.
        """
        if self.moments is None or not self._is_unfinished:
            return
        self._is_unfinished = False
        plan = self._measured(self.moments)
        if plan is not None:
            self.use(plan)
            self.moments = None


class _Replay:
    """A plan, with its forecasters at hand."""

    def __init__(self, plan: Plan, layers: Sequence[Layer]) -> None:
        self.plan = plan
        self._is_partial = plan.partial_mask
        self._layers = [
            [i for i, layer in enumerate(layers) if layer.segment == g]
            for g in range(plan.num_segments)
        ]
        in_partial = {int(i) for i in plan.forecaster_index[self._is_partial]}
        used = sorted({int(i) for i in plan.forecaster_index[~self._is_partial] if i >= 0})
        modules = 1 if plan.affine_slope is None else int(plan.affine_slope.shape[3])
        # [segment][forecaster][tensor of the segment]
        self._forecasters: list[dict[int, list[Forecaster]]] = [
            {i: [_make(plan, i, g, m) for m in range(modules)] for i in used}
            for g in range(plan.num_segments)
        ]
        self.history = max((_history(plan.forecasters[i]) for i in used), default=0)
        self.module_history = max((_history(plan.forecasters[i]) for i in in_partial), default=0)

    def decide(self, step: int, memories: Sequence[Memory]) -> list[Decision]:
        """Compute where the plan says so, and where there is nothing to forecast from."""
        return [self._decision(step, g, memory) for g, memory in enumerate(memories)]

    def _decision(self, step: int, segment: int, memory: Memory) -> Decision:
        if step >= len(self.plan.compute_mask) or self.plan.compute_mask[step, segment]:
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
        if not memory.module_steps or memory.module_steps[0] >= step:
            return COMPUTE
        name = self.plan.forecasters[int(self.plan.forecaster_index[step, segment])]
        weights: Sequence[float] = (1.0,)
        if name.startswith("taylor"):
            weights = _make(self.plan, self.plan.forecasters.index(name), segment, 0).coefficients(
                step, memory.module_steps
            )
        counts = self.plan.token_counts
        layers = self._layers[segment]
        tokens = (0,) * len(layers) if counts is None else tuple(counts[step, layers, 0].tolist())
        return Decision(compute=False, partial=PartialStep(tokens, tuple(weights)))


def _history(name: str) -> int:
    return int(name.removeprefix("taylor")) + 1 if name.startswith("taylor") else 1


def _make(plan: Plan, index: int, segment: int, module: int) -> Any:
    name = plan.forecasters[index]
    if name.startswith("taylor"):
        return Taylor(int(name.removeprefix("taylor")))
    if name == "affine":
        assert plan.affine_slope is not None
        assert plan.affine_intercept is not None
        return Affine(
            plan.affine_slope[:, :, segment, module], plan.affine_intercept[:, :, segment, module]
        )
    return Reuse()
