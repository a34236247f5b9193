# SPDX-License-Identifier: Apache-2.0
"""``genaccel.enable``: SODA on a diffusers pipeline or model."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import nn

from genaccel.hooks.binding import AlreadyEnabledError, unwrapped
from genaccel.hooks.clock import Clock, PipelineClock, TimestepClock
from genaccel.hooks.engine import Engine
from genaccel.hooks.handle import AccelerationHandle
from genaccel.hooks.pipeline_runs import PipelineRuns
from genaccel.hooks.report import ModelReport
from genaccel.sensitivity.config import SensitivityConfig
from genaccel.sensitivity.plans.plan import Plan
from genaccel.sensitivity.plans.plan_library import PlanEntry, PlanLibrary
from genaccel.sensitivity.plans.plan_source import PlanSource
from genaccel.sensitivity.run.director import SensitivityDirector, SensitivityRun

_logger = logging.getLogger(__name__)


class AcceleratedModel:
    """One model, its engine and its director.

    Args:
        name: Name in the pipeline.
        model: The model.
        clock: Tells which run and step a call belongs to.
        config: What the user asked for.
        pipeline: The pipeline that the model is from, or None.
    """

    def __init__(
        self,
        name: str,
        model: nn.Module,
        clock: Clock,
        config: SensitivityConfig,
        *,
        pipeline: Any = None,
    ) -> None:
        self.name = name
        plain = unwrapped(model)
        source = PlanSource(config, name, plain, pipeline)
        self.director = SensitivityDirector(name, plain, config, source, pipeline=pipeline)
        megabytes = config.cache_megabytes
        self.engine = Engine(
            model,
            clock,
            self.director,
            max_blocks=config.planner.max_blocks,
            max_bytes=None if megabytes is None else int(megabytes * 1e6),
            token_score=config.planner.token_score,
        )

    def follow(self, model: Any) -> None:
        """Accelerate the model that the pipeline now has in this place; it may have been exchanged."""
        if not isinstance(model, nn.Module):
            return
        if unwrapped(model) is self.engine.model:
            self.engine.binding.refresh(model)
            return
        try:
            self.engine.bind(model)
        except ValueError as error:
            self.engine.warn(f"the new {self.name} of the pipeline is not accelerated: {error}")
            return
        self.director.use_model(self.engine.model)

    def report(self, base: ModelReport) -> ModelReport:
        """The report of the last run, with the target and the plan that it followed added to ``base``."""
        latest = self.engine.latest
        target = self.director.config.target
        if latest is None or not isinstance(latest.director, SensitivityRun):
            return dataclasses.replace(base, target=target)
        choice = latest.director.choice
        notes = tuple(dict.fromkeys([*base.notes, *choice.notes]))
        return dataclasses.replace(base, target=target, plan=choice.text, notes=notes)


class SensitivityHandle(AccelerationHandle):
    """SODA on one pipeline or model, until ``disable``.

    Args:
        models: The accelerated models by name.
        ended: Called once when it is disabled.
    """

    def __init__(
        self, models: Mapping[str, AcceleratedModel], ended: Callable[[], None] | None = None
    ) -> None:
        super().__init__({name: model.engine for name, model in models.items()}, ended)
        self.models = dict(models)

    @property
    def plans(self) -> dict[str, Plan | None]:
        """The plan of each model; None while it is still to be measured."""
        return {name: model.director.plan for name, model in self.models.items()}

    def describe(self, name: str, base: ModelReport) -> ModelReport:
        """The report of one model, with its target, the plan of its last run and notes on it added to ``base``."""
        return self.models[name].report(base)

    def run(
        self,
        pipeline: Any,
        call: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> Any:
        """Make a call of the pipeline an accelerated run, for flags of the call itself."""
        runs = PipelineRuns.of(pipeline)
        try:
            return runs.run(call, args, kwargs)
        finally:
            runs.release()

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


def enable_sensitivity(
    target: Any, config: SensitivityConfig, *, num_inference_steps: int | None = None
) -> SensitivityHandle:
    """Accelerate a pipeline, or a model.

    Args:
        target: A diffusers pipeline with a ``transformer``, or a model.
        config: What is wanted.
        num_inference_steps: Steps of each run, where ``target`` is a model: nobody else tells them.

    Raises:
        ValueError: If there is no transformer in it, no steps are given for a bare model, it is
            accelerated already, or the config names plans that are not for it.
    """
    if isinstance(target, nn.Module):
        if num_inference_steps is None:
            raise ValueError(
                "a model does not know its sampler: pass the pipeline, or num_inference_steps="
            )
        plain = unwrapped(target)
        model = AcceleratedModel("model", target, TimestepClock(plain, num_inference_steps), config)
        return SensitivityHandle({"model": model})
    denoisers = _denoisers(target)
    runs = PipelineRuns.of(target)
    models: dict[str, AcceleratedModel] = {}
    try:
        if SensitivityHandle in runs.kinds:
            raise AlreadyEnabledError(
                f"{type(target).__name__} is accelerated already; call disable() on its handle first"
            )
        for name, module in denoisers.items():
            models[name] = AcceleratedModel(
                name, module, PipelineClock(runs), config, pipeline=target
            )
    except BaseException:
        for made in models.values():
            made.engine.detach()
        runs.release()
        raise

    def follow() -> None:
        for name, accelerated in models.items():
            accelerated.follow(getattr(target, name, None))

    def ended() -> None:
        runs.begins.remove(follow)
        runs.kinds.remove(SensitivityHandle)
        runs.release()

    runs.begins.append(follow)
    runs.kinds.append(SensitivityHandle)
    return SensitivityHandle(models, ended)


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
