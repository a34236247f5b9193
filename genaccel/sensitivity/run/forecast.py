# SPDX-License-Identifier: Apache-2.0
"""Forecasters: they forecast what skipped computations would have returned, from their last outputs.

Every forecast is a weighted sum of cached tensors plus a number, so that one multi-tensor kernel
runs them all: ``forecast = offset + sum_i coefficients[i] * cached[i]``, the newest tensor first.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

# Slopes of the affine corrector come from at least so much variance of the cached values, relative
# to their mean square: below it, the float64 sums hold rounding and no signal.
_LEAST_RELATIVE_VARIANCE = 1e-10


class Forecaster(Protocol):
    """A linear forecast, given by the weights of the outputs of the last computed steps."""

    @property
    def name(self) -> str:
        """Name of the forecaster in plans."""

    @property
    def history(self) -> int:
        """Number of computed outputs that it needs."""

    def coefficients(self, step: int, computed_steps: Sequence[int]) -> list[float]:
        """Weights of the newest ``min(history, len(computed_steps))`` outputs.

        Args:
            step: Step to forecast.
            computed_steps: Steps of the cached outputs, the newest first.

        Raises:
            ValueError: If there is none, or they do not descend from below ``step``.
        """

    def offset(self, step: int, computed_steps: Sequence[int]) -> float:
        """Number to add to each element of the weighted sum, 0 unless said; arguments as for :meth:`coefficients`."""
        return 0.0


def _check_steps(step: float, computed_steps: Sequence[float]) -> None:
    if not computed_steps:
        raise ValueError("a forecast needs at least one computed step")
    previous = step
    for computed in computed_steps:
        if not computed < previous:
            raise ValueError(
                "computed_steps must come before the forecast step, the newest first, "
                f"got {list(computed_steps)} for step {step}"
            )
        previous = computed


class Reuse(Forecaster):
    """The newest output as it is: the plain cache of SODA, arXiv:2603.07057.

    Example:
        >>> Reuse().coefficients(5, [3, 0])
        [1.0]
    """

    name = "reuse"
    history = 1

    def coefficients(self, step: int, computed_steps: Sequence[int]) -> list[float]:
        """The single weight 1, whatever the distance of the steps."""
        _check_steps(step, computed_steps)
        return [1.0]


class Taylor(Forecaster):
    """A polynomial through the last ``order + 1`` computed outputs, evaluated ahead.

    Equal to the finite-difference Taylor series of TaylorSeer (arXiv:2503.06923) for order 1.
    TaylorSeer's second order weighs the second difference by ``k^2 / 2``, which is not exact on
    parabolas and takes evenly spaced steps for granted; the weights here are Lagrange's, exact on
    polynomials of degree ``order`` for any spacing. With fewer outputs than that, the order is
    lower, down to plain reuse.

    Args:
        order: Degree, 1 or 2. Higher ones amplify the noise of 16-bit caches.

    Raises:
        ValueError: If the order is another.

    Example:
        >>> Taylor(1).coefficients(5, [4, 2])
        [1.5, -0.5]
        >>> Taylor(2).coefficients(6, [4, 3, 1])
        [5.0, -5.0, 1.0]
    """

    def __init__(self, order: int) -> None:
        if order not in (1, 2):
            raise ValueError(f"order must be 1 or 2, got {order}")
        self.order = order

    @property
    def name(self) -> str:
        """Name of the forecaster in plans."""
        return f"taylor{self.order}"

    @property
    def history(self) -> int:
        """Number of computed outputs that it needs."""
        return self.order + 1

    def coefficients(self, step: float, computed_steps: Sequence[float]) -> list[float]:
        """Lagrange weights of the last ``order + 1`` outputs. Steps may be fractions, such as noise levels."""
        _check_steps(step, computed_steps)
        nodes = computed_steps[: self.history]
        return [
            math.prod(
                ((step - other) / (node - other) for other in nodes if other != node), start=1.0
            )
            for node in nodes
        ]


class Affine(Forecaster):
    """The newest output times ``a`` plus ``b``, fitted for each step and interval.

    Args:
        slope: ``a``, ``[S, K]``; column ``k - 1`` for interval ``k``.
        intercept: ``b``, of the same shape.

    Raises:
        ValueError: If the shapes differ or hold what is not finite.

    Example:
        >>> affine = Affine([[1.0], [3.0]], [[0.0], [-1.0]])
        >>> affine.coefficients(1, [0]), affine.offset(1, [0])
        ([3.0], -1.0)
    """

    name = "affine"
    history = 1

    def __init__(self, slope: ArrayLike, intercept: ArrayLike) -> None:
        self.slope: NDArray[np.float64] = np.array(slope, dtype=np.float64)
        self.intercept: NDArray[np.float64] = np.array(intercept, dtype=np.float64)
        if self.slope.ndim != 2 or self.slope.shape != self.intercept.shape:
            raise ValueError(
                "slope and intercept must both be [steps, intervals], "
                f"got {self.slope.shape} and {self.intercept.shape}"
            )
        if not (np.isfinite(self.slope).all() and np.isfinite(self.intercept).all()):
            raise ValueError("slope and intercept must be finite")

    def coefficients(self, step: int, computed_steps: Sequence[int]) -> list[float]:
        """The single weight ``a`` of the step and its interval."""
        return [float(self.slope[self._index(step, computed_steps)])]

    def offset(self, step: int, computed_steps: Sequence[int]) -> float:
        """The intercept ``b`` of the step and its interval."""
        return float(self.intercept[self._index(step, computed_steps)])

    def _index(self, step: int, computed_steps: Sequence[int]) -> tuple[int, int]:
        _check_steps(step, computed_steps)
        steps, width = self.slope.shape
        interval = step - computed_steps[0]
        if step >= steps or interval > width:
            raise ValueError(
                f"the affine corrector knows {steps} steps and intervals up to {width}, "
                f"got step {step} and interval {interval}"
            )
        return step, interval - 1


def affine_fit(
    n: ArrayLike, x: ArrayLike, y: ArrayLike, xx: ArrayLike, xy: ArrayLike
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Least squares of ``y = a x + b`` from sums, elementwise over arrays of any shape.

    Args:
        n: Numbers of values; where it is 0, the fit is plain reuse, ``a = 1`` and ``b = 0``.
        x: Sums of the cached values.
        y: Sums of the true values.
        xx: Sums of the squares of the cached values.
        xy: Sums of the products.

    Returns:
        ``a`` and ``b``. Where the cached values are constant, ``a = 1`` and ``b`` is the mean
        difference.

    Example:
        >>> a, b = affine_fit(2, 3.0, 8.0, 5.0, 13.0)  # y = 2 x + 1 at x = 1, 2
        >>> float(a), float(b)
        (2.0, 1.0)
    """
    n, x, y, xx, xy = (np.asarray(v, dtype=np.float64) for v in (n, x, y, xx, xy))
    count = np.maximum(n, 1.0)
    variance = xx / count - (x / count) ** 2
    covariance = xy / count - (x / count) * (y / count)
    fits = (n > 0) & (variance > _LEAST_RELATIVE_VARIANCE * xx / count)
    a: NDArray[np.float64] = np.where(fits, covariance / np.where(fits, variance, 1.0), 1.0)
    b: NDArray[np.float64] = np.where(n > 0, (y - a * x) / count, 0.0)
    return a, b
