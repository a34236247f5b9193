# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from genaccel.sensitivity.planning.deviation import Candidate, Deviation, improve, is_allowed
from genaccel.sensitivity.run.forecast import Reuse, Taylor

NAMES = ("reuse", "taylor1", "taylor2")
STEPS = 10


def _outputs(seed: int, steps: int = STEPS, size: int = 20) -> np.ndarray:
    return 3 + np.random.default_rng(seed).normal(size=(steps, size)).cumsum(0)


def _gram(outputs: np.ndarray) -> np.ndarray:
    return outputs @ outputs.T


def _candidate(random: np.random.Generator, steps: int = STEPS) -> Candidate:
    mask = random.random(steps) < 0.4
    mask[0] = True
    return Candidate(mask, random.integers(0, len(NAMES), steps))


def _replayed(outputs: np.ndarray, candidate: Candidate) -> np.ndarray:
    """Errors of all steps as an accelerated run makes them, ``[S, size]``."""
    forecasters = [Reuse(), Taylor(1), Taylor(2)]
    errors = np.zeros_like(outputs)
    computed: list[int] = []  # the newest first
    for step, computes in enumerate(candidate.mask):
        if computes:
            computed.insert(0, step)
            continue
        weights = forecasters[candidate.forecasters[step]].coefficients(step, computed)
        forecast = np.asarray(weights) @ outputs[computed[: len(weights)]]
        errors[step] = forecast - outputs[step]
    return errors


@given(seed=st.integers(0, 2**32 - 1), objective=st.sampled_from(["sum", "minimax"]))
@settings(deadline=None, max_examples=40)
def test_prices_are_those_of_a_replay(seed: int, objective: str) -> None:
    random = np.random.default_rng(seed)
    outputs, gains = _outputs(seed), random.uniform(0, 3, STEPS)
    candidate = _candidate(random)
    errors = _replayed(outputs, candidate) * gains[:, None]
    errors /= np.linalg.norm(outputs, axis=1)[:, None]
    lengths = np.linalg.norm(errors, axis=1)
    intervals = np.split(lengths, np.flatnonzero(candidate.mask)[1:])
    unsigned = max(i.sum() for i in intervals) if objective == "minimax" else lengths.sum()
    deviation = Deviation([_gram(outputs)], gains, NAMES, objective=objective)
    expected = np.linalg.norm(errors.sum(0)) + unsigned
    assert deviation([candidate])[0] == pytest.approx(expected, abs=1e-5)
    np.testing.assert_allclose(deviation.step_errors(candidate), lengths, atol=1e-5)


def test_tensors_count_alike_however_large_they_are() -> None:
    random = np.random.default_rng(1)
    gains = np.ones(STEPS)
    candidates = [_candidate(random) for _ in range(5)]
    one, other = _outputs(1), _outputs(2)
    twice = Deviation([_gram(one)] * 2, gains, NAMES)
    np.testing.assert_allclose(twice(candidates), Deviation([_gram(one)], gains, NAMES)(candidates))
    both = Deviation([_gram(one), _gram(other)], gains, NAMES)
    scaled = Deviation([_gram(one), _gram(1000 * other)], gains, NAMES)
    np.testing.assert_allclose(both(candidates), scaled(candidates))


def test_errors_that_cancel_cost_less() -> None:
    # Reuse of a ramp errs to the same side at every step, of a zigzag to both.
    direction = np.random.default_rng(0).normal(size=30)
    base = 10 * np.random.default_rng(1).normal(size=30)
    ramp = base + np.array([0, 1, 1, 1, 1])[:, None] * direction
    zigzag = base + np.array([0, 1, -1, 1, -1])[:, None] * direction
    reuse = Candidate(np.arange(5) == 0, np.zeros(5, dtype=np.intp))
    prices = []
    for outputs in (ramp, zigzag):
        prices.append(Deviation([_gram(outputs)], np.ones(5), ("reuse",))([reuse])[0])
    size = np.linalg.norm(direction) / np.linalg.norm(base)
    assert prices[0] == pytest.approx(8 * size, rel=0.1)
    assert prices[1] == pytest.approx(4 * size, rel=0.2)


def test_steps_without_effect_cost_nothing() -> None:
    deviation = Deviation([_gram(_outputs(0))], np.arange(STEPS) < STEPS - 2, NAMES)
    last = Candidate(np.arange(STEPS) < STEPS - 2, np.zeros(STEPS, dtype=np.intp))
    assert deviation([last])[0] == 0


def test_many_candidates_are_priced_like_one() -> None:
    random = np.random.default_rng(3)
    deviation = Deviation([_gram(_outputs(5))], np.ones(STEPS), NAMES)
    candidates = [_candidate(random) for _ in range(1100)]
    prices = deviation(candidates)
    assert prices.shape == (1100,)
    for i in (0, 511, 512, 1099):
        assert prices[i] == pytest.approx(deviation([candidates[i]])[0])


@given(seed=st.integers(0, 2**32 - 1))
@settings(deadline=None, max_examples=20)
def test_an_improvement_keeps_all_rules(seed: int) -> None:
    random = np.random.default_rng(seed)
    deviation = Deviation([_gram(_outputs(seed))], random.uniform(0, 2, STEPS), NAMES)
    start = _candidate(random)
    start.mask[[0, 1, 5, STEPS - 1]] = True
    mask, forecasters = start.mask.copy(), start.forecasters.copy()
    fixed = np.isin(np.arange(STEPS), [0, 1, STEPS - 1])
    price, found = improve(start, deviation, max_interval=5, fixed=fixed)
    assert price <= deviation([start])[0]
    assert price == pytest.approx(deviation([found])[0])
    assert found.mask.sum() == mask.sum()
    assert found.mask[fixed].all()
    assert is_allowed(found.mask, 5)
    np.testing.assert_array_equal(start.mask, mask)  # the start is left alone
    np.testing.assert_array_equal(start.forecasters, forecasters)
    # Nothing near it is better.
    again, _ = improve(found, deviation, max_interval=5, fixed=fixed)
    assert again == pytest.approx(price)


@pytest.mark.parametrize(
    ("mask", "longest", "allowed"),
    [
        ([1, 0, 0, 1, 0], 3, True),
        ([1, 0, 0, 1, 0], 2, False),
        ([1, 1, 0, 0, 0], 3, False),
        ([1, 1, 0, 0, 0], 4, True),
        ([0, 1, 1, 1, 1], 9, False),
    ],
)
def test_distances_between_computed_steps_are_limited(
    mask: list[int], longest: int, allowed: bool
) -> None:
    assert is_allowed(np.array(mask, dtype=bool), longest) is allowed


def test_bad_arguments_are_refused() -> None:
    gram = _gram(_outputs(0))
    with pytest.raises(ValueError, match="no tensor was measured"):
        Deviation([], np.ones(STEPS), NAMES)
    with pytest.raises(ValueError, match=r"forecasters must be some of .*'taylor9'"):
        Deviation([gram], np.ones(STEPS), ("taylor9",))
    with pytest.raises(ValueError, match=r"forecasters must be some of .*'affine'"):
        Deviation([gram], np.ones(STEPS), ("reuse", "affine"))
