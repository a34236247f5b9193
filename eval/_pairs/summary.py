# SPDX-License-Identifier: Apache-2.0
"""What many values of a metric come to: mean, spread, and how sure the mean is."""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import Any

import numpy as np

CONFIDENCE = 0.95
_RESAMPLES = 2000
_SEED = 0
# Indices in memory at a time.
_CHUNK = 1 << 20

INTERVAL_METHOD = (
    f"percentile bootstrap of the mean over images: {_RESAMPLES} resamples, seed {_SEED}"
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Summary:
    """Values of a metric in a few numbers.

    Attributes:
        mean: Of all values, so infinite if one of them is.
        num_infinite: How many are infinite, as PSNR is of equal images.
        mean_of_finite: Of the others; None if there are none.
        standard_deviation: Of the finite values, with divisor N - 1; None of fewer than two.
        interval: 95 % confidence interval of ``mean_of_finite``, as :data:`INTERVAL_METHOD` says; None of fewer than
            two values.
    """

    mean: float
    num_infinite: int
    mean_of_finite: float | None
    standard_deviation: float | None
    interval: tuple[float, float] | None

    def to_dict(self) -> dict[str, Any]:
        """The fields as a record has them, the mean first."""
        return {
            "mean": self.mean,
            "num_infinite": self.num_infinite,
            "mean_of_finite": self.mean_of_finite,
            "standard_deviation": self.standard_deviation,
            "confidence_interval": None if self.interval is None else list(self.interval),
            "confidence": CONFIDENCE,
            "confidence_method": INTERVAL_METHOD,
        }


def summarise(values: Collection[float]) -> Summary:
    """Mean and spread of at least one value.

    Example:
        >>> summary = summarise([30.0, 40.0, math.inf])
        >>> summary.mean, summary.num_infinite, summary.mean_of_finite
        (inf, 1, 35.0)
    """
    finite = [value for value in values if math.isfinite(value)]
    several = len(finite) > 1
    return Summary(
        mean=fmean(values),
        num_infinite=sum(math.isinf(value) for value in values),
        mean_of_finite=fmean(finite) if finite else None,
        standard_deviation=stdev(finite) if several else None,
        interval=bootstrap_interval(finite) if several else None,
    )


def bootstrap_interval(values: Collection[float]) -> tuple[float, float]:
    """Percentiles of the means of resamples (Efron 1979), which hold the mean with 95 % confidence.

    Args:
        values: At least two, finite.
    """
    x = np.asarray(list(values), dtype=np.float64)
    random = np.random.default_rng(_SEED)
    rows = max(1, _CHUNK // len(x))
    means = [
        x[random.integers(0, len(x), (min(rows, _RESAMPLES - done), len(x)))].mean(1)
        for done in range(0, _RESAMPLES, rows)
    ]
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(np.concatenate(means), [tail, 1 - tail])
    return float(low), float(high)
