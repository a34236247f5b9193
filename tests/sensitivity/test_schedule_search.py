# SPDX-License-Identifier: Apache-2.0
import itertools

import numpy as np
import pytest

from genaccel.sensitivity.planning.deviation import Candidate, Deviation
from genaccel.sensitivity.planning.schedule import ScheduleConfig
from genaccel.sensitivity.planning.schedule_search import even_schedules, search_schedule

NAMES = ("reuse", "taylor1", "taylor2")
ANY_END = ScheduleConfig(edge_cost="cumulative", objective="minimax", last_step_computes=False)
COMPUTED_END = ScheduleConfig(edge_cost="cumulative", objective="minimax")


def _outputs(seed: int, steps: int) -> np.ndarray:
    """A smooth curve that bends at random, in 30 dimensions."""
    random = np.random.default_rng(seed)
    bends = random.normal(size=(steps, 30)) * random.uniform(0.2, 2, (steps, 1))
    return 20 + bends.cumsum(0).cumsum(0)


def _problem(
    seed: int, steps: int, width: int, gains: np.ndarray | None = None
) -> tuple[np.ndarray, Deviation]:
    outputs = _outputs(seed, steps)
    gains = np.ones(steps) if gains is None else gains
    errors = np.full((len(NAMES), steps, width), np.nan)
    for s in range(steps):
        for k in range(1, min(s, width) + 1):
            size = np.linalg.norm(outputs[s])
            errors[0, s, k - 1] = np.linalg.norm(outputs[s] - outputs[s - k]) / size
            if s >= 2 * k:
                ahead = 2 * outputs[s - k] - outputs[s - 2 * k]
                errors[1, s, k - 1] = np.linalg.norm(outputs[s] - ahead) / size
    deviation = Deviation([outputs @ outputs.T], gains, NAMES)
    return errors * gains[:, None], deviation


def _mask(steps: int, computed: tuple[int, ...]) -> np.ndarray:
    return np.isin(np.arange(steps), computed)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("count", [3, 4, 6])
def test_it_is_about_the_best_of_all_schedules(seed: int, count: int) -> None:
    steps = 9
    errors, deviation = _problem(seed, steps, steps - 1)
    found = search_schedule(errors, count, deviation, ANY_END)
    assert len(found.compute_steps) == count
    everything = [
        Candidate(_mask(steps, (0, *chosen)), np.full(steps, f))
        for chosen in itertools.combinations(range(1, steps), count - 1)
        for f in range(len(NAMES))
    ]
    # Mixtures of forecasters are better still: in most cases the price is below all of these.
    assert found.objective <= 1.1 * deviation(everything).min()
    mine = Candidate(np.array(found.mask, dtype=bool), np.maximum(found.forecasters, 0))
    assert found.objective == pytest.approx(deviation([mine])[0])
    assert found.expected_error == pytest.approx(deviation.step_errors(mine).sum())
    assert [f < 0 for f in found.forecasters] == mine.mask.tolist()
    assert found == search_schedule(errors, count, deviation, ANY_END)


@pytest.mark.parametrize("config", [ANY_END, COMPUTED_END], ids=["any", "computed"])
@pytest.mark.parametrize(("steps", "count"), [(8, 2), (8, 4), (12, 5), (20, 9), (50, 24)])
def test_it_is_no_worse_than_even_spacing(config: ScheduleConfig, steps: int, count: int) -> None:
    errors, deviation = _problem(steps, steps, min(8, steps - 1))
    found = search_schedule(errors, count, deviation, config)
    even = even_schedules(steps, count, len(NAMES), errors.shape[2], config)
    assert even
    assert found.objective <= deviation(even).min() * (1 + 1e-9)
    best = search_schedule(errors, count, deviation, config, even=True)
    assert best.objective == pytest.approx(deviation(even).min())
    assert found.compute_steps[0] == 0
    if config.last_step_computes:
        assert found.compute_steps[-1] == best.compute_steps[-1] == steps - 1


def test_a_last_step_without_effect_is_not_computed() -> None:
    gains = np.ones(12)
    gains[-1] = 0.0
    errors, deviation = _problem(0, 12, 8, gains)
    found = search_schedule(errors, 5, deviation, ANY_END)
    assert found.compute_steps[-1] < 11
    forced = search_schedule(errors, 5, deviation, COMPUTED_END)
    assert forced.compute_steps[-1] == 11
    assert found.objective < forced.objective


def test_the_search_of_a_long_run_is_bounded() -> None:
    errors, deviation = _problem(3, 250, 8)
    found = search_schedule(errors, 125, deviation, ANY_END)
    # Those of one computed step more than the limit, and of the starts.
    assert deviation.num_priced * 250 < 4_000_000
    even = even_schedules(250, 125, len(NAMES), 8, ANY_END)
    assert found.objective < 0.5 * deviation(even).min()


def test_warm_up_steps_stay_computed_and_intervals_short() -> None:
    config = ScheduleConfig(edge_cost="cumulative", warmup_steps=4, last_step_computes=False)
    errors, deviation = _problem(1, 20, 5)
    for even in (False, True):
        found = search_schedule(errors, 8, deviation, config, even=even)
        assert found.compute_steps[:4] == (0, 1, 2, 3)
        assert np.diff([*found.compute_steps, 20]).max() <= 5


def test_what_is_impossible_is_explained() -> None:
    errors, deviation = _problem(2, 20, 3)
    with pytest.raises(ValueError, match=r"computes exactly 4 of 20 steps .* nearest is 7"):
        search_schedule(errors, 4, deviation, ANY_END)


@pytest.mark.parametrize(
    ("count", "warmup", "expected"),
    [
        (4, 1, {(0, 2, 4, 6), (0, 2, 5, 7)}),
        (3, 1, {(0, 2, 5), (0, 3, 6), (0, 4, 7)}),
        (4, 2, {(0, 1, 3, 5), (0, 1, 4, 6), (0, 1, 4, 7)}),
        (1, 1, {(0,)}),
        (8, 8, {tuple(range(8))}),
        (2, 4, set()),
    ],
)
def test_even_spacing(count: int, warmup: int, expected: set[tuple[int, ...]]) -> None:
    config = ScheduleConfig(warmup_steps=warmup, last_step_computes=False)
    found = even_schedules(8, count, 2, 8, config)
    assert {tuple(np.flatnonzero(c.mask).tolist()) for c in found} == expected
