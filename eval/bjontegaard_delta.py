# SPDX-License-Identifier: Apache-2.0
"""Average distance of two rate-distortion curves (Bjontegaard: ITU-T SG16 VCEG-M33, 2001).

BD-rate is the difference in bits at equal quality, BD-quality the difference in quality at equal bits. The
curves are interpolated in the logarithm of the rate, piecewise cubic and monotone (PCHIP) as in the
spreadsheets of JCT-VC and JVET since 2012; the report itself took one cubic through four points, which may
swing between them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

# With fewer points the shape between them is a guess; VCEG-M33 asks for four.
MIN_POINTS = 4


@dataclass(frozen=True, kw_only=True, slots=True)
class Curve:
    """Points of a codec, in any order.

    Attributes:
        rates: Positive, in any unit that both curves share: bits per pixel, bytes, kbit/s.
        qualities: Value of the metric at each rate.
    """

    rates: Sequence[float]
    qualities: Sequence[float]


@dataclass(frozen=True, kw_only=True, slots=True)
class BdResult:
    """Difference in rate at equal quality.

    Attributes:
        percent: Negative where the test curve needs fewer bits.
        interval: Qualities over which the curves were compared, lowest first.
        overlap_anchor: Share of the anchor's range of qualities that they are.
        overlap_test: Share of the test curve's range.
    """

    percent: float
    interval: tuple[float, float]
    overlap_anchor: float
    overlap_test: float


@dataclass(frozen=True, kw_only=True, slots=True)
class BdQuality:
    """Difference in quality at equal rate.

    Attributes:
        difference: Test minus anchor, in the metric's unit: for a metric where lower is better, negative is
            better.
        interval: Rates over which the curves were compared, lowest first.
        overlap_anchor: Share of the anchor's range of log-rates that they are.
        overlap_test: Share of the test curve's range.
    """

    difference: float
    interval: tuple[float, float]
    overlap_anchor: float
    overlap_test: float


def bd_rate(
    anchor: Curve,
    test: Curve,
    *,
    higher_is_better: bool = True,
    min_overlap: float = 0.5,
    force: bool = False,
) -> BdResult:
    """Mean difference in rate of two curves at equal quality, in percent of the anchor's rate.

    Args:
        anchor: Curve that counts as 100 %.
        test: Curve that is compared with it.
        higher_is_better: Direction of the metric.
        min_overlap: Least share of each curve's range of qualities that both must have, within 0 to 1.
        force: Accept any overlap but none.

    Raises:
        ValueError: If a curve has fewer than four points, values that are not finite, a rate that is not
            positive or comes twice, or a quality that does not grow with the rate; or if the curves
            have too few qualities in common.
        ImportError: If SciPy is missing.

    Example:
        >>> anchor = Curve(rates=[0.1, 0.2, 0.4, 0.8], qualities=[30, 33, 36, 39])
        >>> test = Curve(rates=[0.09, 0.18, 0.36, 0.72], qualities=[30, 33, 36, 39])
        >>> round(bd_rate(anchor, test).percent, 6)
        -10.0
    """
    sign = 1.0 if higher_is_better else -1.0
    logs_a, qualities_a = _checked(anchor, "anchor", sign)
    logs_t, qualities_t = _checked(test, "test", sign)
    # In the metric's own values, so that messages and results show what the user measured.
    ranges = [_ordered(sign * q[0], sign * q[-1]) for q in (qualities_a, qualities_t)]
    interval, shares = _overlap(ranges, ranges, "qualities", 0.0 if force else min_overlap)
    low, high = _ordered(sign * interval[0], sign * interval[1])
    difference = _mean(qualities_t, logs_t, low, high) - _mean(qualities_a, logs_a, low, high)
    return BdResult(
        percent=float(np.expm1(difference * np.log(10.0))) * 100.0,
        interval=interval,
        overlap_anchor=shares[0],
        overlap_test=shares[1],
    )


def bd_quality(
    anchor: Curve,
    test: Curve,
    *,
    higher_is_better: bool = True,
    min_overlap: float = 0.5,
    force: bool = False,
) -> BdQuality:
    """Mean difference in quality of two curves at equal rate, in the metric's unit.

    Args:
        anchor: Curve that is subtracted.
        test: Curve that is compared with it.
        higher_is_better: Direction of the metric.
        min_overlap: Least share of each curve's range of log-rates that both must have, within 0 to 1.
        force: Accept any overlap but none.

    Raises:
        ValueError: As :func:`bd_rate`.
        ImportError: If SciPy is missing.

    Example:
        >>> anchor = Curve(rates=[0.1, 0.2, 0.4, 0.8], qualities=[30, 33, 36, 39])
        >>> test = Curve(rates=[0.1, 0.2, 0.4, 0.8], qualities=[31, 34, 37, 40])
        >>> round(bd_quality(anchor, test).difference, 6)
        1.0
    """
    sign = 1.0 if higher_is_better else -1.0
    logs_a, qualities_a = _checked(anchor, "anchor", sign)
    logs_t, qualities_t = _checked(test, "test", sign)
    logs = [(float(x[0]), float(x[-1])) for x in (logs_a, logs_t)]
    ranges = [(10.0**low, 10.0**high) for low, high in logs]
    (low, high), shares = _overlap(logs, ranges, "rates", 0.0 if force else min_overlap)
    difference = _mean(logs_t, qualities_t, low, high) - _mean(logs_a, qualities_a, low, high)
    return BdQuality(
        difference=sign * difference,
        interval=(10.0**low, 10.0**high),
        overlap_anchor=shares[0],
        overlap_test=shares[1],
    )


def _checked(
    curve: Curve, name: str, sign: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Log-rates in ascending order, and ``sign`` times the qualities, which then ascend too."""
    rates = np.asarray(curve.rates, np.float64)
    qualities = np.asarray(curve.qualities, np.float64)
    if rates.ndim != 1 or rates.shape != qualities.shape:
        raise ValueError(
            f"the {name} curve must have one quality for each rate, "
            f"got {rates.size} rates and {qualities.size} qualities"
        )
    if rates.size < MIN_POINTS:
        raise ValueError(
            f"the {name} curve must have at least {MIN_POINTS} points, got {rates.size}"
        )
    if not (np.isfinite(rates).all() and np.isfinite(qualities).all()):
        raise ValueError(f"the {name} curve has values that are not finite")
    if rates.min() <= 0:
        raise ValueError(f"the {name} curve must have positive rates, got {rates.min():g}")
    order = np.argsort(rates)
    rates, qualities = rates[order], sign * qualities[order]
    for i in range(rates.size - 1):
        if rates[i] == rates[i + 1]:
            raise ValueError(f"the {name} curve has the rate {rates[i]:g} twice")
        if qualities[i] >= qualities[i + 1]:
            raise ValueError(
                f"the {name} curve does not get better from rate {rates[i]:g} to {rates[i + 1]:g}: "
                f"{sign * qualities[i]:g}, then {sign * qualities[i + 1]:g}"
            )
    return np.log10(rates), qualities


def _overlap(
    ranges: Sequence[tuple[float, float]],
    shown: Sequence[tuple[float, float]],
    unit: str,
    min_overlap: float,
) -> tuple[tuple[float, float], tuple[float, float]]:
    """The part that two ranges have in common, and its share of each; ``shown`` are their names in messages."""
    if not 0.0 <= min_overlap <= 1.0:
        raise ValueError(f"min_overlap must be within 0 to 1, got {min_overlap}")
    (low_a, high_a), (low_t, high_t) = ranges
    low, high = max(low_a, low_t), min(high_a, high_t)
    words = (
        f"the anchor has {unit} {shown[0][0]:.6g} to {shown[0][1]:.6g}, "
        f"the test curve {shown[1][0]:.6g} to {shown[1][1]:.6g}"
    )
    if low >= high:
        raise ValueError(f"the curves do not overlap: {words}")
    shares = (high - low) / (high_a - low_a), (high - low) / (high_t - low_t)
    if min(shares) < min_overlap:
        raise ValueError(
            f"the curves overlap over {shares[0]:.1%} of the anchor and {shares[1]:.1%} of the test "
            f"curve, less than {min_overlap:.0%}: {words}"
        )
    return (low, high), shares


def _mean(x: NDArray[np.float64], y: NDArray[np.float64], low: float, high: float) -> float:
    """Mean of the interpolated ``y`` over an interval of ``x``."""
    try:
        from scipy.interpolate import PchipInterpolator
    except ImportError as error:
        raise ImportError(
            "Bjontegaard deltas need SciPy: run `pip install 'genaccel[eval]'`"
        ) from error
    return float(PchipInterpolator(x, y).integrate(low, high)) / (high - low)


def _ordered(a: float, b: float) -> tuple[float, float]:
    return float(min(a, b)), float(max(a, b))
