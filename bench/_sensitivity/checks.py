# SPDX-License-Identifier: Apache-2.0
"""The checks of ``bench/soda.py`` on one pipeline, which is enabled, run, and disabled again.

They need no statistics: samples are equal bit for bit or not, FLOPs are counted, and CPU time is of runs in turn with
plain ones.
"""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

import genaccel
from bench._sensitivity.ours import without_plans
from bench._sensitivity.workload import Workload
from genaccel.sampling.costs import Cost, cost_of_call, median_cost
from genaccel.sampling.methods import Attached
from genaccel.sampling.speed_search import flops_of_run, plain_flops


@dataclass(frozen=True, slots=True)
class AcceleratedRun:
    """One run, or several of the same plan.

    Attributes:
        plan: Which one it followed, by the report.
        schedule: A letter for each step, see :class:`~genaccel.hooks.report.ModelReport`.
        flop_ratio: Counted.
        cost: Median.
    """

    plan: str
    schedule: str
    flop_ratio: float
    cost: Cost


@dataclass(frozen=True, slots=True, kw_only=True)
class Checks:
    """Results of the checks of one pipeline, in their order.

    Attributes:
        measured_is_plain: Whether the run that was measured gave the plain samples.
        replays: Whether its plan gives the same samples again, and in another pipeline.
        other_calls_are_plain: Whether the model, called by itself in the meantime, computes what it
            did before.
        disabled_is_plain: Whether the pipeline gives the plain samples after ``disable``.
        plain: Cost of a plain run.
        measured: Cost of a first run, which is measured.
        run: An accelerated one.
    """

    measured_is_plain: bool
    replays: bool
    other_calls_are_plain: bool
    disabled_is_plain: bool
    plain: Cost
    measured: Cost
    run: AcceleratedRun

    @property
    def speedup(self) -> float:
        """Speed-up of the accelerated run."""
        return self.plain.seconds / self.run.cost.seconds

    @property
    def measured_over_plain(self) -> float:
        """Cost of the first run, which is measured, over that of a plain one."""
        return self.measured.seconds / self.plain.seconds

    def exact(self) -> dict[str, bool]:
        """The checks of bit-for-bit equality by name, and whether each holds."""
        return {
            "measured_run_is_plain": self.measured_is_plain,
            "plan_replays": self.replays,
            "other_calls_are_plain": self.other_calls_are_plain,
            "disabled_is_plain": self.disabled_is_plain,
        }


def check_pipeline(workload: Workload, *, speedup: float, runs: int) -> Checks:
    """Enable a pipeline, run it for a plan, replay that, and disable it; plain runs in between.

    Args:
        workload: Pipeline and samples; the first run is of one batch for calibration.
        speedup: Speed-up that the config asks for.
        runs: Accelerated runs that are timed.
    """
    device = workload.device
    first, samples = workload.calibration_samples(0), workload.test_samples(0)
    plain: list[Cost] = []

    def timed(attached: Attached, which: Any) -> tuple[Tensor, Cost]:
        made: list[Tensor] = []
        cost = cost_of_call(lambda: made.append(workload.sample(attached, which)), device)
        return made[0], cost

    def plainly(which: Any, attached: Attached = workload.plain) -> Tensor:
        latents, cost = timed(attached, which)
        plain.append(cost)
        return latents

    workload.sample(workload.plain, first, num_steps=2)  # warm-up
    pipeline = without_plans(workload.copy())
    attached = Attached(pipeline)
    call = _call_of(pipeline, workload, first.labels)
    expected_of_call = call()
    with tempfile.TemporaryDirectory() as folder:
        config = genaccel.SensitivityConfig(speedup=speedup, cache_dir=folder)
        expected = plainly(first)
        handle = genaccel.enable(pipeline, config)
        measured, measured_cost = timed(attached, first)
        measured_is_plain = torch.equal(measured, expected) & torch.equal(plainly(first), expected)
        reference, cost = timed(attached, samples)
        own = [cost]
        report = handle.report()["transformer"]
        replays = True
        for _ in range(runs - 1):
            again, cost = timed(attached, samples)
            own.append(cost)
            replays &= torch.equal(again, reference)
        other_calls_are_plain = torch.equal(call(), expected_of_call)
        again, flops = _replayed(workload, handle, folder)
        replays &= torch.equal(again, reference)
        handle.disable()
        disabled = plainly(first, attached)
    return Checks(
        measured_is_plain=measured_is_plain,
        replays=replays,
        other_calls_are_plain=other_calls_are_plain,
        disabled_is_plain=torch.equal(disabled, expected),
        plain=median_cost(plain),
        measured=measured_cost,
        run=AcceleratedRun(
            report.plan or "",
            report.schedule,
            plain_flops(workload, samples) / flops,
            median_cost(own),
        ),
    )


def run_by_rule(workload: Workload, *, speedup: float) -> AcceleratedRun:
    """The first run of a pipeline that follows the plan by rule; its FLOPs are those of its report."""
    pipeline = without_plans(workload.copy())
    attached, samples = Attached(pipeline), workload.test_samples(0)
    with tempfile.TemporaryDirectory() as folder:
        config = genaccel.SensitivityConfig(speedup=speedup, first_run="plan", cache_dir=folder)
        handle = genaccel.enable(pipeline, config)
        cost = cost_of_call(lambda: workload.sample(attached, samples), workload.device)
        report = handle.report()["transformer"]
    return AcceleratedRun(report.plan or "", report.schedule, report.flop_ratio, cost)


def measured_over_plain(workload: Workload, *, rounds: int) -> float:
    """Cost of the first run of a freshly enabled pipeline over that of a plain one, in turn; the median.

    Args:
        workload: Whose pipeline.
        rounds: Pipelines that are enabled, at least 1.
    """
    samples = workload.calibration_samples(0)

    def seconds(attached: Attached) -> float:
        return cost_of_call(lambda: workload.sample(attached, samples), workload.device).seconds

    workload.sample(workload.plain, samples, num_steps=2)  # warm-up
    ratios = []
    plain = seconds(workload.plain)
    for _ in range(rounds):
        pipeline = without_plans(workload.copy())
        with tempfile.TemporaryDirectory() as folder:
            config = genaccel.SensitivityConfig(speedup=2.0, cache_dir=folder)
            with genaccel.enable(pipeline, config):
                measured = seconds(Attached(pipeline))
        before, plain = plain, seconds(workload.plain)
        ratios.append(2 * measured / (before + plain))
    return statistics.median(ratios)


def _replayed(workload: Workload, handle: Any, folder: str) -> tuple[Tensor, int]:
    """The test samples of another pipeline with the plan of this one, through a folder; and the FLOPs."""
    saved = f"{folder}/saved"
    handle.save_pretrained(saved)
    pipeline = without_plans(workload.copy())
    attached, samples = Attached(pipeline), workload.test_samples(0)
    with genaccel.enable(pipeline, genaccel.SensitivityConfig(plan=saved)):
        flops = flops_of_run(workload, attached, samples)
    caught: Tensor = pipeline.vae.latents
    return caught, flops


def _call_of(pipeline: Any, workload: Workload, labels: tuple[int, ...]) -> Callable[[], Tensor]:
    """A call of the pipeline's model by itself."""
    model = pipeline.transformer
    size = model.config.sample_size
    noise = torch.randn(
        len(labels),
        model.config.in_channels,
        size,
        size,
        generator=torch.Generator().manual_seed(0),
    ).to(workload.device, model.dtype)
    classes = torch.tensor(labels, device=workload.device)
    timestep = torch.full_like(classes, 500)

    @torch.inference_mode()
    def call() -> Tensor:
        sample: Tensor = model(noise, timestep=timestep, class_labels=classes).sample
        return sample

    return call
