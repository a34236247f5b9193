# SPDX-License-Identifier: Apache-2.0
import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from genaccel.sensitivity.planning.schedule import EdgeTable, ScheduleConfig
from genaccel.sensitivity.planning.segment_schedule import solve_segment_schedules


def _errors(seed: int, segments: int, steps: int, width: int) -> list[np.ndarray]:
    random = np.random.default_rng(seed)
    scales = random.uniform(0.1, 3, segments)
    return [random.uniform(0.1, 1, (steps, width)).cumsum(1) * s for s in scales]


def _spent(schedules: list, flops: list[int], fixed: float = 0.0) -> float:
    own = sum(len(s.compute_steps) * c for s, c in zip(schedules, flops, strict=True))
    return own + schedules[0].num_steps * fixed


@given(
    seed=st.integers(0, 2**32 - 1),
    flops=st.lists(st.integers(1, 4), min_size=1, max_size=3),
    share=st.floats(0.1, 1.1),
    objective=st.sampled_from(["sum", "minimax"]),
    edge_cost=st.sampled_from(["endpoint", "cumulative"]),
)
@settings(deadline=None, max_examples=60)
def test_it_is_the_best_of_all_splits(
    seed: int, flops: list[int], share: float, objective: str, edge_cost: str
) -> None:
    steps = 7
    config = ScheduleConfig(edge_cost=edge_cost, objective=objective)
    errors = _errors(seed, len(flops), steps, 3)
    budget = share * steps * sum(flops)
    tables = [EdgeTable(e, config) for e in errors]
    options = []  # of each segment: (cost, value) of every count
    for table, cost in zip(tables, flops, strict=True):
        solved = [(int(c) * cost, table.solve(int(c))) for c in table.feasible_counts()]
        name = "objective" if objective == "minimax" else "expected_error"
        options.append([(c, getattr(s, name)) for c, s in solved])
    combine = max if objective == "minimax" else sum
    values = [
        combine(v for _, v in split)
        for split in itertools.product(*options)
        if sum(c for c, _ in split) <= budget
    ]
    if not values:
        with pytest.raises(ValueError, match="nearest possible budget"):
            solve_segment_schedules(errors, segment_flops=flops, flops_budget=budget, config=config)
        return
    schedules = solve_segment_schedules(
        errors, segment_flops=flops, flops_budget=budget, config=config
    )
    assert _spent(schedules, flops) <= budget * (1 + 1e-9)
    found = [s.objective if objective == "minimax" else s.expected_error for s in schedules]
    assert combine(found) == pytest.approx(min(values))


def test_a_larger_budget_is_never_worse() -> None:
    errors = _errors(0, 4, 20, 5)
    flops = [3, 1, 2, 2]
    previous = np.inf
    for budget in range(40, 170, 7):
        schedules = solve_segment_schedules(errors, segment_flops=flops, flops_budget=budget)
        total = sum(s.expected_error for s in schedules)
        assert total <= previous + 1e-12
        previous = total
    assert previous == 0


def test_awkward_costs_waste_little_and_keep_the_budget() -> None:
    errors = _errors(1, 3, 30, 6)
    flops = [1_000_003, 1_999_993, 3_000_017]  # no common divisor
    for budget in (9e7, 1.2e8):
        fixed = 1000.0
        schedules = solve_segment_schedules(
            errors,
            segment_flops=flops,
            flops_budget=budget,
            fixed_flops=fixed,
            config=ScheduleConfig(edge_cost="cumulative"),
        )
        spent = _spent(schedules, flops, fixed)
        assert budget - max(flops) - 3 * budget / 4096 < spent <= budget


def test_errors_that_differ_shift_the_budget() -> None:
    calm, lively = np.full((12, 6), 0.01), np.full((12, 6), 1.0)
    config = ScheduleConfig(edge_cost="cumulative")
    schedules = solve_segment_schedules(
        [calm, lively], segment_flops=[5, 5], flops_budget=75, config=config
    )
    assert [len(s.compute_steps) for s in schedules] == [3, 12]


def test_the_nearest_budget_is_named() -> None:
    errors = _errors(0, 2, 10, 3)
    # At least 4 steps of each: 4 * (1 + 2), and 10 * 0.5 that is always spent.
    with pytest.raises(ValueError, match=r"16 FLOPs is too small.* costs 17, the nearest"):
        solve_segment_schedules(errors, segment_flops=[1, 2], flops_budget=16, fixed_flops=0.5)
    solve_segment_schedules(errors, segment_flops=[1, 2], flops_budget=17, fixed_flops=0.5)


def test_bad_arguments_are_refused() -> None:
    errors = _errors(0, 2, 10, 3)
    with pytest.raises(ValueError, match="got 2 and 1"):
        solve_segment_schedules(errors, segment_flops=[1], flops_budget=100)
    with pytest.raises(ValueError, match="at least 1, got 0"):
        solve_segment_schedules(errors, segment_flops=[1, 0], flops_budget=100)
    with pytest.raises(ValueError, match=r"equally many steps, got \[10, 9\]"):
        solve_segment_schedules([errors[0], errors[1][:9]], segment_flops=[1, 1], flops_budget=99)
    with pytest.raises(ValueError, match="only measured errors"):
        solve_segment_schedules([np.full((4, 2), np.nan)], segment_flops=[1], flops_budget=99)
