# SPDX-License-Identifier: Apache-2.0
"""Plans by measured quality: candidates are run, compared with the unaccelerated samples, and improved.

Expected errors of a plan are sums over steps as if these were independent. They find good schedules
in milliseconds, but which price, weighting and forecasters suit a model best, only samples tell.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import os
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm.auto import tqdm

from genaccel.sampling.calls import PipelineCall, run_call
from genaccel.sampling.costs import cost_of_call, median_cost
from genaccel.sampling.distances import Closeness, Distance, mean_psnr
from genaccel.sampling.images import Images, images_of
from genaccel.sensitivity.config import SensitivityConfig
from genaccel.sensitivity.enable import AcceleratedModel, SensitivityHandle, enable_sensitivity
from genaccel.sensitivity.measure.measuring import MeasuredRuns, measuring
from genaccel.sensitivity.planning.partial_plan import plan_for_speedup
from genaccel.sensitivity.planning.planner import make_plan, segment_errors
from genaccel.sensitivity.planning.time_windows import hat_windows
from genaccel.sensitivity.plans.plan import Plan
from genaccel.sensitivity.plans.plan_library import PlanEntry, PlanLibrary

# Prices, weighting and forecasters that are tried for each speed-up, of segments, of modules and of both;
# plans of outputs are priced in one way.
_PRICES: tuple[Mapping[str, Any], ...] = (
    {},
    {"objective": "sum"},
    {"weigh_steps": False},
    {"forecasters": ("taylor1",)},
)
CANDIDATES: tuple[Mapping[str, Any], ...] = (
    {"granularity": "output"},
    *(
        {"granularity": granularity, **prices}
        for granularity, prices in itertools.product(("segment", "mixed", "module"), _PRICES)
    ),
    {"granularity": "segment", "forecasters": ("taylor2",)},
    {"granularity": "segment", "forecasters": ("affine",)},
    {
        "granularity": "segment",
        "metric": "cosine",
        "edge_cost": "endpoint",
        "objective": "sum",
        "forecasters": ("reuse",),
    },
)

# Forecasters that are tried with even spacing, which needs no measured errors to be good.
EVEN_CANDIDATES = ("taylor1", "taylor2")


@dataclass(frozen=True, slots=True, eq=False)
class TrialResult:
    """A plan and what it did to the samples.

    Attributes:
        plan: The plan.
        config: Of the planner.
        psnr: Mean decibels to the unaccelerated samples.
        st_lpips: Mean ST-LPIPS to them; None without a metric.
        speedup: Measured, over the whole pipeline calls.
    """

    plan: Plan
    config: SensitivityConfig
    psnr: float
    st_lpips: float | None
    speedup: float


def tune(
    pipeline: Any,
    calls: Sequence[PipelineCall],
    *,
    speedups: Sequence[float] = (1.5, 2.0, 2.5, 3.0, 4.0),
    out: str | os.PathLike[str],
    config: SensitivityConfig | None = None,
    refine: int = 0,
    distance: Distance | None = None,
    seed: int = 0,
) -> PlanLibrary:
    """Measure plans for several speed-ups and keep the best of each.

    A plan is kept as soon as its speed-up is done; a second call with the same folder goes on with
    the speed-ups that are not in it for this number of steps.

    Args:
        pipeline: A diffusers pipeline, not accelerated at present.
        calls: Arguments of a few generations; see :func:`~genaccel.sensitivity.study.calibrate.calibrate`.
        speedups: FLOPs of the denoiser without acceleration over those with it.
        out: Folder of the plans; beside a model's folders, named "sensitivity", they are found by
            ``genaccel.enable``.
        config: Intervals and budgets; its target does not matter.
        refine: Trials of moving single computed steps of the best plan, at each speed-up.
        distance: Of two images ``[H, W, 3]``, such as ST-LPIPS; measured for the kept plans.
        seed: Of the trials.

    Raises:
        ValueError: If the pipeline has more than one transformer, or a speed-up is out of reach.
    """
    config = config or SensitivityConfig(speedup=2.0)
    library = PlanLibrary(out)
    handle = enable_sensitivity(pipeline, _watching_modules(config))
    try:
        if not calls:
            raise ValueError("calls must hold at least one generation")
        if len(handle.models) != 1:
            raise ValueError(
                f"{type(pipeline).__name__} has {len(handle.models)} transformers; tune knows only one"
            )
        (model,) = handle.models.values()
        stated = [int(c["num_inference_steps"]) for c in calls if "num_inference_steps" in c]
        if len(stated) == len(calls):
            # Told before anything is measured, where the calls say it.
            speedups = _missing(library, model.name, speedups, stated[0])
            if not speedups:
                return library
        with measuring(handle) as runs:
            for call in tqdm(calls, desc="calibrating", unit="generation", disable=None):
                run_call(pipeline, call)
        trials = _Trials(pipeline, handle, model, runs[model.name], calls, distance)
        steps = trials.measured.fingerprint.num_inference_steps
        for speedup in _missing(library, model.name, speedups, steps):
            best = _best(trials, config, speedup, refine, random.Random(seed))
            library.add(
                best.plan,
                PlanEntry(
                    folder=plan_folder(speedup, steps),
                    component=model.name,
                    flop_ratio=1 / best.plan.flop_fraction,
                    speedup=best.speedup,
                    psnr=best.psnr,
                    st_lpips=best.st_lpips,
                    config=best.config.to_dict(),
                ),
            )
    finally:
        handle.disable()
    return library


def plan_folder(speedup: float, num_inference_steps: int) -> str:
    """Folder of a plan in its library.

    Example:
        >>> plan_folder(2.0, 50)
        'speedup-2-steps-50'
    """
    return f"speedup-{speedup:g}-steps-{num_inference_steps}"


def find_entry(
    library: PlanLibrary, component: str | None, speedup: float, num_inference_steps: int
) -> PlanEntry | None:
    """The plan that :func:`tune` kept for a speed-up and a number of steps.

    Args:
        library: Of plans.
        component: The pipeline's model, or None for any.
        speedup: As it was asked for.
        num_inference_steps: Of the sampler.
    """
    # Folders were named without the steps once.
    named = (plan_folder(speedup, num_inference_steps), f"speedup-{speedup:g}")
    for folder in named:
        for entry in library.entries:
            if entry.folder != folder or component not in (None, entry.component):
                continue
            if library.load(entry).fingerprint.num_inference_steps == num_inference_steps:
                return entry
    return None


def _missing(
    library: PlanLibrary, component: str, speedups: Sequence[float], num_inference_steps: int
) -> list[float]:
    return [
        speedup
        for speedup in speedups
        if find_entry(library, component, speedup, num_inference_steps) is None
    ]


def _watching_modules(config: SensitivityConfig) -> SensitivityConfig:
    """Of a run that learns what modules blocks have, where the config allows plans for these."""
    try:
        return dataclasses.replace(config, granularity="module")
    except ValueError:
        return config


class _Trials:
    """The generations, with and without acceleration."""

    def __init__(
        self,
        pipeline: Any,
        handle: SensitivityHandle,
        model: AcceleratedModel,
        runs: MeasuredRuns,
        calls: Sequence[PipelineCall],
        distance: Distance | None,
    ) -> None:
        self.pipeline = pipeline
        self.model = model
        self.calls = calls
        self.distance = distance
        if runs.total is None:
            raise ValueError(
                runs.problem or f"{model.name} was not called to the last step in any generation"
            )
        self.measured = runs.total
        with handle.paused():
            self.reference, _ = self._run()
        if distance is not None:
            distance(self.reference[0], self.reference[0])  # refuses small images before the trials

    def _run(self) -> tuple[Images, float]:
        images: Images = []

        def run(call: PipelineCall) -> None:
            images.extend(images_of(run_call(self.pipeline, call)))

        device = torch.device(self.pipeline.device)
        costs = [cost_of_call(functools.partial(run, call), device) for call in self.calls]
        return images, median_cost(costs).wall

    def psnr(self, plan: Plan) -> float:
        """Mean decibels of a plan."""
        self.model.director.forced = plan
        return mean_psnr(self._run()[0], self.reference)

    def result(self, plan: Plan, config: SensitivityConfig) -> TrialResult:
        """All figures of a plan; the unaccelerated side is timed beside it."""
        self.model.director.forced = plan
        images, seconds = self._run()
        close = Closeness.of(images, self.reference, self.distance)
        with self.model.engine.paused():
            _, plain = self._run()
        return TrialResult(plan, config, close.psnr, close.distance, plain / seconds)


def _best(
    trials: _Trials, config: SensitivityConfig, speedup: float, refine: int, chance: random.Random
) -> TrialResult:
    asked = dataclasses.replace(config, speedup=speedup, max_lpips=None, min_psnr=None)
    planned = [(plan_for_speedup, asked.changed(**settings)) for settings in CANDIDATES]
    if not config.has_partial_steps:
        even = functools.partial(make_plan, even=True)
        planned += [
            (even, asked.changed(granularity="segment", forecasters=(name,)))
            for name in EVEN_CANDIDATES
        ]
    found: list[tuple[float, Plan, SensitivityConfig]] = []
    refused: ValueError | None = None
    with tqdm(
        total=len(planned) + refine, desc=f"plans for {speedup:g}x", unit="plan", disable=None
    ) as progress:
        for make, candidate in planned:
            progress.update()
            try:
                plan = make(trials.measured, candidate, speedup=speedup)
            except ValueError as error:
                # Too few steps for even spacing, say, or no modules in the blocks.
                refused = error
                continue
            found.append((trials.psnr(plan), plan, candidate))
        if not found:
            assert refused is not None
            raise refused
        psnr, plan, candidate = max(found, key=lambda item: item[0])
        errors = segment_errors(trials.measured, config.changed(weigh_steps=False))
        for _ in range(refine):
            moved = move_step(plan, errors, config.planner.forecasters, chance)
            progress.update()
            if moved is None:
                continue
            value = trials.psnr(moved)
            if value > psnr:
                psnr, plan = value, moved
    return trials.result(plan, candidate)


def move_step(
    plan: Plan,
    errors: NDArray[np.float64],
    forecasters: Sequence[str],
    chance: random.Random,
) -> Plan | None:
    """Move a computed step by one or two, for all segments that compute it.

    Args:
        plan: Where to start from.
        errors: ``[F, S, K, G]``, of the forecasters in their order, for the steps that are forecast
            anew.
        forecasters: F names.
        chance: Which step, and where to.

    Returns:
        The plan, or None if the step can't be moved there.
    """
    mask = plan.compute_mask.copy()
    steps = len(mask)
    movable = np.flatnonzero(mask.any(axis=1))[1:]
    if not movable.size:
        return None
    step = int(chance.choice(movable.tolist()))
    target = step + chance.choice((-2, -1, 1, 2))
    if not 0 < target < steps or mask[target].any():
        return None
    mask[target], mask[step] = mask[step], False
    index = np.full(mask.shape, -1, dtype=np.int8)
    for g in range(mask.shape[1]):
        last = 0
        for s in range(steps):
            if mask[s, g]:
                last = s
                continue
            age = s - last
            if age > errors.shape[2]:
                return None
            prices = [
                errors[forecasters.index(n), s, age - 1, g] if n in forecasters else np.inf
                for n in plan.forecasters
            ]
            if not plan.compute_mask[s, g]:
                # Chosen for what is computed around it, which the errors of one step do not tell.
                index[s, g] = plan.forecaster_index[s, g]
            elif np.isfinite(prices).any():
                index[s, g] = int(np.nanargmin(prices))
            else:
                return None
    times = None if plan.time_weights is None else hat_windows(mask.all(axis=1))
    return dataclasses.replace(
        plan,
        compute_mask=mask,
        forecaster_index=index,
        time_weights=times,
        expected_error=None,
    )
