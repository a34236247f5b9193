# SPDX-License-Identifier: Apache-2.0
"""Paired comparison of two methods on the same samples, for ``bench/soda.py``."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import scipy.stats

from bench._sensitivity.quality import Quality

# Distances of equal pictures are 0, of which there is no logarithm; 8 bits tell none as small as this.
_LEAST_DISTANCE = 1e-7


@dataclass(frozen=True, slots=True)
class Interval:
    """A mean over samples, and where it lies with 95 % confidence.

    Attributes:
        mean: Of the samples.
        low: Lower end.
        high: Upper end.
    """

    mean: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Against:
    """Ours against another method, sample by sample.

    Attributes:
        psnr: Decibels of ours less those of the other; above 0 ours is closer to the plain samples.
        st_lpips: Distances of the other over ours, geometric mean; above 1 ours is closer. None
            without the metric.
    """

    psnr: Interval
    st_lpips: Interval | None


def paired_interval(differences: Sequence[float], *, confidence: float = 0.95) -> Interval:
    """Student's interval for the mean of differences of pairs.

    Args:
        differences: One for each sample, independent of each other.
        confidence: That the true mean is within.

    Raises:
        ValueError: If there are fewer than two.

    Example:
        >>> paired_interval([1.0, 1.0, 1.0])
        Interval(mean=1.0, low=1.0, high=1.0)
    """
    count = len(differences)
    if count < 2:
        raise ValueError(f"an interval needs at least 2 samples, got {count}")
    mean = statistics.fmean(differences)
    quantile = float(scipy.stats.t.ppf((1 + confidence) / 2, count - 1))
    half = quantile * statistics.stdev(differences, mean) / math.sqrt(count)
    return Interval(mean, mean - half, mean + half)


def against(ours: Quality, other: Quality) -> Against:
    """Compare what two methods made of the same samples."""
    psnr = paired_interval([a - b for a, b in zip(ours.psnrs, other.psnrs, strict=True)])
    if ours.distances is None or other.distances is None:
        return Against(psnr, None)
    logarithms = paired_interval(
        [
            math.log(max(b, _LEAST_DISTANCE) / max(a, _LEAST_DISTANCE))
            for a, b in zip(ours.distances, other.distances, strict=True)
        ]
    )
    return Against(
        psnr,
        Interval(*(math.exp(x) for x in (logarithms.mean, logarithms.low, logarithms.high))),
    )


def nearest(intervals: Mapping[str, Interval]) -> tuple[str, Interval]:
    """The other method that comes closest to ours by its interval, and that interval.

    To be ahead of the best is to be ahead of all: the lower end is the lowest of all of them.

    Raises:
        ValueError: If there are none.
    """
    if not intervals:
        raise ValueError("intervals must hold at least one other method")
    name = min(intervals, key=lambda n: intervals[n].mean)
    chosen = intervals[name]
    return name, Interval(chosen.mean, min(i.low for i in intervals.values()), chosen.high)
