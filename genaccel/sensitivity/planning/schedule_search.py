# SPDX-License-Identifier: Apache-2.0
"""Searches the schedule that carries the sample away the least: many starts, then a local search.

The recurrence of SODA (S5, arXiv:2603.07057) is exact for prices of single edges. The true effect of a
schedule (:mod:`genaccel.sensitivity.planning.deviation`) is no sum over edges, so the search for better
schedules only begins with those of the recurrence and with even spacing.
"""

from __future__ import annotations

import dataclasses
import itertools
import math

import numpy as np
from numpy.typing import NDArray

from genaccel.sensitivity.planning.deviation import Candidate, Deviation, improve, is_allowed
from genaccel.sensitivity.planning.schedule import EdgeTable, Schedule, ScheduleConfig

# Starts that are improved: the best of all often ends below a better start.
_IMPROVED = 4
# Steps of schedules that are priced, at most: 2 s for 250 steps on a slow core. Runs of up to 100
# steps end before.
_MOST_PRICED_STEPS = 3_000_000
# Of so many schedules all are priced: those of about 12 steps, where every single one counts.
_MOST_SCHEDULES = 1000


def search_schedule(
    errors: NDArray[np.float64],
    num_computations: int,
    deviation: Deviation,
    config: ScheduleConfig,
    *,
    even: bool = False,
) -> Schedule:
    """Choose the computed steps and the forecaster of each interval.

    Args:
        errors: ``[F, S, K]``, weighed, of the forecasters of ``deviation`` in their order; NaN
            where not measured.
        num_computations: Number of computed steps.
        deviation: Prices schedules.
        config: Warm-up, and where ``last_step_computes`` is unset, whether the last step is
            computed is decided by the price.
        even: Take the best of even spacing with one forecaster, and improve nothing.

    Returns:
        The best schedule that was found, no worse than even spacing by its price; of equal ones
        always the same.

    Raises:
        ValueError: If there is none of so many computed steps; the message names the nearest
            number.
    """
    steps, max_interval = errors.shape[1:]
    starts = even_schedules(
        steps, num_computations, deviation.num_forecasters, max_interval, config
    )
    if not even:
        starts += _shortest_paths(errors, num_computations, config)
        starts += _all_schedules(
            steps, num_computations, deviation.num_forecasters, max_interval, config
        )
    if not starts:
        EdgeTable(errors, config).solve(num_computations)  # raises the explanation
        raise ValueError(f"{num_computations} of {steps} steps are too few for even spacing")
    fixed = np.arange(steps) < config.warmup_steps
    fixed[-1] |= config.last_step_computes
    prices = deviation(starts)
    order = np.argsort(prices, kind="stable")[:_IMPROVED]
    if even:
        price, best = float(prices[order[0]]), starts[order[0]]
    else:
        most = deviation.num_priced + _MOST_PRICED_STEPS / steps
        price, best = min(
            (
                improve(
                    starts[i],
                    deviation,
                    max_interval=max_interval,
                    fixed=fixed,
                    most_priced=most,
                )
                for i in order
            ),
            key=lambda item: item[0],
        )
    return Schedule(
        num_steps=steps,
        compute_steps=tuple(np.flatnonzero(best.mask).tolist()),
        forecasters=tuple(np.where(best.mask, -1, best.forecasters).tolist()),
        objective=price,
        expected_error=float(deviation.step_errors(best).sum()),
    )


def even_schedules(
    num_steps: int,
    num_computations: int,
    num_forecasters: int,
    max_interval: int,
    config: ScheduleConfig,
) -> list[Candidate]:
    """Computed steps in even distances behind the warm-up, each with every forecaster.

    Args:
        num_steps: Number of steps, S.
        num_computations: Number of computed steps.
        num_forecasters: Number of forecasters, F.
        max_interval: Largest distance of computed steps, K.
        config: Warm-up, and whether the last step is computed.

    Returns:
        Candidates; none if there are too many or too few computed steps.
    """
    first = config.warmup_steps - 1
    count, span = num_computations - first, num_steps - first
    if not 1 <= count <= span:
        return []
    place = np.arange(count)
    spacings = [place * (span - 1) / max(1, count - 1)]
    if not config.last_step_computes:
        # The first longer intervals late, then early.
        spacings = [np.floor(place * span / count), np.ceil(place * span / count), *spacings]
    found = []
    for spacing in spacings:
        mask = np.arange(num_steps) < first
        mask[first + np.rint(spacing).astype(np.intp)] = True
        if mask.sum() != num_computations or not is_allowed(mask, max_interval):
            continue
        if config.last_step_computes and not mask[-1]:
            continue
        for forecaster in range(num_forecasters):
            found.append(Candidate(mask, np.full(num_steps, forecaster)))
    return found


def _all_schedules(
    num_steps: int,
    num_computations: int,
    num_forecasters: int,
    max_interval: int,
    config: ScheduleConfig,
) -> list[Candidate]:
    """All computed steps there can be, each with every forecaster; none if that is too many."""
    first = config.warmup_steps
    behind = num_steps - (1 if config.last_step_computes else 0)
    free = num_computations - first - (num_steps - behind)
    if free < 0 or behind < first or math.comb(behind - first, free) > _MOST_SCHEDULES:
        return []
    found = []
    for chosen in itertools.combinations(range(first, behind), free):
        mask = np.arange(num_steps) < first
        mask[list(chosen)] = True
        mask[behind:] = True
        if is_allowed(mask, max_interval):
            found += [Candidate(mask, np.full(num_steps, f)) for f in range(num_forecasters)]
    return found


def _shortest_paths(
    errors: NDArray[np.float64], num_computations: int, config: ScheduleConfig
) -> list[Candidate]:
    """Schedules of least price by edges, with all forecasters and with each alone."""
    forecasters, steps = errors.shape[:2]
    choices = [list(range(forecasters)), *([f] for f in range(forecasters) if forecasters > 1)]
    found = []
    for rows in choices:
        for last in {True, config.last_step_computes}:
            options = dataclasses.replace(config, last_step_computes=last)
            table = EdgeTable(errors[rows], options)
            if num_computations not in table.feasible_counts():
                continue
            schedule = table.solve(num_computations)
            mask = np.array(schedule.mask, dtype=bool)
            index = np.array([rows[max(0, f)] for f in schedule.forecasters])
            # A step that a neighbour's move leaves without computation is forecast like the next.
            nodes = [*schedule.compute_steps, steps]
            for begin, end in itertools.pairwise(nodes):
                index[begin] = index[min(begin + 1, end - 1)]
            found.append(Candidate(mask, index))
    return found
