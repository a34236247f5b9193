# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest
import torch
from torch import Tensor

from genaccel.sensitivity.measure.calibration_moments import (
    METRICS,
    CalibrationMoments,
    relative_errors,
)
from genaccel.sensitivity.run.forecast import Taylor

STEPS, WIDTH = 9, 3


def _runs(seed: int = 0, batch: int = 2, shape: tuple[int, ...] = (4, 5)) -> Tensor:
    """Outputs of all steps, ``[S, B, ...]``, that drift like those of a sampler."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(STEPS, batch, *shape, generator=generator).cumsum(0)


def _observe(calibration: CalibrationMoments, outputs: Tensor, **place) -> None:
    calibration.start_generation()
    for step, output in enumerate(outputs):
        calibration.observe(step, place.get("segment", 0), place.get("tensor", 0), output)


def _calibration(**options) -> CalibrationMoments:
    return CalibrationMoments(num_steps=STEPS, max_interval=WIDTH, **options)


@pytest.mark.parametrize("metric", METRICS)
def test_reuse_errors_are_those_of_the_definition(metric: str) -> None:
    runs = [_runs(0), _runs(1, batch=3)]
    calibration = _calibration()
    for outputs in runs:
        _observe(calibration, outputs)
    errors = calibration.errors("reuse", metric)
    assert errors.shape == (STEPS, WIDTH, 1, 1)
    for step in range(STEPS):
        for interval in range(1, WIDTH + 1):
            if step < interval:
                assert np.isnan(errors[step, interval - 1, 0, 0])
                continue
            expected = []
            for outputs in runs:
                fresh, cached = outputs[step].double(), outputs[step - interval].double()
                for y, x in zip(fresh.flatten(1), cached.flatten(1), strict=True):
                    if metric == "cosine":
                        expected.append(1 - torch.cosine_similarity(x, y, dim=0))
                    else:
                        norm = int(metric[1])
                        expected.append((x - y).norm(norm) / y.norm(norm))
            assert errors[step, interval - 1, 0, 0] == pytest.approx(float(np.mean(expected)))


@pytest.mark.parametrize(
    ("order", "step", "interval", "spacing"),
    [
        (1, 8, 1, 1),
        (1, 8, 2, 2),
        (1, 8, 3, 3),
        (2, 8, 2, 2),
        (2, 8, 3, 2),  # spacing 3 would need step -1
        (1, 4, 3, 1),
        (1, 1, 1, None),
        (2, 4, 3, None),  # no output old enough
    ],
)
def test_taylor_is_measured_from_even_spacing(
    order: int, step: int, interval: int, spacing: int | None
) -> None:
    outputs = _runs(2)
    calibration = _calibration()
    _observe(calibration, outputs)
    error = calibration.errors(f"taylor{order}", "l2")[step, interval - 1, 0, 0]
    if spacing is None:
        assert np.isnan(error)
        return
    nodes = [step - interval - i * spacing for i in range(order + 1)]
    weights = Taylor(order).coefficients(step, nodes)
    forecast = sum(w * outputs[n].double() for w, n in zip(weights, nodes, strict=True))
    expected = relative_errors(forecast.flatten(1), outputs[step].double().flatten(1))[2]
    assert error == pytest.approx(float(expected.mean()))


def test_polynomial_trajectories_have_no_taylor_error() -> None:
    t = torch.arange(STEPS, dtype=torch.float64)[:, None, None]
    a, b = torch.randn(2, 1, 4, 6, generator=torch.Generator().manual_seed(0)).double()
    calibration = _calibration()
    _observe(calibration, 3 + a * t + b * t**2)
    second = calibration.errors("taylor2", "l1")
    assert np.nanmax(second) < 1e-12
    assert np.nanmin(calibration.errors("taylor1", "l1")) > 1e-3
    linear = _calibration()
    _observe(linear, 3 + a * t)
    assert np.nanmax(linear.errors("taylor1", "l2")) < 1e-12


def test_the_affine_corrector_is_never_worse_than_reuse_in_squares() -> None:
    outputs = _runs(3, batch=1)
    scaled = outputs * torch.linspace(1, 3, STEPS)[:, None, None, None]
    calibration = _calibration()
    _observe(calibration, scaled)
    reuse, affine = calibration.errors("reuse", "l2"), calibration.errors("affine", "l2")
    measured = ~np.isnan(reuse)
    assert (np.isnan(affine) == np.isnan(reuse)).all()
    assert (affine[measured] <= reuse[measured] + 1e-12).all()
    slope, intercept = calibration.affine()
    x, y = scaled[4].double(), scaled[6].double()
    fitted = slope[6, 1, 0, 0] * x + intercept[6, 1, 0, 0]
    expected = relative_errors(fitted.flatten(1), y.flatten(1))
    assert affine[6, 1, 0, 0] == pytest.approx(float(expected[2, 0]))
    cosine = calibration.errors("affine", "cosine")
    assert cosine[6, 1, 0, 0] == pytest.approx(float(expected[0, 0]))
    assert (slope[~measured] == 1).all()
    with pytest.raises(ValueError, match='not "l1"'):
        calibration.errors("affine", "l1")


def test_moments_are_the_sums() -> None:
    outputs = _runs(4)
    calibration = _calibration()
    _observe(calibration, outputs)
    moments = calibration.moments()
    x, y = outputs[3].double().numpy(), outputs[5].double().numpy()
    for name, value in (
        ("n", x.size),
        ("x", x.sum()),
        ("y", y.sum()),
        ("xx", (x * x).sum()),
        ("xy", (x * y).sum()),
        ("yy", (y * y).sum()),
    ):
        assert moments[name][5, 1, 0, 0] == pytest.approx(value)


def test_inner_products_tell_the_error_of_any_forecast() -> None:
    runs = [_runs(0), _runs(1, batch=3)]
    calibration = _calibration(num_segments=2)
    for outputs in runs:
        _observe(calibration, outputs, segment=1)
    gram = calibration.gram()
    assert gram.shape == (2, 1, STEPS, STEPS)
    assert not gram[0].any()
    weights = np.zeros(STEPS)
    weights[[8, 5, 4, 0]] = -1, 1.75, -1.25, 0.5  # older than the ring is deep
    square = 0.0
    for outputs in runs:
        forecast = 1.75 * outputs[5] - 1.25 * outputs[4] + 0.5 * outputs[0]
        square += float((forecast - outputs[8]).double().square().sum())
    assert weights @ gram[1, 0] @ weights == pytest.approx(square, rel=1e-5)


def test_batches_prompts_and_streams_add_up() -> None:
    outputs = _runs(5, batch=4)
    whole, halves, merged, streams = (_calibration() for _ in range(4))
    _observe(whole, outputs)
    _observe(halves, outputs[:, :1])
    _observe(halves, outputs[:, 1:])
    _observe(merged, outputs[:, :2])
    other = _calibration()
    _observe(other, outputs[:, 2:])
    merged.merge(other)
    for step in range(STEPS):  # guidance in two calls
        streams.observe(step, 0, 0, outputs[step, :2], stream="conditional")
        streams.observe(step, 0, 0, outputs[step, 2:], stream="unconditional")
    for calibration in (halves, merged, streams):
        for name in (*whole.forecasters, "affine"):
            for metric in ("cosine", "l2"):
                np.testing.assert_allclose(
                    calibration.errors(name, metric), whole.errors(name, metric), rtol=1e-9
                )


def test_segments_and_tensors_do_not_mix() -> None:
    calibration = _calibration(num_segments=2, num_tensors=3)
    outputs = [_runs(6), _runs(7, shape=(7,))]
    for step in range(STEPS):
        calibration.observe(step, 0, 2, outputs[0][step])
        calibration.observe(step, 1, 0, outputs[1][step])
    errors = calibration.errors("reuse")
    for (segment, tensor), run in (((0, 2), outputs[0]), ((1, 0), outputs[1])):
        alone = _calibration()
        _observe(alone, run)
        np.testing.assert_array_equal(
            errors[:, :, segment, tensor], alone.errors("reuse")[..., 0, 0]
        )
    assert np.isnan(errors[:, :, 0, :2]).all()


def test_a_resumed_calibration_goes_on() -> None:
    straight, first = _calibration(), _calibration()
    for calibration in (straight, first):
        _observe(calibration, _runs(8))
    resumed = _calibration()
    state = first.state_dict()
    resumed.load_state_dict(state)
    _observe(first, _runs(9))  # the state is a copy
    for calibration in (straight, resumed):
        _observe(calibration, _runs(10))
    for name, tensor in straight.state_dict().items():
        assert tensor.dtype == torch.float64
        assert torch.equal(tensor, resumed.state_dict()[name])
    old = {name: tensor for name, tensor in state.items() if name != "gram"}
    with pytest.raises(ValueError, match=r"must hold .*another genaccel; measure anew"):
        resumed.load_state_dict(old)
    with pytest.raises(ValueError, match="errors of the calibration state must be"):
        CalibrationMoments(num_steps=3, max_interval=2).load_state_dict(state)


def test_memory_is_bounded_by_the_ring() -> None:
    outputs = _runs(11).half()
    one = outputs[0].numel() * 2
    # Besides a projection of each, which is in float32 and of outputs so small all of them.
    projections = STEPS * 2 * one
    for depth, taylor, expected in ((None, (1, 2), 9), (None, (), 3), (4, (1, 2), 4)):
        calibration = _calibration(taylor_orders=taylor, ring_depth=depth)
        _observe(calibration, outputs)
        assert calibration.bytes_held == min(expected, STEPS) * one + projections
        calibration.start_generation()
        assert calibration.bytes_held == 0
    short = _calibration(ring_depth=WIDTH)
    _observe(short, outputs)
    assert np.isnan(short.errors("taylor1")[:, WIDTH - 1]).all()
    assert not np.isnan(short.errors("taylor1")[3:, :2]).any()


def test_the_ring_keeps_what_the_sampler_overwrites() -> None:
    outputs = _runs(12)
    expected, calibration = _calibration(), _calibration()
    _observe(expected, outputs)
    buffer = torch.empty_like(outputs[0])
    for step, output in enumerate(outputs):
        calibration.observe(step, 0, 0, buffer.copy_(output))
    np.testing.assert_array_equal(calibration.errors("reuse"), expected.errors("reuse"))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_sums_of_16_bit_outputs_lose_nothing(dtype: torch.dtype) -> None:
    outputs = (_runs(13) * 50 + 100).to(dtype)
    low, high = _calibration(), _calibration()
    _observe(low, outputs)
    _observe(high, outputs.double())
    for metric in METRICS:
        for name in low.forecasters:
            np.testing.assert_allclose(
                low.errors(name, metric), high.errors(name, metric), rtol=1e-6
            )
    np.testing.assert_allclose(low.errors("affine", "l2"), high.errors("affine", "l2"), rtol=1e-12)


def test_errors_of_near_equal_outputs_keep_their_digits() -> None:
    fresh = torch.randn(1, 4096, generator=torch.Generator().manual_seed(0)).double()
    orthogonal = torch.randn(1, 4096, generator=torch.Generator().manual_seed(1)).double()
    orthogonal -= (orthogonal @ fresh.T) / (fresh @ fresh.T) * fresh
    orthogonal *= fresh.norm() / orthogonal.norm()
    for angle in (1e-2, 1e-6):
        turned = fresh * np.cos(angle) + orthogonal * np.sin(angle)
        cosine, _, l2 = relative_errors(turned, fresh)[:, 0]
        assert float(cosine) == pytest.approx(angle**2 / 2, rel=1e-4)
        assert float(l2) == pytest.approx(angle, rel=1e-4)


def test_zero_outputs_have_finite_errors() -> None:
    zero, one = torch.zeros(1, 4), torch.ones(1, 4)
    assert relative_errors(zero, zero).flatten().tolist() == [0, 0, 0]
    assert relative_errors(one, zero).flatten().tolist() == [1, 1, 1]
    assert relative_errors(zero, one).flatten().tolist() == [1, 1, 1]
    calibration = _calibration()
    _observe(calibration, torch.zeros(STEPS, 1, 4))
    for name in (*calibration.forecasters, "affine"):
        assert np.nanmax(calibration.errors(name, "cosine")) == 0


def test_bad_observations_are_refused_and_not_counted() -> None:
    calibration = _calibration(num_segments=2)
    outputs = _runs(14)
    for step in range(3):
        calibration.observe(step, 0, 0, outputs[step])
    before = calibration.state_dict()
    for arguments, message in (
        ((9, 0, 0), "step must be from 0 to 8, got 9"),
        ((3, 2, 0), "segment must be from 0 to 1, got 2"),
        ((3, 0, 1), "tensor must be from 0 to 0, got 1"),
        ((2, 0, 0), "does not follow step 2; call start_generation"),
        ((4, 0, 0), "does not follow step 2"),
    ):
        with pytest.raises(ValueError, match=message):
            calibration.observe(*arguments, outputs[3])
    with pytest.raises(ValueError, match=r"was \[2, 4, 5\] and is \[1, 4, 5\] at step 3"):
        calibration.observe(3, 0, 0, outputs[3, :1])
    with pytest.raises(ValueError, match="tensor 0 at step 3 is not finite"):
        calibration.observe(3, 0, 0, outputs[3] / 0)
    for name, tensor in calibration.state_dict().items():
        assert torch.equal(tensor, before[name])
    calibration.observe(3, 0, 0, outputs[3])


def test_bad_options_are_refused() -> None:
    with pytest.raises(ValueError, match="num_steps must be at least 1"):
        CalibrationMoments(num_steps=0, max_interval=2)
    with pytest.raises(ValueError, match="ring_depth must be at least max_interval, 3, got 2"):
        _calibration(ring_depth=2)
    with pytest.raises(ValueError, match="order must be 1 or 2"):
        _calibration(taylor_orders=(3,))
    with pytest.raises(ValueError, match="cannot merge"):
        _calibration().merge(_calibration(num_segments=2))
    with pytest.raises(ValueError, match="forecaster must be"):
        _calibration().errors("taylor9")
    with pytest.raises(ValueError, match="metric must be"):
        _calibration().errors("reuse", "l3")
