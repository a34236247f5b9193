# SPDX-License-Identifier: Apache-2.0
"""genaccel's own rows of ``bench/soda.py``: planned schedules, the simple ones to compare them with, and fewer steps."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

import genaccel
from bench.soda_workload import Attached, Method, Setting, Workload
from genaccel.sensitivity.calibrate import calibrate
from genaccel.sensitivity.partial_plan import plan_for_speedup
from genaccel.sensitivity.plan import Plan
from genaccel.sensitivity.planner import Measurements, make_plan

# Of the FLOPs, for recomputed tokens: about what the paper spends on them.
_PRUNING_SHARE = 0.1
# Of samples that plans are chosen by.
_CHOICE_BATCHES = 2


class Ours:
    """Plans from one calibration, on samples that are not those of the test.

    Args:
        workload: Whose model.
        batches: Calibration batches.
    """

    def __init__(self, workload: Workload, *, batches: int) -> None:
        self.workload = workload
        self.batches = batches
        # A pipeline that is enabled looks for plans; none of an earlier run must be found.
        self._cache = tempfile.TemporaryDirectory()
        self._measured: Measurements | None = None
        self._reference: Tensor | None = None

    @property
    def measured(self) -> Measurements:
        """Of the calibration, which is done when it is first asked for."""
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

    def _enable(self, pipeline: Any, config: genaccel.SensitivityConfig) -> Any:
        values = {**config.to_dict(), "cache_dir": self._cache.name}
        return genaccel.enable(pipeline, genaccel.SensitivityConfig.from_dict(values))

    def plan(self, values: Mapping[str, Any]) -> Plan:
        """For ``SensitivityConfig(**values)`` with a speed-up."""
        config = genaccel.SensitivityConfig(**values)
        assert config.speedup is not None
        return plan_for_speedup(self.measured, config, speedup=config.speedup)

    def attach_planned(self, pipeline: Any, values: Mapping[str, Any]) -> Attached:
        """A plan of this calibration."""
        return self.attach_plan(pipeline, self.plan(values), values)

    def attach_best(self, pipeline: Any, values: Mapping[str, Any]) -> Attached:
        """Of the plans searched by either objective, and even spacing, the closest on samples for calibration.

        So does ``genaccel tune``, with more candidates.
        """
        plans = {
            objective: self.plan({**values, "objective": objective})
            for objective in ("minimax", "sum")
        }
        if values.get("granularity", "segment") == "segment":
            even = genaccel.SensitivityConfig(**values, forecasters=("taylor1",))
            with contextlib.suppress(ValueError):  # of too few steps
                plans["even spacing"] = make_plan(
                    self.measured, even, speedup=values["speedup"], even=True
                )
        name = min(
            plans, key=lambda n: self.error(self.attach_plan(self.workload.copy(), plans[n]))
        )
        attached = self.attach_plan(pipeline, plans[name])
        attached.note = name
        return attached

    def error(self, attached: Attached) -> float:
        """Mean logarithm of the squared distance to plain samples, on some for calibration.

        They are not those that were measured for the plans, nor those of the test.
        """
        if self._reference is None:
            self._reference = self._choice_latents(self.workload.plain)
        latents = self._choice_latents(attached)
        return float((latents - self._reference).square().mean(dim=(1, 2, 3)).log().mean())

    def _choice_latents(self, attached: Attached) -> Tensor:
        first, count = self.batches, min(self.batches, _CHOICE_BATCHES)
        samples = map(self.workload.calibration_samples, range(first, first + count))
        return torch.cat([self.workload.latents(attached, s) for s in samples])

    def possible(self, speedups: Sequence[float], **values: Any) -> list[float]:
        """Those that a plan of a config with these values reaches: intervals have a longest."""
        found = []
        for speedup in speedups:
            with contextlib.suppress(ValueError):
                self.plan({**values, "speedup": speedup})
                found.append(speedup)
        return found

    def speedup_of(self, count: int) -> float:
        """FLOP ratio of the denoiser with ``count`` computed steps."""
        steps, total = self.workload.num_steps, self.measured.total_flops
        fixed = total - sum(self.measured.segment_flops)
        return steps * total / (count * total + (steps - count) * fixed)

    def attach_plan(
        self, pipeline: Any, plan: Plan, values: Mapping[str, Any] | None = None
    ) -> Attached:
        """Any plan, through a folder as users' plans are."""
        folder = Path(tempfile.mkdtemp(dir=self._cache.name))
        plan.save_pretrained(folder)
        others = {k: v for k, v in (values or {}).items() if k != "speedup"}
        self._enable(pipeline, genaccel.SensitivityConfig(**others, plan=folder))
        return Attached(pipeline)

    def attach_fixed(self, pipeline: Any, values: Mapping[str, Any]) -> Attached:
        """Steps at equal distances, with one forecaster for all others."""
        return self.attach_plan(pipeline, fixed_plan(self.measured, **values))


def fixed_plan(measured: Measurements, *, count: int, forecaster: str) -> Plan:
    """Computes ``count`` steps as evenly as they go, as FORA does where that is whole.

    Args:
        measured: Only for what the run is.
        count: Computed steps.
        forecaster: For the others.
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
        flop_fraction=(count * measured.total_flops + (steps - count) * fixed)
        / (steps * measured.total_flops),
    )


def our_methods(ours: Ours) -> list[Method]:
    """genaccel as a user has it who calibrates for a speed-up, fixed intervals and fewer steps.

    Args:
        ours: With the calibration.
    """
    steps = ours.workload.num_steps
    counts = range(max(2, steps * 3 // 4), 1, -1)
    # A hair less than what the steps give, which rounding could put above it.
    speedups = [ours.speedup_of(n) * (1 - 1e-9) for n in counts]
    segments, mixed, modules = (
        tuple(
            Setting(f"speedup {s:.3g}", {"speedup": s, "granularity": g}, expected=s)
            for s in ours.possible(speedups, granularity=g)
        )
        for g in ("segment", "mixed", "module")
    )
    return [
        Method(name="genaccel", attach=ours.attach_best, ladders=(segments,), is_ours=True),
        Method(name="genaccel, mixed", attach=ours.attach_best, ladders=(mixed,), is_ours=True),
        Method(
            name="genaccel, modules", attach=ours.attach_planned, ladders=(modules,), is_ours=True
        ),
        *(
            Method(
                name=name,
                attach=ours.attach_fixed,
                ladders=(
                    tuple(
                        Setting(
                            f"every {steps / n:.2f}",
                            {"count": n, "forecaster": forecaster},
                            expected=ours.speedup_of(n),
                        )
                        for n in counts
                    ),
                ),
            )
            for name, forecaster in (
                ("fixed interval (FORA)", "reuse"),
                ("fixed interval, Taylor 1", "taylor1"),
            )
        ),
        Method(
            name="fewer steps",
            attach=lambda pipeline, values: Attached(pipeline, num_steps=values["steps"]),
            ladders=(
                tuple(Setting(f"{n} steps", {"steps": n}, expected=steps / n) for n in counts),
            ),
        ),
    ]


def ablation_methods(ours: Ours, speedup: float) -> list[Method]:
    """What each part adds, all at one FLOP ratio."""
    steps = ours.workload.num_steps
    count = next((n for n in range(steps, 2, -1) if ours.speedup_of(n) >= speedup), 2)
    pruned = {"forecasters": ("reuse",), "pruning_share": _PRUNING_SHARE}
    rows: list[tuple[str, dict[str, Any]]] = [
        ("DP, reuse, steps not weighed", {"forecasters": ("reuse",), "weigh_steps": False}),
        ("DP, reuse", {"forecasters": ("reuse",)}),
        ("DP, Taylor 1", {"forecasters": ("taylor1",)}),
        ("DP, reuse + Taylor", {"forecasters": ("reuse", "taylor1", "taylor2")}),
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
    ]
    return [
        *(
            Method(
                name=f"fixed interval, {forecaster}",
                attach=ours.attach_fixed,
                ladders=(
                    (
                        Setting(
                            f"every {steps / count:.2f}", {"count": count, "forecaster": forecaster}
                        ),
                    ),
                ),
            )
            for forecaster in ("reuse", "taylor1")
        ),
        *(
            Method(
                name=name,
                attach=ours.attach_planned,
                ladders=(
                    (
                        Setting(
                            f"speedup {speedup}",
                            {"speedup": speedup, "weigh_steps": True, **values},
                        ),
                    ),
                ),
            )
            for name, values in rows
        ),
    ]


def alternating(ours: Ours, forecasters: Sequence[str]) -> list[Method]:
    """Every second step: the pattern by which wall time is compared with FLOPs."""
    values = {"count": ours.workload.num_steps // 2}
    return [
        Method(
            name=f"genaccel, every second step, {forecaster}",
            attach=ours.attach_fixed,
            ladders=((Setting("every 2", {**values, "forecaster": forecaster}),),),
            is_ours=True,
        )
        for forecaster in forecasters
    ]
