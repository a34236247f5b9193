# SPDX-License-Identifier: Apache-2.0
"""Runs plain and accelerated pipelines in turn, batch by batch, and compares their cost and their samples."""

from __future__ import annotations

import functools
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from torch import Tensor

from genaccel.sampling.costs import Cost, cost_of_call, flops_of_call, median_cost
from genaccel.sampling.methods import Attached, Workload
from genaccel.sampling.speed_search import Trial
from genaccel.sampling.turns import round_order, speedup

Quality = TypeVar("Quality")


@dataclass(frozen=True, slots=True)
class Outcome(Generic[Quality]):
    """Measured speed and quality of a trial.

    Attributes:
        trial: The trial.
        flop_ratio: FLOPs of the plain run over those of this one, counted.
        cpu_speedup: Plain CPU time over that of this one, median of the rounds; None on a GPU.
        wall_speedup: The same ratio of times on the clock.
        quality: Quality of its samples; None where they were not judged.
    """

    trial: Trial
    flop_ratio: float
    cpu_speedup: float | None
    wall_speedup: float
    quality: Quality | None

    @property
    def speedup(self) -> float:
        """Speed-up that methods are compared by: in CPU time, and on a GPU by its clock."""
        return self.wall_speedup if self.cpu_speedup is None else self.cpu_speedup

    @property
    def efficiency(self) -> float:
        """Measured speed-up over the FLOP ratio."""
        return self.speedup / self.flop_ratio


@dataclass(frozen=True, slots=True)
class Rounds(Generic[Quality]):
    """Results of alternating runs.

    Attributes:
        outcomes: Outcomes of the trials, in their order.
        plain: Median cost of a plain run of a batch.
    """

    outcomes: list[Outcome[Quality]]
    plain: Cost


def run_rounds(
    workload: Workload,
    trials: Sequence[Trial],
    *,
    rounds: int,
    judge: Callable[[Sequence[Tensor]], Quality] | None = None,
    counts_flops: bool = True,
) -> Rounds[Quality]:
    """Run the plain pipeline and all trials on one batch after the other, in changing order.

    FLOPs are counted on one batch more, the first, whose time is not taken: counting slows it down. A method that
    decides by the samples what it computes is run on the other batches once more for that.

    Args:
        workload: Pipeline and samples that are run.
        trials: Trials, with their pipelines.
        rounds: Batches that are timed, at least 1.
        judge: Judges the samples of all ``rounds + 1`` batches.
        counts_flops: Whether FLOPs are counted; else the trials' own ratios are taken, and the first
            batch is run all the same.
    """
    sides: list[Attached] = [workload.plain]
    for trial in trials:
        assert trial.attached is not None
        sides.append(trial.attached)
    made: list[list[Tensor]] = [[] for _ in sides]
    costs: list[list[Cost]] = [[] for _ in sides]
    flops: list[list[int]] = [[] for _ in sides]

    def run(side: int, batch: int) -> None:
        made[side].append(workload.sample(sides[side], workload.test_samples(batch)))

    def count(side: int, batch: int) -> None:
        flops[side].append(flops_of_call(functools.partial(run, side, batch)) or 0)

    for side in range(len(sides)):
        if counts_flops:
            count(side, 0)
        else:
            run(side, 0)
    for batch in range(1, rounds + 1):
        for name in round_order([str(i) for i in range(len(sides))], batch):
            call = functools.partial(run, int(name), batch)
            costs[int(name)].append(cost_of_call(call, workload.device))
        for side, trial in enumerate(trials, start=1):
            if counts_flops and trial.method.adapts:
                count(side, batch)
                made[side].pop()
    outcomes = [
        Outcome(
            trial,
            flops[0][0] / statistics.fmean(flops[side]) if counts_flops else trial.flop_ratio,
            cpu_speedup=speedup([c.cpu for c in costs[0]], [c.cpu for c in costs[side]]),
            wall_speedup=speedup([c.wall for c in costs[0]], [c.wall for c in costs[side]]) or 0.0,
            quality=None if judge is None else judge(made[side]),
        )
        for side, trial in enumerate(trials, start=1)
    ]
    return Rounds(outcomes, median_cost(costs[0]))
