# SPDX-License-Identifier: Apache-2.0
"""Plans of outputs are chosen by what they do to the finished sample, on signals whose truth is known."""

import numpy as np
import pytest

from genaccel.sensitivity.config import fewest_computed
from genaccel.sensitivity.planning.output_planner import (
    forecast_weights,
    plan_outputs,
    schedules,
    spread_steps,
)
from genaccel.sensitivity.planning.time_windows import (
    hat_shares,
    hat_windows,
    noise_and_drift,
    quiet_shares,
    window_table,
)

STEPS = 40


def signal(noise, seed=0, steps=STEPS):
    """Outputs ``[S, D]``: a smooth path, and a part that is white from step to step."""
    random = np.random.default_rng(seed)
    time = np.linspace(0, 1, steps)[:, None]
    path = np.sin(2 * time + random.normal(size=(1, 4000))) + time * random.normal(size=(1, 4000))
    return path + noise * random.normal(size=(steps, 4000))


def finished_error(outputs, choice):
    """Length of the error of the sum of all outputs, relative to one of them."""
    order = int(choice.orders[0])
    weights = forecast_weights(choice.computed, order)
    shares = np.diag(choice.computed.astype(float))
    if choice.time_weights is not None:
        half = choice.time_weights.shape[1] // 2
        shares = np.zeros((len(outputs), len(outputs)))
        for step, row in enumerate(choice.time_weights):
            for column in np.flatnonzero(row):
                shares[step, step + column - half] = row[column]
    error = (weights @ shares @ outputs - outputs).sum(axis=0)
    return np.linalg.norm(error) / np.linalg.norm(outputs, axis=1).mean()


def test_forecasts_are_exact_on_polynomials():
    computed = np.array([1, 1, 0, 1, 0, 0, 0, 1, 0], dtype=bool)
    step = np.arange(9.0)
    quadratic = forecast_weights(computed, 2) @ (3 - 2 * step + step**2)
    # The first forecast has two steps behind it only.
    np.testing.assert_allclose(quadratic[3:], (3 - 2 * step + step**2)[3:])
    np.testing.assert_allclose(forecast_weights(computed, 1) @ (5 - 2 * step), 5 - 2 * step)


@pytest.mark.parametrize("make", [hat_shares, None])
def test_windows_have_the_sum_one_at_computed_steps_and_nothing_elsewhere(make):
    computed = spread_steps(STEPS, 15)
    if make is None:
        even = np.ones(STEPS)
        shares = quiet_shares(computed, forecast_weights(computed, 2), even, even, even)
    else:
        shares = make(computed)
    np.testing.assert_allclose(shares.sum(axis=1), computed.astype(float), atol=1e-8)
    table = window_table(shares)
    half = table.shape[1] // 2
    for step in np.flatnonzero(computed):
        for column in np.flatnonzero(table[step]):
            assert table[step, column] == pytest.approx(shares[step, step + column - half])


def test_quiet_windows_bring_in_the_noise_of_the_plain_run():
    computed = spread_steps(STEPS, 15)
    weights = forecast_weights(computed, 2)
    gains = np.linspace(2, 0.5, STEPS)
    noise, drift = noise_and_drift(signal(0.1) @ signal(0.1).T)

    def missed(shares):
        return np.linalg.norm((gains @ weights @ shares - gains) * noise)

    quiet = quiet_shares(computed, weights, gains, noise, drift)
    own = np.diag(computed.astype(float))
    assert missed(quiet) < 0.9 * missed(hat_shares(computed))
    assert missed(quiet) < 0.7 * missed(own)


def test_noise_and_drift_are_told_apart():
    outputs = signal(0.1)
    noise, drift = noise_and_drift(outputs @ outputs.T)
    length = 0.1 * np.sqrt(4000)
    np.testing.assert_allclose(noise, length, rtol=0.1)
    smooth, _ = noise_and_drift(signal(0.0) @ signal(0.0).T)
    assert smooth.max() < 0.01 * length
    path = signal(0.0)
    np.testing.assert_allclose(
        drift[1:-1], np.linalg.norm(path[2:] - path[:-2], axis=1) / 2, rtol=0.35, atol=0.5
    )


@pytest.mark.parametrize("count", [20, 13, 10])
def test_windows_are_chosen_where_outputs_are_noisy_and_pay_on_other_samples(count):
    measured, others = signal(0.1, seed=0), signal(0.1, seed=1)
    gram, even = measured @ measured.T, np.ones(STEPS)
    chosen = plan_outputs(gram, even, count=count, max_interval=8)
    without = plan_outputs(gram, even, count=count, max_interval=8, has_windows=False)
    assert chosen.computed.sum() == without.computed.sum() == count
    assert chosen.time_weights is not None
    assert without.time_weights is None
    assert finished_error(others, chosen) < 0.7 * finished_error(others, without)


def test_the_price_is_the_error_of_the_finished_sample_and_a_part_of_that_on_the_way():
    outputs = signal(0.05)
    choice = plan_outputs(outputs @ outputs.T, np.ones(STEPS), count=14, max_interval=8)
    error = finished_error(outputs, choice)
    assert error < choice.price < 3 * error + 0.2


def test_smooth_outputs_are_forecast_nearly_exactly():
    outputs = signal(0.0)
    choice = plan_outputs(outputs @ outputs.T, np.ones(STEPS), count=14, max_interval=8)
    assert finished_error(signal(0.0, seed=1), choice) < 0.05


@pytest.mark.parametrize("steps", [1, 2, 3, 4, 5, 8, 12, 50])
@pytest.mark.parametrize("max_interval", [1, 2, 8])
def test_every_number_of_steps_from_the_fewest_on_has_a_schedule(steps, max_interval):
    fewest = fewest_computed(steps, max_interval)
    assert 1 <= fewest <= steps
    for count in range(max(fewest, 1), steps):
        found = list(schedules(steps, count, max_interval))
        assert found, (count, max_interval)
        for mask in found:
            assert mask[0]
            assert mask.sum() == count
            nodes = [*np.flatnonzero(mask), steps]
            assert np.diff(nodes).max() <= max_interval


def test_too_few_computed_steps_for_the_intervals_are_refused():
    gram = np.eye(10)
    with pytest.raises(
        ValueError, match="no schedule computes 2 of 10 steps with intervals up to 3"
    ):
        plan_outputs(gram, None, count=2, max_interval=3)


def test_without_gains_all_steps_count_alike():
    outputs = signal(0.1)
    gram = outputs @ outputs.T
    one = plan_outputs(gram, None, count=15, max_interval=8)
    other = plan_outputs(gram, np.ones(STEPS), count=15, max_interval=8)
    assert (one.computed == other.computed).all()
    assert one.price == other.price


def test_hats_count_every_step_once():
    computed = np.array([1, 1, 0, 0, 1, 0, 1, 0, 0], dtype=bool)
    assert hat_windows(computed).shape == (9, 5)
    # In the order of their shares before these were divided by their sums.
    np.testing.assert_allclose(
        hat_windows(computed)[4], np.array([1, 2, 3, 1.5, 0]) / 7.5, rtol=1e-6
    )
