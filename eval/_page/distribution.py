# SPDX-License-Identifier: Apache-2.0
"""How the values of many images are distributed: mean with its interval, spread, and counts by bins."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean, median, stdev

_CONFIDENCE = 0.95


@dataclass(frozen=True, kw_only=True, slots=True)
class Distribution:
    """Values of a metric over images.

    Attributes:
        values: The finite ones, in ascending order.
        num_above: How many are infinite.
        num_below: How many are minus infinity.
        num_missing: How many images have no value.
    """

    values: Sequence[float]
    num_above: int = 0
    num_below: int = 0
    num_missing: int = 0

    @classmethod
    def of(cls, values: Iterable[float | None]) -> Distribution:
        """Sort values by what they are; None and NaN are missing."""
        every = list(values)
        known = [float(v) for v in every if v is not None and not math.isnan(v)]
        return cls(
            values=sorted(v for v in known if math.isfinite(v)),
            num_above=known.count(math.inf),
            num_below=known.count(-math.inf),
            num_missing=len(every) - len(known),
        )

    @property
    def mean(self) -> float | None:
        """Of the finite values; None without any."""
        return fmean(self.values) if self.values else None

    @property
    def median(self) -> float | None:
        """Of all values, infinite ones included; None without any."""
        ordered = [-math.inf] * self.num_below + [*self.values] + [math.inf] * self.num_above
        # Two middle values of opposite infinities have no mean.
        found = median(ordered) if ordered else math.nan
        return None if math.isnan(found) else found

    @property
    def deviation(self) -> float | None:
        """Standard deviation of the finite values, with n - 1; None for fewer than two."""
        return stdev(self.values) if len(self.values) > 1 else None

    @property
    def interval(self) -> tuple[float, float] | None:
        """95 % interval of the mean by Student's t over images; None for fewer than two.

        It tells how far another sample of as many images would move the mean, if images are independent.
        """
        if self.mean is None or self.deviation is None:
            return None
        from scipy.special import stdtrit

        count = len(self.values)
        quantile = float(stdtrit(count - 1, (1 + _CONFIDENCE) / 2))
        half = quantile * self.deviation / math.sqrt(count)
        return self.mean - half, self.mean + half

    def histogram(self, low: float, high: float, num_bins: int) -> list[int]:
        """Counts of the finite values in bins of equal width; the last bin holds its upper end.

        Args:
            low: Where the first bin begins.
            high: Where the last one ends, above ``low``.
            num_bins: At least 1.
        """
        counts = [0] * num_bins
        for value in self.values:
            place = int((value - low) / (high - low) * num_bins)
            counts[min(max(place, 0), num_bins - 1)] += 1
        return counts


def round_ticks(low: float, high: float, count: int) -> list[float]:
    """About ``count`` round numbers from ``low`` to ``high``.

    Example:
        >>> round_ticks(21.3, 39.8, 4)
        [25.0, 30.0, 35.0]
    """
    rough = (high - low) / count
    power = 10.0 ** math.floor(math.log10(rough))
    step = power * next((factor for factor in (1, 2, 5) if factor * power >= rough), 10)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    # Twelve digits: 3 * 0.1 is 0.30000000000000004.
    return [float(f"{k * step:.12g}") for k in range(first, last + 1)]
