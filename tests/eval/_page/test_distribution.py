# SPDX-License-Identifier: Apache-2.0
import math

import numpy as np
import pytest
from scipy import stats

from genaccel.eval._page.distribution import Distribution, round_ticks


def test_the_interval_of_the_mean_is_that_of_students_t() -> None:
    values = np.random.default_rng(0).normal(30, 4, 17)
    spread = Distribution.of(values.tolist())
    error = stats.sem(values)
    assert spread.mean == pytest.approx(values.mean(), rel=1e-12)
    assert spread.deviation == pytest.approx(values.std(ddof=1), rel=1e-12)
    expected = stats.t.interval(0.95, 16, values.mean(), error)
    assert spread.interval == pytest.approx(expected, rel=1e-12)


def test_what_is_not_finite_is_counted_by_what_it_is() -> None:
    spread = Distribution.of([3.0, math.inf, None, 1.0, -math.inf, math.inf, math.nan, 2])
    assert spread.values == [1.0, 2.0, 3.0]
    assert (spread.num_above, spread.num_below, spread.num_missing) == (2, 1, 2)
    assert (spread.mean, spread.deviation) == (2.0, 1.0)
    assert spread.median == 2.5


@pytest.mark.parametrize("values", [[], [None], [math.nan]])
def test_nothing_has_no_numbers(values: list[float | None]) -> None:
    spread = Distribution.of(values)
    assert spread.mean is spread.median is spread.deviation is spread.interval is None


def test_medians_may_be_infinite_or_have_no_value() -> None:
    assert Distribution.of([1.0, math.inf, math.inf]).median == math.inf
    assert Distribution.of([math.inf, -math.inf]).median is None
    assert Distribution.of([5.0]).interval is None


def test_histograms_count_every_finite_value_once() -> None:
    values = np.random.default_rng(1).uniform(-2, 5, 1000).tolist()
    spread = Distribution.of([*values, -2.0, 5.0])
    counts = spread.histogram(-2.0, 5.0, 7)
    assert sum(counts) == 1002
    expected, _ = np.histogram(spread.values, bins=7, range=(-2, 5))
    assert counts == expected.tolist()


@pytest.mark.parametrize(
    ("low", "high"), [(0.0, 1.0), (-3e-7, 4e-7), (21.3, 39.8), (999.0, 1001.0), (-5e12, 1e12)]
)
def test_ticks_are_round_and_inside(low: float, high: float) -> None:
    ticks = round_ticks(low, high, 4)
    assert 2 <= len(ticks) <= 6
    slack = (high - low) * 1e-6
    assert all(low - slack <= tick <= high + slack for tick in ticks)
    assert all(len(f"{tick:.12g}") <= 7 for tick in ticks)
