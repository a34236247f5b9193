# SPDX-License-Identifier: Apache-2.0
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from genaccel.hooks.forecast_batch import ForecastRequest, make_forecasts
from genaccel.sensitivity.run.forecast import Affine, Forecaster, Reuse, Taylor, affine_fit


def _affine(slope: float = 0.5, intercept: float = 2.0, steps: int = 40, width: int = 20) -> Affine:
    return Affine(np.full((steps, width), slope), np.full((steps, width), intercept))


def _forecast(
    forecaster: Forecaster, step: int, steps: Sequence[int], outputs: Sequence[torch.Tensor]
) -> torch.Tensor:
    """What an engine makes of the outputs of some steps, the newest first."""
    weights = forecaster.coefficients(step, steps)
    request = ForecastRequest(outputs[: len(weights)], weights, forecaster.offset(step, steps))
    (made,) = make_forecasts([request])
    return made


ALL: list[Forecaster] = [Reuse(), Taylor(1), Taylor(2), _affine()]
descending_steps = st.lists(st.integers(0, 30), min_size=1, max_size=4, unique=True).map(
    lambda steps: sorted(steps, reverse=True)
)


@given(
    steps=descending_steps,
    ahead=st.integers(1, 8),
    weights=st.lists(st.integers(-9, 9), min_size=3, max_size=3),
    order=st.sampled_from([0, 1, 2]),
)
@settings(deadline=None)
def test_polynomials_are_exact_for_uneven_steps(
    steps: list[int], ahead: int, weights: list[int], order: int
) -> None:
    forecaster = Taylor(order) if order else Reuse()
    # With few computed steps the order falls, and so does the degree that is exact.
    degree = min(order, len(steps) - 1)

    def truth(t: float) -> float:
        return float(sum(w * t**i for i, w in enumerate(weights[: degree + 1])))

    target = steps[0] + ahead
    coefficients = forecaster.coefficients(target, steps)
    assert len(coefficients) == min(forecaster.history, len(steps))
    value = sum(c * truth(s) for c, s in zip(coefficients, steps, strict=False))
    assert value == pytest.approx(truth(target), rel=1e-9, abs=1e-7)
    assert sum(coefficients) == pytest.approx(1)  # constants stay


@pytest.mark.parametrize("gap", [1, 3, 6])
def test_first_order_is_taylorseer_and_second_order_corrects_it(gap: int) -> None:
    newest, middle, oldest = 5.0, 2.0, 1.0
    first, second = (newest - middle) / gap, (middle - oldest) / gap
    for ahead in range(1, gap + 1):
        one = Taylor(1).coefficients(2 * gap + ahead, [2 * gap, gap])
        assert one[0] * newest + one[1] * middle == pytest.approx(newest + ahead * first)
        two = Taylor(2).coefficients(2 * gap + ahead, [2 * gap, gap, 0])
        value = np.dot(two, [newest, middle, oldest])
        # Newton's form: k (k + N) / 2 of the second difference, where TaylorSeer has k^2 / 2.
        curvature = (first - second) / gap
        assert value == pytest.approx(
            newest + ahead * first + curvature * ahead * (ahead + gap) / 2
        )


def test_steps_may_be_noise_levels() -> None:
    coefficients = Taylor(1).coefficients(-0.5, [-0.6, -0.9])
    assert np.dot(coefficients, [0.6 * 2, 0.9 * 2]) == pytest.approx(0.5 * 2)


@pytest.mark.parametrize("forecaster", ALL, ids=lambda f: f.name)
@pytest.mark.parametrize("shape", [(), (3,), (2, 5, 7), (1, 2, 3, 4, 5), (0, 4)])
def test_tensors_of_any_shape(forecaster: Forecaster, shape: tuple[int, ...]) -> None:
    generator = torch.Generator().manual_seed(0)
    outputs = [torch.randn(shape, generator=generator, dtype=torch.float64) for _ in range(3)]
    steps = (7, 2, 0)
    expected = torch.full(shape, forecaster.offset(9, steps), dtype=torch.float64)
    for weight, value in zip(forecaster.coefficients(9, steps), outputs, strict=False):
        expected += weight * value
    forecast = _forecast(forecaster, 9, steps, outputs)
    assert forecast.shape == shape
    torch.testing.assert_close(forecast, expected)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("forecaster", ALL, ids=lambda f: f.name)
def test_the_error_is_that_of_the_dtype(forecaster: Forecaster, dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(1)
    steps = (5, 3, 0)
    outputs = [torch.randn(1000, generator=generator).to(dtype) for _ in steps]
    forecast = _forecast(forecaster, 8, steps, outputs)
    truth = _forecast(forecaster, 8, steps, [output.double() for output in outputs])
    assert forecast.dtype == dtype
    # Summed wide, it is rounded once; sums in float32 itself add the rounding of their terms.
    slack = (
        1 if dtype != torch.float32 else 8 * sum(map(abs, forecaster.coefficients(8, [5, 3, 0])))
    )
    unit = torch.finfo(dtype).eps / 2
    assert ((forecast.double() - truth).abs() <= slack * unit * (truth.abs() + 1)).all()


def test_reuse_is_the_cached_tensor_itself() -> None:
    output = torch.randn(4)
    # Of one output only, the order of an extrapolation falls to 0.
    for forecaster in (Reuse(), Taylor(2), _affine(1.0, 0.0)):
        assert _forecast(forecaster, 4, [3], [output]) is output


@pytest.mark.parametrize("forecaster", ALL, ids=lambda f: f.name)
def test_bad_steps_are_refused(forecaster: Forecaster) -> None:
    for computed in ([], [5], [4, 4], [3, 4]):
        with pytest.raises(ValueError, match="computed"):
            forecaster.coefficients(5, computed)


def test_bad_options_are_refused() -> None:
    for order in (0, 3):
        with pytest.raises(ValueError, match="order must be 1 or 2"):
            Taylor(order)
    with pytest.raises(ValueError, match="must both be"):
        Affine(np.ones((3, 2)), np.ones((3, 1)))
    with pytest.raises(ValueError, match="finite"):
        Affine(np.full((3, 2), np.nan), np.ones((3, 2)))


def test_the_affine_corrector_looks_its_cell_up() -> None:
    slope = np.arange(12.0).reshape(4, 3)
    affine = Affine(slope, -slope)
    assert affine.coefficients(3, [1, 0]) == [slope[3, 1]]
    assert affine.offset(3, [1]) == -slope[3, 1]
    with pytest.raises(ValueError, match="knows 4 steps and intervals up to 3, got step 4"):
        affine.coefficients(4, [3])
    with pytest.raises(ValueError, match="interval 4"):
        Affine(np.ones((9, 3)), np.ones((9, 3))).offset(8, [4])


@given(
    seed=st.integers(0, 2**32 - 1),
    a=st.floats(-4, 4),
    b=st.floats(-4, 4),
    noise=st.sampled_from([0.0, 0.3]),
)
@settings(deadline=None, max_examples=50)
def test_the_affine_fit_is_least_squares(seed: int, a: float, b: float, noise: float) -> None:
    random = np.random.default_rng(seed)
    x = random.normal(size=200) + 3
    y = a * x + b + noise * random.normal(size=200)
    slope, intercept = affine_fit(200, x.sum(), y.sum(), x @ x, x @ y)
    expected = np.linalg.lstsq(np.stack([x, np.ones(200)], 1), y, rcond=None)[0]
    np.testing.assert_allclose([slope, intercept], expected, rtol=1e-8, atol=1e-8)


def test_the_affine_fit_without_signal_is_reuse() -> None:
    assert affine_fit(0, 0, 0, 0, 0) == (1, 0)
    # A constant cache, of which rounding makes up a variance.
    x = np.full(1000, 0.1)
    slope, intercept = affine_fit(1000, x.sum(), 300.0, x @ x, x.sum() * 0.3)
    assert slope == 1
    assert intercept == pytest.approx(0.2)
