# SPDX-License-Identifier: Apache-2.0
import math

import numpy as np
import pytest

from genaccel.eval._pairs.summary import bootstrap_interval, summarise


def test_spread_and_interval() -> None:
    values = np.random.default_rng(0).normal(30, 4, 200).tolist()
    summary = summarise(values)
    assert summary.mean == summary.mean_of_finite == pytest.approx(np.mean(values))
    assert summary.standard_deviation == pytest.approx(np.std(values, ddof=1))
    assert summary.interval is not None
    low, high = summary.interval
    # That of the normal distribution, which 200 values are enough for.
    half = 1.96 * np.std(values, ddof=1) / math.sqrt(200)
    assert low == pytest.approx(summary.mean - half, abs=0.15 * half)
    assert high == pytest.approx(summary.mean + half, abs=0.15 * half)
    assert summarise(values) == summary


def test_it_covers_the_mean_as_often_as_it_says() -> None:
    random = np.random.default_rng(1)
    hits = 0
    for _ in range(200):
        low, high = bootstrap_interval(random.exponential(1.0, 40).tolist())
        hits += low <= 1.0 <= high
    assert 0.88 <= hits / 200 <= 0.99


def test_infinite_values_are_counted_and_the_rest_described() -> None:
    summary = summarise([30.0, math.inf, 40.0, math.inf])
    assert summary.mean == math.inf
    assert (summary.num_infinite, summary.mean_of_finite) == (2, 35.0)
    assert summary.standard_deviation == pytest.approx(7.0710678)
    nothing = summarise([math.inf])
    assert (nothing.mean, nothing.mean_of_finite, nothing.interval) == (math.inf, None, None)


def test_one_value_has_no_spread() -> None:
    summary = summarise([3.0])
    assert (summary.mean, summary.standard_deviation, summary.interval) == (3.0, None, None)
    assert summarise([2.0, 2.0]).interval == (2.0, 2.0)
