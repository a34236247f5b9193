# SPDX-License-Identifier: Apache-2.0
import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from genaccel.sensitivity.planning.schedule import (
    EdgeTable,
    Schedule,
    ScheduleConfig,
    computations_for_flops,
    solve_schedule,
)

CONFIGS = [
    ScheduleConfig(edge_cost=cost, objective=objective, last_step_computes=last)
    for cost in ("endpoint", "cumulative")
    for objective in ("sum", "minimax")
    for last in (True, False)
]


def _random_errors(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).uniform(0.1, 1, size=shape)


def _growing_errors(seed: int, steps: int, width: int) -> np.ndarray:
    """Errors that grow with the age, as nearly all measured ones do."""
    return _random_errors(seed, steps, width).cumsum(axis=1)


def _edge_costs(
    errors: np.ndarray, start: int, end: int, config: ScheduleConfig
) -> list[tuple[float, float]]:
    """(price, incurred error) of an edge for each forecaster, straight from the definitions."""
    steps = errors.shape[1]
    found = []
    for table in errors:
        inside = sum(table[s, s - start - 1] for s in range(start + 1, end))
        if config.edge_cost == "cumulative":
            price = inside
        elif end < steps:
            price = table[end, end - start - 1]
        else:
            price = table[end - 1, end - start - 2] if end - start > 1 else 0.0
        found.append((price, inside))
    return found


def _brute_force(
    errors: np.ndarray, count: int, config: ScheduleConfig
) -> tuple[float, float] | None:
    """Least objective over all subsets of steps, and its least sum of prices."""
    steps, width = errors.shape[1:]
    intervals = config.intervals or range(1, width + 1)
    best = None
    for chosen in itertools.combinations(range(steps), count):
        if chosen[0] != 0 or not set(range(config.warmup_steps)) <= set(chosen):
            continue
        nodes = list(chosen)
        if config.last_step_computes:
            if chosen[-1] != steps - 1:
                continue
        else:
            nodes.append(steps)
        prices = []
        for start, end in itertools.pairwise(nodes):
            length = end - start
            tail = end == steps and length <= max(intervals)
            if not (length in intervals or end < config.warmup_steps or tail):
                break
            prices.append(min(p for p, _ in _edge_costs(errors, start, end, config)))
        else:
            total = sum(prices)
            value = max(prices, default=0.0) if config.objective == "minimax" else total
            best = min(best or (np.inf, np.inf), (value, total))
    return best


def _check(schedule: Schedule, errors: np.ndarray, count: int, config: ScheduleConfig) -> None:
    assert len(schedule.compute_steps) == count
    assert schedule.compute_steps[0] == 0
    assert sum(schedule.mask) == count
    assert [s for s, m in enumerate(schedule.mask) if m] == list(schedule.compute_steps)
    incurred = sum(
        errors[f, s, s - max(c for c in schedule.compute_steps if c < s) - 1]
        for s, f in enumerate(schedule.forecasters)
        if f >= 0
    )
    assert schedule.expected_error == pytest.approx(incurred)
    nodes = list(schedule.compute_steps) + [schedule.num_steps] * (not config.last_step_computes)
    prices = [
        min(p for p, _ in _edge_costs(errors, start, end, config))
        for start, end in itertools.pairwise(nodes)
    ]
    value = max(prices, default=0.0) if config.objective == "minimax" else sum(prices)
    assert schedule.objective == pytest.approx(value)


@pytest.mark.parametrize("config", CONFIGS, ids=str)
@pytest.mark.parametrize(("forecasters", "steps", "width"), [(1, 12, 4), (3, 9, 8), (1, 5, 20)])
def test_it_is_the_best_of_all_subsets(
    config: ScheduleConfig, forecasters: int, steps: int, width: int
) -> None:
    errors = _random_errors(steps, forecasters, steps, width)
    for count in range(1, steps + 1):
        expected = _brute_force(errors, count, config)
        if expected is None:
            with pytest.raises(ValueError, match=f"exactly {count} of {steps} steps"):
                solve_schedule(errors, count, config)
            continue
        schedule = solve_schedule(errors, count, config)
        assert schedule.objective == pytest.approx(expected[0])
        _check(schedule, errors, count, config)


@given(
    seed=st.integers(0, 2**32 - 1),
    steps=st.integers(1, 10),
    width=st.integers(1, 6),
    intervals=st.none() | st.sets(st.integers(1, 6), min_size=1),
    warmup=st.integers(1, 3),
    config=st.sampled_from(CONFIGS),
    quantum=st.sampled_from([0.0, 0.5]),
)
@settings(max_examples=150, deadline=None)
def test_any_options_agree_with_all_subsets(
    seed: int,
    steps: int,
    width: int,
    intervals: set[int] | None,
    warmup: int,
    config: ScheduleConfig,
    quantum: float,
) -> None:
    kept = tuple(sorted(i for i in intervals or () if i <= width)) or None
    config = ScheduleConfig(
        edge_cost=config.edge_cost,
        objective=config.objective,
        last_step_computes=config.last_step_computes,
        intervals=kept,
        warmup_steps=min(warmup, steps),
    )
    errors = _random_errors(seed, 1, steps, width)
    if quantum:
        errors = np.round(errors / quantum) * quantum  # ties, and zeros
    expected = {c: _brute_force(errors, c, config) for c in range(1, steps + 1)}
    feasible = [c for c, best in expected.items() if best is not None]
    table = EdgeTable(errors, config)
    assert table.feasible_counts().tolist() == feasible
    for count in feasible:
        schedule = table.solve(count)
        assert schedule == EdgeTable(errors, config).solve(count)
        _check(schedule, errors, count, config)
        best = expected[count]
        assert best is not None
        assert schedule.objective == pytest.approx(best[0])
        if config.edge_cost == "cumulative":
            # Under minimax, the least sum among the schedules of the least maximum.
            assert schedule.expected_error == pytest.approx(best[1])


@given(seed=st.integers(0, 2**32 - 1), objective=st.sampled_from(["sum", "minimax"]))
@settings(max_examples=30, deadline=None)
def test_a_larger_budget_is_never_worse(seed: int, objective: str) -> None:
    errors = _growing_errors(seed, 14, 6)
    table = EdgeTable(errors, ScheduleConfig(edge_cost="cumulative", objective=objective))
    objectives = [table.solve(int(c)).objective for c in table.feasible_counts()]
    assert all(b <= a + 1e-12 for a, b in itertools.pairwise(objectives))
    assert objectives[-1] == 0  # everything computed


def test_a_schedule_worked_by_hand() -> None:
    # Six steps, of which step 3 changes the output much: it must be computed, and step 2 may be
    # forecast.
    reuse = np.array(
        [[0, 0, 0], [1, 0, 0], [1, 2, 0], [9, 10, 11], [1, 10, 11], [1, 2, 11]], dtype=float
    )
    cumulative = ScheduleConfig(edge_cost="cumulative")
    schedule = solve_schedule(reuse, 3, cumulative)
    # 0 -> 3 forecasts steps 1 and 2 at ages 1 and 2: 1 + 2. 3 -> 5 forecasts step 4 at age 1: 1.
    assert schedule.compute_steps == (0, 3, 5)
    assert schedule.expected_error == schedule.objective == 4
    assert schedule.mask == [1, 0, 0, 1, 0, 1]
    assert schedule.forecasters == (-1, 0, 0, -1, 0, -1)
    # The end-point form prices 0 -> 3 by 11 and 3 -> 5 by 2; with 0 -> 2 -> 5 it is 2 + 11: a tie,
    # in which the shorter last edge wins.
    end = solve_schedule(reuse, 3)
    assert (end.compute_steps, end.objective, end.expected_error) == ((0, 3, 5), 13, 4)


def test_each_edge_takes_its_cheapest_forecaster() -> None:
    steps = 7
    reuse, taylor = np.ones((steps, 3)), np.full((steps, 3), 2.0)
    taylor[4:] = 0.25  # the end of the run is smooth
    errors = np.stack([reuse, taylor])
    config = ScheduleConfig(edge_cost="cumulative", intervals=(3,))
    schedule = solve_schedule(errors, 3, config)
    assert schedule.compute_steps == (0, 3, 6)
    assert schedule.forecasters == (-1, 0, 0, -1, 1, 1, -1)
    assert schedule.expected_error == 2.5
    assert set(solve_schedule(np.stack([reuse, reuse]), 3).forecasters) == {-1, 0}


@pytest.mark.parametrize("edge_cost", ["endpoint", "cumulative"])
def test_what_was_not_measured_is_not_used(edge_cost: str) -> None:
    config = ScheduleConfig(edge_cost=edge_cost, intervals=(2,))
    errors = np.ones((2, 5, 2))
    errors[1] = 0.0
    errors[1, :4] = np.nan  # the end of the edge 2 -> 4 is measured, step 3 within is not
    schedule = solve_schedule(errors, 3, config)
    assert schedule.forecasters == (-1, 0, -1, 0, -1)
    assert np.isfinite(schedule.expected_error)
    with pytest.raises(ValueError, match="calibrate all steps"):
        solve_schedule(errors[1], 3, config)


def test_the_published_budgets_are_feasible() -> None:
    for steps, count in ((250, 72), (50, 18), (20, 8), (20, 7)):
        for intervals in ((1, 2, 3, 4), (2, 3, 4)):
            config = ScheduleConfig(edge_cost="cumulative", intervals=intervals)
            schedule = solve_schedule(_growing_errors(0, steps, 4), count, config)
            assert len(schedule.compute_steps) == count
            assert set(np.diff(schedule.compute_steps)) <= set(intervals)
    for steps, count in ((250, 72), (20, 7)):
        with pytest.raises(ValueError, match="the nearest is"):
            solve_schedule(_growing_errors(0, steps, 3), count)


def test_the_nearest_budget_is_named() -> None:
    with pytest.raises(ValueError, match=r"exactly 2 of 10 steps.* 4 to 10, and the nearest is 4"):
        solve_schedule(np.ones((10, 3)), 2)
    with pytest.raises(ValueError, match=r"exactly 11 of 10 steps.*the nearest is 10"):
        solve_schedule(np.ones((10, 3)), 11)


def test_warm_up_steps_are_computed() -> None:
    config = ScheduleConfig(edge_cost="cumulative", warmup_steps=4, intervals=(3,))
    assert solve_schedule(np.ones((10, 3)), 6, config).compute_steps == (0, 1, 2, 3, 6, 9)


def test_the_last_step_may_be_forecast() -> None:
    config = ScheduleConfig(edge_cost="cumulative", last_step_computes=False)
    schedule = solve_schedule(_growing_errors(0, 4, 4), 1, config)
    assert schedule.mask == [1, 0, 0, 0]
    assert solve_schedule(np.zeros((1, 1)), 1, config).mask == [1]


@pytest.mark.parametrize(
    ("errors", "message"),
    [
        (np.zeros((2, 2, 2, 2)), "must be"),
        (np.zeros((0, 3)), "must be"),
        (-np.ones((4, 2)), "not be negative"),
    ],
)
def test_bad_tables_are_refused(errors: np.ndarray, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        solve_schedule(errors, 2)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"edge_cost": "mean"}, "edge_cost must be"),
        ({"objective": "max"}, "objective must be"),
        ({"intervals": ()}, "at least one number"),
        ({"intervals": (0, 1)}, "none below 1"),
        ({"warmup_steps": 0}, "at least 1"),
    ],
)
def test_bad_options_are_refused(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ScheduleConfig(**options)


def test_options_that_do_not_fit_the_table_are_refused() -> None:
    with pytest.raises(ValueError, match="measured up to 3"):
        solve_schedule(np.ones((5, 3)), 2, ScheduleConfig(intervals=(2, 4)))
    with pytest.raises(ValueError, match="at most the 5 steps"):
        solve_schedule(np.ones((5, 3)), 2, ScheduleConfig(warmup_steps=6))


def test_flops_become_computed_steps() -> None:
    for steps in (20, 50, 250):
        for speedup in (1.0, 1.25, 2.0, 2.5, 4.0):
            budget = steps * 0.2368 / speedup
            count = computations_for_flops(budget, num_steps=steps, computed_flops=0.2368)
            assert count == int(steps / speedup + 1e-6)
    with_overhead = computations_for_flops(
        30, num_steps=20, computed_flops=5, reused_flops=1
    )  # 20 + 4 * 2.5
    assert with_overhead == 2
    assert computations_for_flops(1e9, num_steps=20, computed_flops=5) == 20
    with pytest.raises(ValueError, match=r"below 24, .*nearest possible"):
        computations_for_flops(23, num_steps=20, computed_flops=5, reused_flops=1)
    with pytest.raises(ValueError, match="must cost less"):
        computations_for_flops(23, num_steps=20, computed_flops=1, reused_flops=1)
