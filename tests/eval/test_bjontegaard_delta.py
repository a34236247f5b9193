# SPDX-License-Identifier: Apache-2.0
import math
import warnings

import numpy as np
import pytest

from genaccel.eval._rate.classical_codecs import ClassicalFormat, decode_classical, encode_classical
from genaccel.eval.bjontegaard_delta import Curve, bd_quality, bd_rate
from genaccel.eval.held_out import held_out_photographs
from genaccel.eval.psnr import psnr

ANCHOR = Curve(rates=[0.1, 0.2, 0.4, 0.8], qualities=[30.0, 33.0, 35.5, 37.0])


def _scaled(curve: Curve, factor: float) -> Curve:
    return Curve(rates=[factor * rate for rate in curve.rates], qualities=curve.qualities)


def _random_curve(random: np.random.Generator) -> Curve:
    count = int(random.integers(4, 9))
    order = random.permutation(count)
    rates = 0.05 * np.cumprod(random.uniform(1.2, 2.0, count))
    qualities = random.uniform(28, 29) + np.cumsum(random.uniform(0.2, 3.0, count))
    return Curve(rates=rates[order].tolist(), qualities=qualities[order].tolist())


@pytest.mark.parametrize("factor", [0.5, 1.0, 1.25])
def test_a_scaled_rate_is_the_percentage(factor: float) -> None:
    result = bd_rate(ANCHOR, _scaled(ANCHOR, factor))
    assert result.percent == pytest.approx(100 * (factor - 1), abs=1e-10)
    assert result.interval == (30.0, 37.0)
    assert (result.overlap_anchor, result.overlap_test) == (1.0, 1.0)


def test_a_shifted_quality_is_the_difference() -> None:
    better = Curve(rates=ANCHOR.rates, qualities=[q + 0.75 for q in ANCHOR.qualities])
    result = bd_quality(ANCHOR, better)
    assert result.difference == pytest.approx(0.75)
    assert result.interval == pytest.approx((0.1, 0.8))
    assert bd_quality(better, ANCHOR).difference == pytest.approx(-0.75)
    assert bd_rate(ANCHOR, better).percent < 0


def test_the_order_of_the_points_does_not_matter() -> None:
    test = Curve(rates=[0.7, 0.11, 0.31, 0.2], qualities=[37.1, 30.5, 34.6, 32.9])
    order = [1, 3, 2, 0]
    sorted_test = Curve(
        rates=[test.rates[i] for i in order], qualities=[test.qualities[i] for i in order]
    )
    assert bd_rate(ANCHOR, test) == bd_rate(ANCHOR, sorted_test)
    assert bd_quality(ANCHOR, test) == bd_quality(ANCHOR, sorted_test)


def test_lower_is_better_mirrors_higher_is_better() -> None:
    random = np.random.default_rng(0)
    for _ in range(10):
        curves = [_random_curve(random) for _ in range(2)]
        mirrored = [Curve(rates=c.rates, qualities=[-q for q in c.qualities]) for c in curves]
        rate = bd_rate(*curves, force=True)
        low_rate = bd_rate(*mirrored, higher_is_better=False, force=True)
        assert low_rate.percent == rate.percent
        assert low_rate.interval == (-rate.interval[1], -rate.interval[0])
        assert low_rate.overlap_test == rate.overlap_test
        quality = bd_quality(*curves, force=True)
        low_quality = bd_quality(*mirrored, higher_is_better=False, force=True)
        assert low_quality.difference == pytest.approx(-quality.difference, abs=1e-12)


@pytest.mark.parametrize(
    ("test", "message"),
    [
        (
            Curve(rates=[1, 2, 3], qualities=[1, 2, 3]),
            "test curve must have at least 4 points, got 3",
        ),
        (Curve(rates=[1, 2, 3, 4], qualities=[1, 2, 3]), "got 4 rates and 3 qualities"),
        (Curve(rates=[1, 2, 3, 4], qualities=[1, 2, 3, math.inf]), "not finite"),
        (Curve(rates=[1, 2, 3, math.nan], qualities=[1, 2, 3, 4]), "not finite"),
        (Curve(rates=[0, 2, 3, 4], qualities=[1, 2, 3, 4]), "positive rates, got 0"),
        (Curve(rates=[1, 2, 2, 4], qualities=[1, 2, 3, 4]), "has the rate 2 twice"),
        (
            Curve(rates=[1, 2, 3, 4], qualities=[1, 3, 2.5, 4]),
            "test curve does not get better from rate 2 to 3: 3, then 2.5",
        ),
        (Curve(rates=[1, 2, 3, 4], qualities=[1, 2, 2, 4]), "does not get better from rate 2 to 3"),
        (
            Curve(rates=[1, 2, 3, 4], qualities=[40, 41, 42, 43]),
            "do not overlap: the anchor has qualities 30 to 37, the test curve 40 to 43",
        ),
        (
            Curve(rates=[0.1, 0.2, 0.3, 0.4], qualities=[35, 36, 37, 38]),
            (
                "over 28.6% of the anchor and 66.7% of the test curve, less than 50%: "
                "the anchor has qualities 30 to 37, the test curve 35 to 38"
            ),
        ),
    ],
)
def test_curves_that_cannot_be_compared_are_refused(test: Curve, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        bd_rate(ANCHOR, test)


def test_messages_show_the_values_of_a_metric_where_lower_is_better() -> None:
    anchor = Curve(rates=[1, 2, 3, 4], qualities=[0.4, 0.3, 0.2, 0.1])
    with pytest.raises(ValueError, match=r"from rate 2 to 3: 0.3, then 0.35"):
        bd_rate(
            anchor,
            Curve(rates=[1, 2, 3, 4], qualities=[0.4, 0.3, 0.35, 0.1]),
            higher_is_better=False,
        )
    with pytest.raises(ValueError, match=r"qualities 0.1 to 0.4, the test curve 0.5 to 0.8"):
        bd_rate(
            anchor,
            Curve(rates=[1, 2, 3, 4], qualities=[0.8, 0.7, 0.6, 0.5]),
            higher_is_better=False,
        )


def test_a_small_overlap_can_be_forced_and_none_cannot() -> None:
    test = Curve(rates=[0.1, 0.2, 0.3, 0.4], qualities=[35, 36, 37, 38])
    result = bd_rate(ANCHOR, test, force=True)
    assert result.interval == (35.0, 37.0)
    assert result.overlap_anchor == pytest.approx(2 / 7)
    assert result.overlap_test == pytest.approx(2 / 3)
    assert bd_rate(ANCHOR, test, min_overlap=0.28) == result
    apart = Curve(rates=[0.1, 0.2, 0.3, 0.4], qualities=[37, 38, 39, 40])
    with pytest.raises(ValueError, match="do not overlap"):
        bd_rate(ANCHOR, apart, force=True)
    with pytest.raises(ValueError, match=r"rates 0.1 to 0.8, the test curve 1 to 8"):
        bd_quality(ANCHOR, _scaled(ANCHOR, 10), force=True)
    with pytest.raises(ValueError, match="min_overlap must be within 0 to 1, got 50"):
        bd_rate(ANCHOR, test, min_overlap=50)


def _reference(anchor: Curve, test: Curve) -> tuple[float, float]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # matplotlib comes along, with deprecations of its own
        bjontegaard = pytest.importorskip("bjontegaard", reason="needs `pip install bjontegaard`")
    arguments = []
    for curve in (anchor, test):
        order = np.argsort(curve.rates)
        arguments += [np.asarray(curve.rates)[order], np.asarray(curve.qualities)[order]]
    options = {"method": "pchip", "require_matching_points": False, "min_overlap": 0}
    return (
        float(bjontegaard.bd_rate(*arguments, **options)),
        float(bjontegaard.bd_psnr(*arguments, **options)),
    )


@pytest.mark.golden
def test_random_curves_give_the_values_of_the_bjontegaard_package() -> None:
    random = np.random.default_rng(1)
    for _ in range(25):
        anchor, test = _random_curve(random), _random_curve(random)
        percent, difference = _reference(anchor, test)
        assert bd_rate(anchor, test, force=True).percent == pytest.approx(percent, abs=1e-3)
        assert bd_quality(anchor, test, force=True).difference == pytest.approx(
            difference, abs=1e-6
        )


@pytest.mark.golden
def test_jpeg_and_webp_give_the_values_of_the_bjontegaard_package() -> None:
    image = held_out_photographs()["chelsea"]

    def curve(format: ClassicalFormat, qualities: list[int]) -> Curve:
        files = [encode_classical(image, format, quality=quality) for quality in qualities]
        return Curve(
            rates=[8 * len(file) * 3 / image.size for file in files],
            qualities=[psnr(image, decode_classical(file)) for file in files],
        )

    jpeg, webp = curve("jpeg", [10, 20, 40, 70]), curve("webp", [1, 10, 30, 60, 80])
    result = bd_rate(jpeg, webp)
    percent, difference = _reference(jpeg, webp)
    assert result.percent == pytest.approx(percent, abs=1e-3)
    assert result.percent < -20  # WebP needs fewer bits than JPEG
    assert bd_quality(jpeg, webp).difference == pytest.approx(difference, abs=1e-6)
