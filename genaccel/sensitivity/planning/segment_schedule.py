# SPDX-License-Identifier: Apache-2.0
"""One schedule for each segment of a model, under one budget of FLOPs.

The paper computes all layers at the same steps. Here segments (runs of layers) may differ: each has
its frontier of error against computed steps from :mod:`genaccel.sensitivity.planning.schedule`, and a
multiple-choice knapsack takes one point of each.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from genaccel.sensitivity.planning.schedule import EdgeTable, Schedule, ScheduleConfig

# Buckets of the knapsack where the costs have no common divisor; each segment wastes less than one.
_MAX_BUCKETS = 4096


def solve_segment_schedules(
    errors: Sequence[ArrayLike],
    *,
    segment_flops: Sequence[int],
    flops_budget: float,
    fixed_flops: float = 0.0,
    config: ScheduleConfig | None = None,
) -> list[Schedule]:
    """Choose the computed steps of every segment, spending at most a common budget.

    Segments are weighed against each other by the errors that their schedules incur, whichever edge
    cost finds these schedules: with ``objective="sum"`` the sum over the segments is least, with
    "minimax" the largest objective of a segment.

    Args:
        errors: For each segment a table as for
            :func:`~genaccel.sensitivity.planning.schedule.solve_schedule`. Tables of different segments must
            be in the same unit.
        segment_flops: FLOPs of computing each segment once.
        flops_budget: FLOPs of a whole run.
        fixed_flops: FLOPs of a step outside all segments, which is spent at every step.
        config: What to minimise in each segment.

    Returns:
        One schedule a segment. The budget is exact where all costs have a common divisor that is
        not tiny, and else used up to 1/4096 of it for each segment.

    Raises:
        ValueError: If the budget is too small; the message names the least possible one. Also if
            the numbers of tables and costs differ, or no schedule of a segment is feasible.

    Example:
        >>> calm, lively = np.full((5, 4), 0.1), np.full((5, 4), 1.0)
        >>> config = ScheduleConfig(edge_cost="cumulative")
        >>> schedules = solve_segment_schedules(
        ...     [calm, lively], segment_flops=[1, 1], flops_budget=7, config=config
        ... )
        >>> [len(s.compute_steps) for s in schedules]
        [2, 5]
    """
    config = config or ScheduleConfig()
    if len(errors) != len(segment_flops) or not errors:
        raise ValueError(
            f"every segment needs a table and its FLOPs, got {len(errors)} and {len(segment_flops)}"
        )
    if min(segment_flops) < 1:
        raise ValueError(f"segment_flops must be at least 1, got {min(segment_flops)}")
    tables = [EdgeTable(table, config) for table in errors]
    if len({table.num_steps for table in tables}) != 1:
        raise ValueError(
            f"segments must have equally many steps, got {[t.num_steps for t in tables]}"
        )
    frontiers = [_frontier(table) for table in tables]
    least = sum(int(f.counts[0]) * c for f, c in zip(frontiers, segment_flops, strict=True))
    available = flops_budget - tables[0].num_steps * fixed_flops
    if available < least:
        raise ValueError(
            f"a budget of {flops_budget:g} FLOPs is too small: computing as few steps as these intervals allow "
            f"costs {least + tables[0].num_steps * fixed_flops:g}, the nearest possible budget"
        )
    unit, buckets = _buckets(segment_flops, available - least, tables[0].num_steps)
    choices = _knapsack(
        [f.values for f in frontiers],
        [
            _extra_units(f.counts, cost, unit)
            for f, cost in zip(frontiers, segment_flops, strict=True)
        ],
        buckets,
        minimax=config.objective == "minimax",
    )
    return [
        table.solve(int(frontier.counts[choice]))
        for table, frontier, choice in zip(tables, frontiers, choices, strict=True)
    ]


@dataclass(frozen=True, slots=True)
class _Frontier:
    """Feasible numbers of computed steps ``[P]``, ascending, and what each is worth."""

    counts: NDArray[np.intp]
    values: NDArray[np.float64]


def _frontier(table: EdgeTable) -> _Frontier:
    values, lengths = table.search(table.num_steps)
    counts = np.flatnonzero(np.isfinite(values)) + 1
    if not counts.size:
        table.solve(table.num_steps)  # raises the explanation
    if table.config.objective == "minimax":
        return _Frontier(counts, values[counts - 1])
    paths = table.paths(counts.tolist(), lengths)
    return _Frontier(counts, np.array(table.expected_errors(paths)))


def _buckets(segment_flops: Sequence[int], spare: float, num_steps: int) -> tuple[float, int]:
    """Size of a bucket in FLOPs, and how many of them can be spent beyond the least."""
    spare = min(spare, float(num_steps * sum(segment_flops)))
    divisor = float(np.gcd.reduce(np.array(segment_flops, dtype=np.int64)))
    unit = max(divisor, spare / _MAX_BUCKETS)
    return unit, int(spare / unit * (1 + 1e-9))


def _extra_units(counts: NDArray[np.intp], cost: int, unit: float) -> NDArray[np.int64]:
    """Buckets beyond the least number of computed steps, rounded up so that the budget is kept."""
    extra: NDArray[np.int64] = np.ceil((counts - counts[0]) * (cost / unit) - 1e-6).astype(np.int64)
    return extra


def _knapsack(
    values: Sequence[NDArray[np.float64]],
    units: Sequence[NDArray[np.int64]],
    buckets: int,
    *,
    minimax: bool,
) -> list[int]:
    """One index of each list: least total (or largest) value within ``buckets`` units."""
    best = np.zeros(buckets + 1)  # [bucket]: of the segments so far, within so many units
    taken = []
    for value, unit in zip(values, units, strict=True):
        found = np.full(buckets + 1, np.inf)
        choice = np.zeros(buckets + 1, dtype=np.int64)
        for i in np.flatnonzero(unit <= buckets).tolist():
            before = best[: buckets + 1 - unit[i]]
            candidate = np.maximum(before, value[i]) if minimax else before + value[i]
            better = candidate < found[unit[i] :]  # the cheapest of equals stays
            found[unit[i] :][better] = candidate[better]
            choice[unit[i] :][better] = i
        best = found
        taken.append(choice)
    left = buckets
    chosen = []
    for choice, unit in zip(reversed(taken), reversed(units), strict=True):
        i = int(choice[left])
        chosen.append(i)
        left -= int(unit[i])
    return chosen[::-1]
