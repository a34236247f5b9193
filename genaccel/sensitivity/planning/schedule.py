# SPDX-License-Identifier: Apache-2.0
"""Chooses the steps to compute: the dynamic-cache schedule (DCS) of SODA, arXiv:2603.07057.

Steps are counted as they run: 0 is the first and noisiest, ``S - 1`` the last (the paper counts
down from T to 1). An interval ``k`` is the age of a cached output: written at step ``s - k``, used
at step ``s``. Tables of errors have the interval ``k`` in column ``k - 1``.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

# A budget written as 50 / 2.5 steps must pay for 20 of them, whatever the rounding.
_SLACK = 1e-9


@dataclass(frozen=True, kw_only=True, slots=True)
class ScheduleConfig:
    """Objective of a schedule, and the schedules to choose from.

    Args:
        edge_cost: The price of going from a computed step to the next one, ``n`` steps later.
            "endpoint" (S4a) is the error that reuse would have at that next step, at age ``n``;
            "cumulative" (S4b) is the sum of the errors of the ``n - 1`` steps in between, which are
            those really incurred.
        objective: "sum" adds the prices (S5). "minimax" makes the dearest edge as cheap as
            possible, and among such schedules takes the least sum.
        intervals: Allowed distances between computed steps, or None for every one that the table
            has.
        warmup_steps: So many first steps are computed, whatever ``intervals`` says.
        last_step_computes: Whether the last step is always computed, as in the paper.
    """

    edge_cost: Literal["endpoint", "cumulative"] = "endpoint"
    objective: Literal["sum", "minimax"] = "sum"
    intervals: tuple[int, ...] | None = None
    warmup_steps: int = 1
    last_step_computes: bool = True

    def __post_init__(self) -> None:
        if self.edge_cost not in ("endpoint", "cumulative"):
            raise ValueError(
                f'edge_cost must be "endpoint" or "cumulative", got {self.edge_cost!r}'
            )
        if self.objective not in ("sum", "minimax"):
            raise ValueError(f'objective must be "sum" or "minimax", got {self.objective!r}')
        if self.intervals is not None and (not self.intervals or min(self.intervals) < 1):
            raise ValueError(
                f"intervals must hold at least one number, none below 1, got {self.intervals}"
            )
        if self.warmup_steps < 1:
            raise ValueError(
                f"warmup_steps must be at least 1, as the first step has nothing to reuse, got {self.warmup_steps}"
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class Schedule:
    """The computed steps of one segment, and how the others are forecast.

    Attributes:
        num_steps: Steps of the sampler, S.
        compute_steps: The computed ones, ascending; the first is 0.
        forecasters: For each step the row of the error table that forecasts it, or -1 where it is
            computed.
        objective: What the search minimised.
        expected_error: Sum of the measured errors of the forecast steps, whatever the objective
            was.
    """

    num_steps: int
    compute_steps: tuple[int, ...]
    forecasters: tuple[int, ...]
    objective: float
    expected_error: float

    @property
    def mask(self) -> list[int]:
        """1 for each computed step and 0 for each forecast one, S numbers."""
        return [int(f < 0) for f in self.forecasters]


class EdgeTable:
    """Prices of all edges of one segment, and the searches over them.

    An edge ends at a computed step ``t``, or at ``S`` behind the last one, and begins ``n`` steps
    earlier.

    Args:
        errors: ``[S, K]``, or ``[F, S, K]`` for F forecasters of which every edge takes the one
            that is cheapest for it (the first of equals). Summed over the layers and submodules of the
            segment; at least 0; NaN or infinity where nothing was measured, which no schedule then
            uses.
        config: What to minimise.

    Raises:
        ValueError: If the table has another shape or a negative entry, or is narrower than an
            allowed interval.
    """

    def __init__(self, errors: ArrayLike, config: ScheduleConfig | None = None) -> None:
        self.config = config or ScheduleConfig()
        table = np.array(errors, dtype=np.float64, ndmin=3)  # [F, S, K]
        if table.ndim != 3 or 0 in table.shape:
            raise ValueError(
                f"errors must be [steps, intervals] or [forecasters, steps, intervals], got {table.shape}"
            )
        if (table < 0).any():
            raise ValueError(f"errors must not be negative, got {np.nanmin(table)}")
        table[np.isnan(table)] = np.inf
        self.num_steps, max_interval = table.shape[1:]
        intervals = self.config.intervals or tuple(range(1, max_interval + 1))
        if max(intervals) > max_interval:
            raise ValueError(
                f"intervals go up to {max(intervals)}, but errors were measured up to {max_interval}"
            )
        if self.config.warmup_steps > self.num_steps:
            raise ValueError(
                f"warmup_steps must be at most the {self.num_steps} steps, got {self.config.warmup_steps}"
            )
        incurred, reach = _incurred(table)  # what the steps inside each edge really cost
        price = incurred if self.config.edge_cost == "cumulative" else reach
        allowed = self._allowed(intervals, max_interval)  # [S + 1, K]
        # Taylor may be measured at the end of an edge, but not at its first steps: then it cannot
        # be used.
        price = np.where(allowed & np.isfinite(incurred), price, np.inf)
        self._forecaster: NDArray[np.intp] = price.argmin(axis=0)  # [S + 1, K]
        self._price: NDArray[np.float64] = price.min(axis=0)
        self._incurred: NDArray[np.float64] = np.take_along_axis(
            incurred, self._forecaster[None], axis=0
        )[0]
        self._end = self.num_steps - 1 if self.config.last_step_computes else self.num_steps

    def _allowed(self, intervals: Sequence[int], max_interval: int) -> NDArray[np.bool_]:
        end = np.arange(self.num_steps + 1)[:, None]
        length = np.arange(1, max_interval + 1)[None]
        start = end - length
        warm = start < self.config.warmup_steps - 1
        # Behind the last step there is nothing to compute, so the tail may be shorter than any
        # interval.
        chosen = np.isin(length, intervals) | ((end == self.num_steps) & (length <= max(intervals)))
        allowed: NDArray[np.bool_] = (start >= 0) & np.where(warm, length == 1, chosen)
        return allowed

    def search(
        self, max_computations: int, limit: float = np.inf, *, minimax: bool | None = None
    ) -> tuple[NDArray[np.float64], NDArray[np.intp]]:
        """Solve recurrence (S5) for every number of computations at once.

        Args:
            max_computations: The largest number of interest, N.
            limit: Edges dearer than this are not taken.
            minimax: Instead of what the config says.

        Returns:
            The least objective of exactly ``i + 1`` computed steps, ``[N]``, infinite where there
            is no such schedule; and the length of the last edge of each best path, ``[N, S + 1]``.
        """
        minimax = self.config.objective == "minimax" if minimax is None else minimax
        price = np.where(self._price <= limit, self._price, np.inf)[:, ::-1]  # longest edge first
        nodes, width = price.shape
        # best[width + t]: from step 0 to step t with i computed steps; in front of it, padding.
        best = np.full(width + nodes, np.inf)
        best[width] = 0.0
        tail = not self.config.last_step_computes
        values = np.full(max_computations, np.inf)
        lengths = np.zeros((max_computations, nodes), dtype=np.intp)
        rows = np.arange(nodes)
        combine = np.maximum if minimax else np.add
        for i in range(max_computations):
            windows = np.lib.stride_tricks.sliding_window_view(best[:-1], width)  # [S + 1, K]
            candidates = combine(windows, price)
            # The shortest of equal edges, which is the last here: reverse, as argmin takes the
            # first.
            choice = candidates[:, ::-1].argmin(axis=1)
            reached = candidates[rows, width - 1 - choice]
            lengths[i] = choice + 1
            values[i] = reached[-1] if tail else best[width + self._end]
            best = np.concatenate([np.full(width, np.inf), reached])
            best[-1] = np.inf  # nothing is computed behind the last step
        return values, lengths

    def paths(self, counts: Sequence[int], lengths: NDArray[np.intp]) -> list[list[int]]:
        """Computed steps for each count, back from the end along ``lengths`` of :meth:`search`."""
        found = []
        for count in counts:
            step, steps = self._end, []
            if self.config.last_step_computes:
                steps.append(step)
            # lengths[i] leads from i + 1 computed steps to the next node.
            for i in range(count - (2 if self.config.last_step_computes else 1), -1, -1):
                step -= int(lengths[i, step])
                steps.append(step)
            found.append(steps[::-1])
        return found

    def expected_errors(self, paths: Sequence[Sequence[int]]) -> list[float]:
        """Sum of the errors of the forecast steps of each path, ``[len(paths)]``."""
        sums = []
        for path in paths:
            nodes = np.array([*path, self.num_steps])
            sums.append(float(self._incurred[nodes[1:], np.diff(nodes) - 1].sum()))
        return sums

    def solve(self, num_computations: int) -> Schedule:
        """The best schedule of exactly ``num_computations`` computed steps.

        Raises:
            ValueError: If there is none; the message names the nearest number for which there is
                one.
        """
        if not 1 <= num_computations <= self.num_steps:
            raise self._infeasible(num_computations)
        values, lengths = self.search(num_computations)
        if not np.isfinite(values[-1]):
            raise self._infeasible(num_computations)
        if self.config.objective == "minimax":
            # Sums do not tell paths of equal maxima apart on the way, only once the maximum is
            # known.
            _, lengths = self.search(num_computations, float(values[-1]), minimax=False)
        return self.describe(self.paths([num_computations], lengths)[0], float(values[-1]))

    def describe(self, compute_steps: Sequence[int], objective: float) -> Schedule:
        """The schedule of given computed steps, with the cheapest forecaster of every edge."""
        forecasters = np.full(self.num_steps, -1)
        nodes = [*compute_steps, self.num_steps]
        for start, end in itertools.pairwise(nodes):
            forecasters[start + 1 : end] = self._forecaster[end, end - start - 1]
        return Schedule(
            num_steps=self.num_steps,
            compute_steps=tuple(int(s) for s in compute_steps),
            forecasters=tuple(int(f) for f in forecasters),
            objective=objective,
            expected_error=self.expected_errors([compute_steps])[0],
        )

    def feasible_counts(self) -> NDArray[np.intp]:
        """Numbers of computed steps for which there is a schedule, ascending."""
        values, _ = self.search(self.num_steps)
        counts: NDArray[np.intp] = np.flatnonzero(np.isfinite(values)) + 1
        return counts

    def _infeasible(self, count: int) -> ValueError:
        counts = self.feasible_counts()
        if not counts.size:
            return ValueError(
                f"no schedule of {self.num_steps} steps uses only measured errors and allowed intervals; "
                "calibrate all steps, or allow more intervals"
            )
        nearest = int(counts[np.abs(counts - count).argmin()])
        return ValueError(
            f"no schedule computes exactly {count} of {self.num_steps} steps under these intervals; "
            f"possible are {counts[0]} to {counts[-1]}, and the nearest is {nearest}"
        )


def solve_schedule(
    errors: ArrayLike, num_computations: int, config: ScheduleConfig | None = None
) -> Schedule:
    """Choose the steps to compute, exactly, by dynamic programming (S5).

    Args:
        errors: Measured error of forecasting step ``s`` at age ``k`` in ``[s, k - 1]``, of shape
            ``[S, K]``; or ``[F, S, K]`` for F forecasters to choose from, edge by edge. The other
            rules are those of :class:`EdgeTable`.
        num_computations: Number of computed steps, N_s in the paper.
        config: What to minimise.

    Returns:
        The schedule; of equal ones always the same.

    Raises:
        ValueError: If there is none of so many computed steps; the message names the nearest
            number.

    Example:
        >>> errors = np.array([[0.0, 0.0], [1.0, 9.0], [1.0, 9.0], [5.0, 9.0], [1.0, 9.0]])
        >>> solve_schedule(errors, 3, ScheduleConfig(edge_cost="cumulative")).compute_steps
        (0, 2, 4)
        >>> solve_schedule(errors, 4, ScheduleConfig(edge_cost="cumulative")).compute_steps
        (0, 2, 3, 4)
    """
    return EdgeTable(errors, config).solve(num_computations)


def computations_for_flops(
    flops_budget: float, *, num_steps: int, computed_flops: float, reused_flops: float = 0.0
) -> int:
    """The most computed steps that a budget pays for.

    Args:
        flops_budget: FLOPs of a whole run; ``num_steps * computed_flops / 2`` for a speed-up of 2.
        num_steps: Steps of the sampler.
        computed_flops: FLOPs of a computed step.
        reused_flops: FLOPs of a forecast step: what is never cached, and the forecast itself.

    Raises:
        ValueError: If the budget does not even pay for one computed step, or a cost is not
            sensible.

    Example:
        >>> computations_for_flops(2.0, num_steps=10, computed_flops=0.5, reused_flops=0.1)
        2
    """
    if not 0 <= reused_flops < computed_flops:
        raise ValueError(
            "a forecast step must cost less than a computed one and nothing negative, "
            f"got {reused_flops:g} and {computed_flops:g} FLOPs"
        )
    least = num_steps * reused_flops + (computed_flops - reused_flops)
    if not flops_budget >= least * (1 - _SLACK):
        raise ValueError(
            f"a budget of {flops_budget:g} FLOPs is below {least:g}, what {num_steps} steps cost with only "
            "the first one computed; that is the nearest possible budget"
        )
    count = (flops_budget - num_steps * reused_flops) / (computed_flops - reused_flops)
    return min(num_steps, max(1, int(count * (1 + _SLACK))))


def _incurred(table: NDArray[np.float64]) -> tuple[NDArray[Any], NDArray[Any]]:
    """Both edge costs of errors ``[F, S, K]``: (S4b), then (S4a), each ``[F, S + 1, K]``."""
    forecasters, steps, width = table.shape
    summed = np.zeros((forecasters, steps + 1, width))
    # Along an edge the age grows with the step: cumulative sums down the diagonals of the table.
    diagonal = np.zeros((forecasters, steps + 1, width + 1))
    for k in range(1, width + 1):
        diagonal[:, k:, k] = diagonal[:, k - 1 : -1, k - 1]
        diagonal[:, k:-1, k] += table[:, k:, k - 1]
        summed[:, k:, k - 1] = diagonal[:, k - 1 : -1, k - 1]
    reach = np.full((forecasters, steps + 1, width), np.inf)
    reach[:, :-1] = table
    # No step follows the last: a tail is priced by the last step that it forecasts.
    reach[:, -1, 0] = 0.0
    reach[:, -1, 1:] = table[:, -1, :-1]
    return summed, reach
