# SPDX-License-Identifier: Apache-2.0
import itertools

import pytest

from genaccel.training.schedule import warmup_cosine


def test_it_rises_and_falls() -> None:
    rates = [
        warmup_cosine(s, steps=100, peak=2.0, warmup_steps=10, final_ratio=0.1) for s in range(101)
    ]
    assert rates[0] == pytest.approx(0.2)
    assert rates[9] == rates[10] == 2.0
    assert all(a > b for a, b in itertools.pairwise(rates[10:]))
    assert rates[55] == pytest.approx(1.1)  # half way down
    assert rates[100] == pytest.approx(0.2)
    assert warmup_cosine(1000, steps=100, peak=2.0, warmup_steps=10, final_ratio=0.1) == rates[100]


def test_a_run_may_be_all_warm_up() -> None:
    rate = warmup_cosine(3, steps=4, peak=1.0, warmup_steps=8, final_ratio=0.1)
    assert rate == pytest.approx(0.5)
