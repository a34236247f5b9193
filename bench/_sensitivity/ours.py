# SPDX-License-Identifier: Apache-2.0
"""Rows of ``bench/soda.py`` that are made of genaccel: its plans, simple schedules to compare them with, and fewer steps."""

from __future__ import annotations

import shutil
import tempfile
import weakref
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

import genaccel
from bench._sensitivity.workload import Workload
from genaccel.sampling.methods import Attached, Method, Setting
from genaccel.sensitivity.planning.partial_plan import plan_for_speedup
from genaccel.sensitivity.planning.planner import Measurements
from genaccel.sensitivity.plans.plan import Plan
from genaccel.sensitivity.study.calibrate import calibrate

OURS = "genaccel"
BY_RULE = "fixed interval, quadratic"

# Of the FLOPs, for recomputed tokens: about what the paper spends on them.
_PRUNING_SHARE = 0.1
# Of samples that plans are chosen by.
_CHOICE_BATCHES = 2


class Ours:
    """Our pipelines and plans. What they look at are samples that are not those of the test.

    Args:
        workload: Pipeline and samples.
        batches: Calibration batches of the plans for the ablation; a user's has one.
    """

    def __init__(self, workload: Workload, *, batches: int) -> None:
        self.workload = workload
        self.batches = batches
        # A pipeline that is enabled looks for plans; none of an earlier run must be found.
        self._folder = tempfile.mkdtemp()
        weakref.finalize(self, shutil.rmtree, self._folder, ignore_errors=True)
        self._measured: Measurements | None = None
        self._reference: Tensor | None = None

    @property
    def measured(self) -> Measurements:
        """Measurements of the calibration, which is done when they are first asked for."""
        if self._measured is None:
            workload = self.workload
            calls = [
                {
                    "class_labels": list(samples.labels),
                    "seed": samples.seeds[0],
                    "guidance_scale": workload.guidance,
                    "num_inference_steps": workload.num_steps,
                    "output_type": "pt",
                }
                for samples in map(workload.calibration_samples, range(self.batches))
            ]
            # Feed-forwards are measured too, for the rows that prune tokens.
            config = genaccel.SensitivityConfig(speedup=2.0, pruning_share=_PRUNING_SHARE)
            self._measured = calibrate(workload.copy(), calls, config)["transformer"]
        return self._measured

    def enable(self, pipeline: Any, config: genaccel.SensitivityConfig) -> Any:
        """``genaccel.enable`` on a pipeline, with a cache of its own."""
        # A config that only differs in its first run would find the other's plan in a shared one.
        folder = tempfile.mkdtemp(dir=self._folder)
        return genaccel.enable(pipeline, config.changed(cache_dir=folder))

    def attach_measured(self, pipeline: Any, values: Mapping[str, Any]) -> Attached:
        """Attach the plan of a user who enabled one pipeline with ``SensitivityConfig(**values)`` and ran it once.

        Raises:
            ValueError: If there is no plan after that.
        """
        return self._enabled(without_plans(pipeline), values)

    def attach_shipped(self, pipeline: Any, values: Mapping[str, Any]) -> Attached:
        """Attach the plan that is shipped beside the model.

        Raises:
            ValueError: If there is none for this run.
        """
        attached = self._enabled(pipeline, values)
        if "beside the model" not in attached.note:
            raise ValueError("no plan beside the model is for this run")
        return attached

    def _enabled(self, pipeline: Any, values: Mapping[str, Any]) -> Attached:
        """Enable a pipeline, and run it once on samples for calibration."""
        config = genaccel.SensitivityConfig(speedup=2.0).changed(**values)
        handle = self.enable(pipeline, config)
        attached = Attached(pipeline)
        self.workload.sample(attached, self.workload.calibration_samples(0))
        report, plan = handle.report()["transformer"], handle.plans["transformer"]
        if plan is None:
            raise ValueError(
                f"no plan after the first run: {report.plan}; {' '.join(report.notes)}"
            )
        attached.note = report.plan or ""
        if report.flop_ratio <= 1:
            attached.note = f"measured, {1 / plan.flop_fraction:.2f}x fewer FLOPs"
        return attached

    def plan(self, values: Mapping[str, Any]) -> Plan:
        """The plan for ``SensitivityConfig(**values)``, which names a speed-up."""
        config = genaccel.SensitivityConfig(speedup=2.0).changed(**values)
        assert isinstance(config.speedup, float)
        return plan_for_speedup(self.measured, config, speedup=config.speedup)

    def attach_planned(self, pipeline: Any, values: Mapping[str, Any]) -> Attached:
        """Attach a plan that is made from this calibration."""
        return self.attach_plan(pipeline, self.plan(values), values)

    def error(self, attached: Attached) -> float:
        """Mean logarithm of the squared distance to plain samples, on some for calibration.

        They are not those that were measured for the plans, nor those of the test.
        """
        if self._reference is None:
            self._reference = self._choice_latents(self.workload.plain)
        latents = self._choice_latents(attached)
        return float((latents - self._reference).square().mean(dim=(1, 2, 3)).log().mean())

    def _choice_latents(self, attached: Attached) -> Tensor:
        batches = range(self.batches, self.batches + _CHOICE_BATCHES)
        samples = map(self.workload.calibration_samples, batches)
        return torch.cat([self.workload.sample(attached, s) for s in samples])

    def speedup_of(self, count: int) -> float:
        """FLOP ratio of the denoiser with ``count`` computed steps."""
        steps, total = self.workload.num_steps, self.measured.total_flops
        fixed = total - sum(self.measured.segment_flops)
        return steps * total / (count * total + (steps - count) * fixed)

    def attach_plan(
        self, pipeline: Any, plan: Plan, values: Mapping[str, Any] | None = None
    ) -> Attached:
        """Attach a given plan, through a folder as users' plans are."""
        folder = Path(tempfile.mkdtemp(dir=self._folder))
        plan.save_pretrained(folder)
        others = {k: v for k, v in (values or {}).items() if k != "speedup"}
        config = genaccel.SensitivityConfig(speedup=2.0).changed(
            **others, speedup=None, plan=folder
        )
        self.enable(pipeline, config)
        return Attached(pipeline)

    def attach_fixed(self, pipeline: Any, values: Mapping[str, Any]) -> Attached:
        """Attach a plan that computes steps at equal distances, with one forecaster for all others."""
        return self.attach_plan(pipeline, fixed_plan(self.measured, **values))


def fixed_plan(
    measured: Measurements,
    *,
    count: int,
    forecaster: str,
    granularity: Literal["segment", "output"] = "segment",
) -> Plan:
    """Computes ``count`` steps as evenly as they go, as FORA does where that is whole.

    Args:
        measured: Measurements, for the fingerprint and the FLOPs of the run.
        count: Number of computed steps.
        forecaster: Forecaster of the others.
        granularity: "segment" or "output".
    """
    steps = measured.fingerprint.num_inference_steps
    segments = len(measured.segment_flops)
    mask = np.zeros((steps, segments), dtype=bool)
    mask[(np.arange(count) * steps) // count] = True
    fixed = measured.total_flops - sum(measured.segment_flops)
    return Plan(
        fingerprint=measured.fingerprint,
        compute_mask=mask,
        forecasters=(forecaster,),
        forecaster_index=np.where(mask, -1, 0).astype(np.int8),
        granularity=granularity,
        flop_fraction=(count * measured.total_flops + (steps - count) * fixed)
        / (steps * measured.total_flops),
    )


def without_plans(pipeline: Any) -> Any:
    """A pipeline that does not know its folder, so that no plan is found beside the model."""
    for part in (pipeline, pipeline.transformer):
        part.register_to_config(_name_or_path="")
    return pipeline


def our_methods(ours: Ours) -> list[Method]:
    """genaccel as a user has it who enables one pipeline, fixed intervals and fewer steps.

    Args:
        ours: With the workload.
    """
    steps = ours.workload.num_steps
    counts = range(max(2, steps * 3 // 4), 1, -1)

    def ladder(setting: Callable[[int], Setting]) -> tuple[tuple[Setting, ...], ...]:
        return (tuple(map(setting, counts)),)

    def asked(**values: Any) -> tuple[tuple[Setting, ...], ...]:
        return ladder(
            lambda n: Setting(
                f"speedup {steps / n:.3g}",
                # A hair less, which rounding could put above what n steps give.
                {"speedup": steps / n * (1 - 1e-6), **values},
                expected=steps / n,
            )
        )

    def fixed(forecaster: str) -> tuple[tuple[Setting, ...], ...]:
        return ladder(
            lambda n: Setting(
                f"every {steps / n:.2f}",
                {"count": n, "forecaster": forecaster},
                expected=ours.speedup_of(n),
            )
        )

    return [
        Method(
            name=OURS,
            attach=ours.attach_measured,
            ladders=asked(),
            role="ours",
            may_be_tuned=True,
            note="default, one generation measured",
        ),
        Method(
            name=f"{OURS}, segments",
            attach=ours.attach_measured,
            ladders=asked(granularity="segment"),
            role="variant",
            may_be_tuned=True,
        ),
        Method(
            name=f"{OURS}, plans of the zoo",
            attach=ours.attach_shipped,
            ladders=(
                tuple(Setting(f"speedup {s:g}", {"speedup": s}, expected=s) for s in (2.0, 3.0)),
            ),
            role="variant",
        ),
        Method(
            name=f"{OURS}, first_run='plan'",
            attach=ours.attach_measured,
            ladders=asked(first_run="plan"),
            role="variant",
            may_be_tuned=True,
            note="a fixed rule, nothing measured",
        ),
        Method(
            name=BY_RULE,
            attach=ours.attach_measured,
            ladders=asked(first_run="plan", time_windows=False),
            note="of the model's output, two steps computed first, no windows of times",
        ),
        Method(name="fixed interval (FORA)", attach=ours.attach_fixed, ladders=fixed("reuse")),
        Method(name="fixed interval, Taylor 1", attach=ours.attach_fixed, ladders=fixed("taylor1")),
        Method(
            name="fewer steps",
            attach=lambda pipeline, values: Attached(pipeline, num_steps=values["steps"]),
            ladders=ladder(lambda n: Setting(f"{n} steps", {"steps": n}, expected=steps / n)),
        ),
    ]


def _only(label: str, **values: Any) -> tuple[tuple[Setting, ...], ...]:
    return ((Setting(label, values),),)


def ablation_methods(ours: Ours, speedup: float) -> list[Method]:
    """The methods of the ablation: genaccel with parts left out or changed, all at one FLOP ratio."""
    steps = ours.workload.num_steps
    count = next((n for n in range(steps, 2, -1) if ours.speedup_of(n) >= speedup), 2)
    pruned = {"forecasters": ("reuse",), "pruning_share": _PRUNING_SHARE}
    rows: list[tuple[str, dict[str, Any]]] = [
        ("DP, reuse, steps not weighed", {"forecasters": ("reuse",), "weigh_steps": False}),
        ("DP, reuse", {"forecasters": ("reuse",)}),
        ("DP, Taylor 1", {"forecasters": ("taylor1",)}),
        ("DP, Taylor 2", {"forecasters": ("taylor2",)}),
        ("DP, affine", {"forecasters": ("affine",)}),
        ("DP, all forecasters", {}),
        ("DP, all, end-point cost", {"edge_cost": "endpoint"}),
        ("DP, all, cosine error", {"metric": "cosine"}),
        ("DP, all, sum of errors", {"objective": "sum"}),
        ("DP, all, steps not weighed", {"weigh_steps": False}),
        # One plan, other tokens: that is what their choice is worth.
        *(
            (f"DP, reuse + pruning, {score} tokens", {**pruned, "token_score": score})
            for score in ("mean", "drift", "random")
        ),
        ("DP, all + pruning", {"pruning_share": _PRUNING_SHARE}),
        ("DP, all, of modules", {"granularity": "module"}),
        ("DP, all, mixed", {"granularity": "mixed"}),
        ("outputs, no windows of times", {"granularity": "output", "time_windows": False}),
        ("outputs", {"granularity": "output"}),
    ]

    # A hair less, which rounding could put above what so many steps give.
    asked = ours.speedup_of(count) * (1 - 1e-9)
    return [
        *(
            Method(
                name=f"fixed interval, {forecaster}",
                attach=ours.attach_fixed,
                ladders=_only(f"every {steps / count:.2f}", count=count, forecaster=forecaster),
            )
            for forecaster in ("reuse", "taylor1", "taylor2")
        ),
        *(
            Method(
                name=name,
                attach=ours.attach_planned,
                ladders=_only(
                    f"speedup {asked:.3g}", speedup=asked, **{"granularity": "segment", **values}
                ),
            )
            for name, values in rows
        ),
        *(
            Method(
                name=f"outputs by rule{name}",
                attach=ours.attach_measured,
                ladders=_only(
                    f"speedup {asked:.3g}", speedup=asked, first_run="plan", time_windows=windows
                ),
            )
            for name, windows in ((", no windows of times", False), ("", True))
        ),
    ]


def alternating(ours: Ours, *, only_segments: bool = False) -> list[Method]:
    """Every second step: the pattern by which measured time is compared with FLOPs.

    Args:
        ours: Our plans, with the workload.
        only_segments: Whether segments alone are forecast; else there is a method of outputs too, which
            costs less.
    """
    kinds = [("segment", "taylor1"), ("output", "taylor2")]
    return [
        Method(
            name=f"genaccel, every second step, {granularity}s, {forecaster}",
            attach=ours.attach_fixed,
            ladders=_only(
                "every 2",
                count=ours.workload.num_steps // 2,
                forecaster=forecaster,
                granularity=granularity,
            ),
            role="ours",
        )
        for granularity, forecaster in kinds[: 1 if only_segments else None]
    ]
