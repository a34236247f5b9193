# SPDX-License-Identifier: Apache-2.0
"""``genaccel.enable``: SODA on a diffusers pipeline or model."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from genaccel.hooks.attachment import Attachment
from genaccel.hooks.handle import AccelerationHandle
from genaccel.hooks.step_clock import SchedulerClock, StepClock, TimestepClock
from genaccel.sensitivity.calibration_moments import CalibrationMoments
from genaccel.sensitivity.config import SensitivityConfig
from genaccel.sensitivity.director import SensitivityDirector
from genaccel.sensitivity.fingerprint import Fingerprint, config_digest
from genaccel.sensitivity.partial_plan import check_layers, plan_for_speedup
from genaccel.sensitivity.plan import Plan
from genaccel.sensitivity.plan_library import (
    LIBRARY_FOLDER,
    PlanEntry,
    PlanLibrary,
    cached_plan_folder,
)
from genaccel.sensitivity.planner import Measurements, check_reachable
from genaccel.sensitivity.sampler_gain import sampler_gains

_logger = logging.getLogger(__name__)


class SensitivityHandle(AccelerationHandle):
    """SODA on one pipeline or model, until ``disable``.

    Args:
        models: The accelerated models by name.
    """

    def __init__(self, models: Mapping[str, AcceleratedModel]) -> None:
        super().__init__({name: model.attachment for name, model in models.items()})
        self.models = dict(models)

    @property
    def plans(self) -> dict[str, Plan | None]:
        """The plan of each model; None while it is still to be measured."""
        return {name: model.director.plan for name, model in self.models.items()}

    def save_pretrained(self, folder: str | Path) -> None:
        """Write the plans, for ``SensitivityConfig(plan=folder)``.

        Raises:
            ValueError: If there is none yet.
        """
        plans = {}
        for name, plan in self.plans.items():
            if plan is None:
                raise ValueError(f"{name} has no plan yet; run the pipeline once to calibrate")
            plans[name] = plan
        library = PlanLibrary(folder)
        for name, plan in plans.items():
            library.add(plan, PlanEntry(name, name, 1 / plan.flop_fraction))


class AcceleratedModel:
    """One model, its hooks and its plan.

    Args:
        name: Name in the pipeline.
        model: The model.
        clock: Which step a call belongs to.
        config: What the user asked for.
        pipeline: Where the model is from, or None.
    """

    def __init__(
        self,
        name: str,
        model: nn.Module,
        clock: StepClock,
        config: SensitivityConfig,
        *,
        pipeline: Any = None,
    ) -> None:
        self.name = name
        self.config = config
        self.pipeline = pipeline
        self.measurements: Measurements | None = None
        self.is_measuring = False
        self._run: Fingerprint | None = None
        self._is_loaded = False
        self.director = SensitivityDirector(
            config, None, measured=self._measured, run_begins=self._run_begins
        )
        megabytes = config.cache_megabytes
        self.attachment = Attachment(
            model,
            clock,
            self.director,
            max_blocks=config.max_blocks,
            max_bytes=None if megabytes is None else int(megabytes * 1e6),
            token_score=config.token_score,
        )

    def fingerprint(self, num_inference_steps: int) -> Fingerprint:
        """Of the run at hand; the model must have been called in it."""
        model = self.attachment.model
        scheduler = getattr(self.pipeline, "scheduler", None)
        shape = self.attachment.input_shape
        return Fingerprint(
            model_class=type(model).__name__,
            model_config_digest=config_digest(dict(getattr(model, "config", {}))),
            scheduler_class="" if scheduler is None else type(scheduler).__name__,
            scheduler_config_digest="" if scheduler is None else config_digest(scheduler.config),
            num_inference_steps=num_inference_steps,
            height=shape[-2] if len(shape) > 2 else 1,
            width=shape[-1] if len(shape) > 3 else 1,
            guidance_scale=_number(getattr(self.pipeline, "_guidance_scale", None)),
            lora=tuple(getattr(model, "peft_config", None) or ()),
        )

    def _run_begins(self, num_steps: int) -> None:
        """Find a plan for a run, or measure it."""
        run = self._run = self.fingerprint(num_steps)
        if self.is_measuring:
            return
        plan = self.director.plan
        tolerated = {"guidance_scale"}
        if self.config.plan is not None or self.config.speedup is None:
            tolerated.add("num_inference_steps")
        if plan is not None and set(plan.fingerprint.differences(run)) <= tolerated:
            return
        found = self._find(run)
        if found is not None:
            self.director.use(found)
            return
        if self.config.speedup is None:
            raise ValueError(
                f"no plan of {self.name} was measured to keep the quality that was asked for; "
                "measure some with genaccel.sensitivity.tune (or `genaccel tune`) and name their folder in plan="
            )
        # Now, not after a run that was measured for nothing.
        if self.config.has_partial_steps:
            check_layers(self.director.layers, type(self.attachment.model).__name__)
        check_reachable(
            self.config.speedup,
            segment_flops=[s.flops for s in self.director.segments],
            total_flops=self.director.total_flops,
            warmup_steps=self.config.warmup_steps,
            steps=num_steps,
            max_interval=self.config.max_interval,
        )
        _logger.warning(
            "%s has no plan for this run yet: it is computed in full and measured; the next ones are faster.",
            self.name,
        )
        self.director.measure()

    def _find(self, run: Fingerprint) -> Plan | None:
        """Given, beside the model, or in the cache."""
        if self.config.plan is not None:
            library = PlanLibrary(self.config.plan)
            chosen = library.choose(self.config, self.name, run)
            if chosen is None:
                chosen = library.choose(self.config, self.name)
            if chosen is None:
                raise ValueError(
                    f"{self.config.plan} has no plan that meets the target; it has "
                    + (", ".join(f"{e.flop_ratio:.2f}x" for e in library.entries) or "none")
                )
            self._check(chosen[1], run)
            return chosen[1]
        stored = self.stored_plan(run)
        return None if stored is None else stored[1]

    def stored_plan(self, run: Fingerprint) -> tuple[Path, Plan] | None:
        """The folder and the plan that a run would find beside the model or in the cache."""
        for folder in (_folder_of(self.pipeline), _folder_of(self.attachment.model)):
            if folder is not None:
                library = PlanLibrary(folder / LIBRARY_FOLDER)
                beside = library.choose(self.config, self.name, run)
                if beside is not None:
                    return library.folder / beside[0].folder, beside[1]
        if self.config.speedup is not None:
            cached = cached_plan_folder(self.config, run, self.name)
            try:
                return cached, Plan.from_pretrained(cached)
            except FileNotFoundError:
                return None
        return None

    def _check(self, plan: Plan, run: Fingerprint) -> None:
        """Refuse a plan for something else; say what only makes it worse."""
        sentence = plan.fingerprint.explain_mismatch(run)
        if sentence is None:
            return
        fatal = {"model_class", "model_config_digest", "scheduler_class", "lora"}
        if fatal & set(plan.fingerprint.differences(run)):
            raise ValueError(f"{sentence} Calibrate for this run, or leave plan= out.")
        _logger.warning("%s It is used nevertheless; calibrate to do better.", sentence)

    def _measured(self, moments: CalibrationMoments) -> Plan | None:
        steps = moments.shape[0]
        scheduler = getattr(self.pipeline, "scheduler", None)
        observed = self.director.feed_forwards
        self.measurements = Measurements(
            moments=moments,
            segment_flops=tuple(s.flops for s in self.director.segments),
            total_flops=self.director.total_flops,
            fingerprint=self._run or self.fingerprint(steps),
            gains=None if scheduler is None else sampler_gains(scheduler, steps),
            layers=self.director.layers,
            feed_forwards=None if observed is None else observed.moments,
        )
        if self.is_measuring:
            return None
        assert self.config.speedup is not None
        plan = plan_for_speedup(self.measurements, self.config, speedup=self.config.speedup)
        plan.save_pretrained(cached_plan_folder(self.config, plan.fingerprint, self.name))
        return plan


def enable_sensitivity(
    target: Any, config: SensitivityConfig, *, num_inference_steps: int | None = None
) -> SensitivityHandle:
    """Accelerate a pipeline, or a model.

    Args:
        target: A diffusers pipeline with a ``transformer``, or a model.
        config: What is wanted.
        num_inference_steps: Steps of each run, where ``target`` is a model: nobody else tells them.

    Raises:
        ValueError: If there is no transformer in it, no steps are given for a bare model, or it is
            accelerated already.
    """
    if isinstance(target, nn.Module):
        if num_inference_steps is None:
            raise ValueError(
                "a model does not know its sampler: pass the pipeline, or num_inference_steps="
            )
        plain = getattr(target, "_orig_mod", target)
        model = AcceleratedModel("model", target, TimestepClock(plain, num_inference_steps), config)
        return SensitivityHandle({"model": model})
    denoisers = _denoisers(target)
    models: dict[str, AcceleratedModel] = {}
    clock = SchedulerClock(target)
    try:
        for name, module in denoisers.items():
            models[name] = AcceleratedModel(name, module, clock, config, pipeline=target)
    except BaseException:
        for made in models.values():
            made.attachment.detach()
        clock.close()
        raise
    return SensitivityHandle(models)


def _denoisers(pipeline: Any) -> dict[str, nn.Module]:
    """Transformers of a pipeline by name.

    Raises:
        ValueError: If it has none.
    """
    components: Mapping[str, Any] = getattr(pipeline, "components", {})
    found = {
        name: module
        for name, module in components.items()
        if name.startswith("transformer") and isinstance(module, nn.Module)
    }
    if not found or getattr(pipeline, "scheduler", None) is None:
        raise ValueError(
            f"{type(pipeline).__name__} has no transformer and scheduler; SODA accelerates diffusion "
            "transformers, in a pipeline or by themselves"
        )
    return found


def _folder_of(owner: Any) -> Path | None:
    """Where a pipeline or model was loaded from, if that is on this disk."""
    name = getattr(getattr(owner, "config", None), "_name_or_path", None)
    if not name or not Path(name).is_dir():
        return None
    return Path(name)


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None
