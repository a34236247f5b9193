# SPDX-License-Identifier: Apache-2.0
"""Directs the runs of one model: by a plan if there is one, else computing all and measuring for a plan."""

from __future__ import annotations

import logging
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from genaccel.hooks.clock import Run, Tick
from genaccel.hooks.director import COMPUTE, CallDecision, Structure
from genaccel.hooks.memory import Stream
from genaccel.sensitivity.config import SensitivityConfig
from genaccel.sensitivity.measure.calibration_moments import CalibrationMoments
from genaccel.sensitivity.measure.output_moments import OutputMoments
from genaccel.sensitivity.measure.sampler_gain import sampler_gains
from genaccel.sensitivity.planning.partial_plan import best_plan
from genaccel.sensitivity.planning.plan_rule import plan_by_rule
from genaccel.sensitivity.planning.planner import Measurements
from genaccel.sensitivity.plans.fingerprint import Fingerprint
from genaccel.sensitivity.plans.plan import Plan
from genaccel.sensitivity.plans.plan_source import FoundPlan, PlanSource, fits_structure
from genaccel.sensitivity.plans.run_identity import WeightsSketch, run_fingerprint
from genaccel.sensitivity.plans.stretch import stretch_steps
from genaccel.sensitivity.pruning.pruning_moments import FeedForwardObserver
from genaccel.sensitivity.run.replay import Replay

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Choice:
    """The plan that the last run followed, and why.

    Attributes:
        plan: The plan; None where the run was computed in full.
        text: The plan in words, for the report.
        notes: Further sentences.
    """

    plan: Plan | None
    text: str
    notes: tuple[str, ...] = ()


class SensitivityDirector:
    """Makes the directors of the runs of one model.

    Args:
        name: Name of the model in its pipeline.
        model: The model; :meth:`use_model` exchanges it.
        config: What the user asked for.
        source: Finds and keeps plans.
        pipeline: The pipeline that the model is from, or None.

    Attributes:
        forced: A plan that runs follow whatever else there is; for trials.
        sink: Takes the measurements of whole runs, which are then all computed in full; no plan is made of them.
        measurements: Measurements of the run that was measured last.
        plan: The plan that the last run followed, or that was made of it.
    """

    def __init__(
        self,
        name: str,
        model: nn.Module,
        config: SensitivityConfig,
        source: PlanSource,
        *,
        pipeline: Any = None,
    ) -> None:
        self.name = name
        self.config = config
        self.source = source
        self.pipeline = pipeline
        self.forced: Plan | None = None
        self.sink: Callable[[Measurements], None] | None = None
        self.measurements: Measurements | None = None
        self.plan: Plan | None = None
        self._said: set[str] = set()
        self.short_runs: dict[
            Hashable, int
        ] = {}  # steps of runs that ended early, by what they were
        self.use_model(model)

    def use_model(self, model: nn.Module) -> None:
        """Direct another model from now on."""
        self.model = model
        self.weights = WeightsSketch(model)
        self.plan = None

    def say(self, sentence: str) -> None:
        """Log a warning, each sentence once."""
        if sentence not in self._said:
            self._said.add(sentence)
            _logger.warning("%s", sentence)

    @property
    def wants_submodules(self) -> bool:
        """Whether a plan with partial steps is on trial, or may be found or made."""
        forced = self.forced is not None and bool(self.forced.partial_mask.any())
        return forced or self.source.may_be_partial

    @property
    def wants_times(self) -> bool:
        """True: plans of outputs may give computed steps the mean of several times."""
        return True

    def begin(self, run: Run) -> SensitivityRun:
        """Make the director of a run."""
        return SensitivityRun(self, run)

    def gains(self, run: Fingerprint) -> NDArray[np.float64] | None:
        """Effect of an error at each step on the finished sample, ``[S]``; None where that is unknown."""
        scheduler = getattr(self.pipeline, "scheduler", None)
        if scheduler is None or run.start_step:
            return None
        return sampler_gains(scheduler, run.num_inference_steps)

    def fingerprint(self, run: Run, structure: Structure) -> Fingerprint:
        """The fingerprint of a run whose first step is over."""
        return run_fingerprint(
            self.model, structure, run, pipeline=self.pipeline, weights=self.weights()
        )


class SensitivityRun:
    """Directs one run.

    The first step is computed in any case; only then is it known where in the schedule the run began,
    and so which plan is made for it.

    Args:
        director: The director of the model.
        run: The run.
    """

    def __init__(self, director: SensitivityDirector, run: Run) -> None:
        self._director = director
        self._config = director.config
        self._run = run
        self._first_step: int | None = None
        self._structure: Structure | None = None
        self._is_decided = False
        self._replay: Replay | None = None
        self._measuring: _Measuring | None = None
        self._early: list[tuple[Tick, Sequence[tuple[Tensor, ...] | None], Any]] = []
        self._observer = (
            FeedForwardObserver(self._config) if self._config.pruning_share > 0 else None
        )
        self._text = "none: computed in full"
        self._notes: list[str] = []

    def _ended_early(self, run: Fingerprint) -> bool:
        """Whether steps are missing; a pipeline that leaves out as many each time is meant to."""
        done = self._run.steps_done
        if done >= run.num_inference_steps:
            return False
        key = (run.schedule_digest, run.num_inference_steps)
        known, self._director.short_runs[key] = self._director.short_runs.get(key), done
        return known != done

    @property
    def _names(self) -> tuple[str, ...] | None:
        return None if self._structure is None else self._structure.names

    @property
    def choice(self) -> Choice:
        """The plan that the run follows, and why."""
        if not self._is_decided and self._first_step is not None and not self._notes:
            note = "a run of a single step has nothing to skip"
            return Choice(None, self._text, (note,))
        plan = None if self._replay is None else self._replay.plan
        return Choice(plan, self._text, (*self._notes, *self._director.source.notes))

    @property
    def history(self) -> int:
        """Number of computed steps to keep: as the plan needs, 1 while none is chosen or segments are measured."""
        if self._replay is not None:
            return self._replay.history
        # A plan may yet be found that needs them; a measurement of outputs alone does not.
        return 1 if not self._is_decided or self._measures_segments else 0

    @property
    def _measures_segments(self) -> bool:
        return self._measuring is not None and self._measuring.has_segments

    @property
    def submodule_history(self) -> int:
        """Number of computed steps to keep: as many as the plan needs, 1 while a partial one may be chosen."""
        if self._replay is None:
            return 0 if self._is_decided or not self._director.wants_submodules else 1
        return self._replay.submodule_history

    @property
    def output_history(self) -> int:
        """Number of outputs to keep: as many as the plan needs, 1 while none is chosen."""
        if self._replay is None:
            return 0 if self._is_decided or self._director.sink is not None else 1
        return self._replay.output_history

    @property
    def observes_feed_forwards(self) -> bool:
        """Whether the run measures for token pruning, or may come to do so."""
        return self._observer is not None and (self._measuring is not None or not self._is_decided)

    def learn(self, tick: Tick, structure: Structure) -> None:
        """Keep the structure of the run's first call, which its fingerprint is made of."""
        self._structure = self._structure or structure

    def decide(self, tick: Tick, structure: Structure, stream: Stream) -> CallDecision:
        """Choose a plan at the second step, and follow it; compute all where there is none that fits."""
        self._structure = self._structure or structure
        if self._first_step is not None and tick.step > self._first_step and not self._is_decided:
            self._choose(tick)
        if self._replay is not None and fits_structure(self._replay.plan, structure):
            return self._replay.decide(tick.step, stream)
        return CallDecision([COMPUTE] * len(structure.segments))

    def _choose(self, tick: Tick) -> None:
        """Find a plan, or see what can be done without one."""
        self._is_decided = True
        director, config, structure = self._director, self._config, self._structure
        assert structure is not None
        if not structure.segments:
            self._notes.append("no block of this model can be skipped")
            return
        if director.forced is not None:
            self._use(FoundPlan(director.forced, "on trial"), structure, tick.num_steps)
            return
        run = director.fingerprint(self._run, structure)
        if director.sink is None:
            found = director.source.find(run, structure)
            if found is not None:
                self._use(found, structure, tick.num_steps)
                return
            if config.has_floor or config.speedup is None:
                self._notes.append(
                    "there is no plan for this run that does what was asked for; measure some with `genaccel tune`"
                )
                return
            if config.first_run == "plan":
                plan = plan_by_rule(structure, run, config, gains=director.gains(run))
                if plan is not None:
                    self._use(FoundPlan(plan, "by rule"), structure, tick.num_steps)
                else:
                    self._notes.append("too few steps to skip any")
                return
            _logger.warning(
                "%s has no plan for this run yet: it is computed in full and measured; the next ones are faster.",
                director.name,
            )
        self._text = "none yet: computed in full and measured"
        self._measuring = _Measuring(director, run, structure, tick.num_steps, self._observer)
        for early in self._early:
            self._measuring.observe(*early)
        self._early.clear()

    def _use(self, found: FoundPlan, structure: Structure, num_steps: int) -> None:
        self._early.clear()
        plan = found.plan
        steps = plan.fingerprint.num_inference_steps
        self._text = f"{found.origin}, {1 / plan.flop_fraction:.2f}x fewer FLOPs"
        if steps != num_steps:
            note = (
                f"The plan was made for {steps} steps and is stretched to {num_steps}; calibrate for these "
                "steps to do better."
            )
            self._director.say(note)
            self._notes.append(note)
            plan = stretch_steps(plan, num_steps)
        self._replay = Replay(plan, structure.layers)
        self._director.plan = found.plan
        if self._config.has_partial_steps and not plan.partial_mask.any():
            self._notes.append(
                "no step runs on forecasts of submodules, as was asked for: no block of "
                f"{type(self._director.model).__name__} has attention and feed-forward of its own, or none pays"
            )
        speedup = self._config.speedup
        if isinstance(speedup, int | float) and 1 / plan.flop_fraction < speedup * 0.97:
            self._notes.append(
                f"{speedup:g}x is out of reach here: this is the best plan below it, {1 / plan.flop_fraction:.2f}x"
            )

    def feed_forward_called(self, tick: Tick, layer: int, states: Tensor, output: Tensor) -> None:
        """Measure how reusing and pruning a feed-forward errs, ``states`` and ``output`` ``[B, N, C]``."""
        if self._observer is not None:
            structure = self._structure
            count = layer + 1 if structure is None else len(structure.layers)
            self._observer.called(tick, layer, count, states, output)

    def ended(
        self,
        tick: Tick,
        structure: Structure,
        added: Sequence[tuple[Tensor, ...] | None],
        output: Any,
    ) -> None:
        """Measure what the call computed, or keep it until it is decided whether the run is measured."""
        if self._first_step is None:
            self._first_step = tick.step
            self._structure = self._structure or structure
        if self._measuring is not None:
            if structure.names == self._measuring.structure.names:
                self._measuring.observe(tick, added, output)
        elif not self._is_decided and structure.names == self._names:
            self._early.append((tick, added, output))

    def finish(self, *, whole: bool) -> None:
        """Make a plan of a run that was measured to its end, or hand its measurements to the sink."""
        self._early.clear()
        measuring, self._measuring = self._measuring, None
        is_uncounted = whole and self._first_step is not None and not self._is_decided
        if is_uncounted and self._run.num_steps > 1:
            sentence = (
                f"the steps of {self._director.name} can't be counted, as neither the scheduler nor the "
                "timestep tells of them: it is computed in full, this time and later"
            )
            self._notes.append(sentence)
            self._director.say(sentence)
        if measuring is None:
            return
        if not whole or self._ended_early(measuring.run):
            self._notes.append("the run was not measured to its end, so no plan is made of it")
            return
        if measuring.problem is not None:
            self._notes.append(measuring.problem)
            return
        measured = self._director.measurements = measuring.measurements()
        if self._director.sink is not None:
            self._director.sink(measured)
            return
        plan = best_plan(measured, self._config)
        if plan is None:
            self._notes.append(
                "no step of this run can be skipped: it has too few, or max_interval is 1"
            )
            return
        self._director.source.keep(plan)
        self._director.plan = plan


class _Measuring:
    """Measures one run: the errors of forecasts, inner products of outputs, and feed-forwards."""

    def __init__(
        self,
        director: SensitivityDirector,
        run: Fingerprint,
        structure: Structure,
        num_steps: int,
        observer: FeedForwardObserver | None,
    ) -> None:
        config = director.config
        self.structure = structure
        self.problem: str | None = None
        self._director = director
        self.run = run
        self._observer = observer
        self._num_steps = num_steps
        self._outputs = OutputMoments(num_steps)
        self._moments: CalibrationMoments | None = None
        if config.for_steps(num_steps).granularity == "output" and director.sink is None:
            return  # all that plans of outputs need
        self._moments = CalibrationMoments(
            num_steps=num_steps,
            max_interval=min(config.max_interval, max(1, num_steps - 1)),
            num_segments=len(structure.segments),
            num_tensors=max(len(s.entries) for s in structure.segments),
            taylor_orders=tuple(
                order for order in (1, 2) if f"taylor{order}" in config.planner.forecasters
            ),
        )

    def observe(self, tick: Tick, added: Sequence[tuple[Tensor, ...] | None], output: Any) -> None:
        """Take the tensors that segments added in a call, and the output of the model."""
        if self.problem is not None or tick.step >= self._num_steps:
            return
        try:
            self._outputs.observe(tick.step, output, stream=tick.call)
            if self._moments is None:
                return
            for g, tensors in enumerate(added):
                for m, tensor in enumerate(tensors or ()):
                    self._moments.observe(tick.step, g, m, tensor, stream=tick.call)
        except ValueError as error:
            self.problem = f"the run could not be measured: {error}"

    @property
    def has_segments(self) -> bool:
        """Whether the tensors that segments add are measured."""
        return self._moments is not None

    def measurements(self) -> Measurements:
        """All measurements of the run; the outputs that they were made of are released."""
        structure = self.structure
        observed = None if self._observer is None else self._observer.moments
        self._outputs.start_generation()
        for sums in (self._moments, observed):
            if sums is not None:
                sums.start_generation()
        return Measurements(
            moments=self._moments,
            segment_flops=tuple(s.flops for s in structure.segments),
            total_flops=structure.total_flops,
            fingerprint=self.run,
            gains=self._director.gains(self.run),
            layers=structure.layers,
            feed_forwards=observed,
            outputs=self._outputs,
            takes_windows=structure.takes_windows,
        )
