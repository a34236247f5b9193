# SPDX-License-Identifier: Apache-2.0
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from genaccel.sensitivity.plans.plan import Plan
from genaccel.sensitivity.plans.stretch import _spread, stretch_steps

MakePlan = Callable[..., Plan]


@given(
    old=st.integers(1, 60),
    new=st.integers(1, 60),
    seed=st.integers(0, 2**32 - 1),
    density=st.floats(0, 1),
)
@settings(deadline=None)
def test_computed_steps_keep_ends_and_share(old: int, new: int, seed: int, density: float) -> None:
    mask = np.random.default_rng(seed).random(old) < density
    mask[0] = True
    computed = np.flatnonzero(mask)
    steps = _spread(computed, old, new)
    assert steps[0] == 0
    assert steps[-1] < new
    assert (np.diff(steps) > 0).all()
    assert abs(len(steps) - len(computed) * new / old) <= 1.5
    if mask[-1] and new > 1 and old > 1:
        assert steps[-1] == new - 1
    if mask.all():
        assert len(steps) == new


def test_fixed_intervals_stay_fixed() -> None:
    assert _spread(np.array([0, 3, 6, 9]), 10, 10).tolist() == [0, 3, 6, 9]
    for new in (25, 50, 100):
        gaps = np.diff(_spread(np.arange(0, 50, 5), 50, new))
        assert set(gaps) <= {4, 5, 6}


def test_dense_parts_stay_dense() -> None:
    computed = np.array([*range(20), *range(20, 100, 8), 99])
    steps = _spread(computed, 100, 50)
    assert (steps < 10).sum() > 2.5 * ((steps >= 10) & (steps < 20)).sum()


@pytest.mark.parametrize("new", [1, 2, 3, 5, 11, 12, 13, 24, 50])
def test_any_number_of_steps_gives_a_valid_plan(make_plan: MakePlan, new: int) -> None:
    plan = make_plan()
    other = stretch_steps(plan, new)  # a Plan checks itself
    assert other.fingerprint.num_inference_steps == new
    assert plan.fingerprint.differences(other.fingerprint) == (
        ["num_inference_steps"] if new != 12 else []
    )
    assert (other.expected_error is None) == (new != 12)
    assert other.compute_mask[0].all()
    if new >= 5:
        assert other.flop_fraction == pytest.approx(plan.flop_fraction, rel=0.35)
        # The second half of the plan forecasts otherwise than its beginning.
        assert other.forecaster_index.max() == plan.forecaster_index.max()
        assert set(np.unique(other.token_counts)) == {16, 64}
    # Every age of reuse has its correction.
    position = np.arange(new)[:, None]
    ages = position - np.maximum.accumulate(np.where(other.compute_mask, position, 0), axis=0)
    assert ages.max() <= other.affine_slope.shape[1]


def test_the_same_number_is_the_same_plan(make_plan: MakePlan) -> None:
    plan = make_plan()
    assert stretch_steps(plan, 12) is plan
    with pytest.raises(ValueError, match="at least 1, got 0"):
        stretch_steps(plan, 0)


def test_affine_corrections_follow_the_distance_in_time(make_plan: MakePlan) -> None:
    # A slope of 1 + 0.1 k over k steps of 12 is one of 1 + 0.05 k over k steps of 23.
    interval = np.arange(1, 4, dtype=np.float32)[None, :, None, None]
    slope = np.broadcast_to(1 + 0.1 * interval, (12, 3, 2, 2)).astype(np.float32)
    other = stretch_steps(make_plan(affine_slope=slope, affine_intercept=slope - 1), 23)
    width = other.affine_slope.shape[1]
    expected = 1 + 0.05 * np.minimum(np.arange(1, width + 1), 6)
    for step in (0, 11, 22):
        np.testing.assert_allclose(other.affine_slope[step, :, 0, 0], expected, rtol=1e-6)
        np.testing.assert_allclose(other.affine_intercept[step, :, 1, 1], expected - 1, rtol=1e-5)


def test_a_plan_of_everything_stays_one(make_plan: MakePlan) -> None:
    full = make_plan(
        compute_mask=np.ones((12, 2), bool),
        forecaster_index=np.full((12, 2), -1, np.int8),
        token_counts=np.full((12, 4, 2), 64, np.int32),
        flop_fraction=1.0,
    )
    for new in (5, 30):
        other = stretch_steps(full, new)
        assert other.compute_mask.all()
        assert (other.token_counts == 64).all()
        assert other.flop_fraction == 1
