# SPDX-License-Identifier: Apache-2.0
"""Chooses the steps that a plan of outputs computes, the times they stand for, and the forecasts between them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from genaccel.sensitivity.time_windows import hat_windows


@dataclass(frozen=True, slots=True, eq=False)
class OutputChoice:
    """What a plan of outputs does.

    Attributes:
        computed: Steps that are computed, ``[S]``.
        orders: Degree of the polynomial that forecasts each other one, ``[S]``.
        time_weights: Windows of the computed ones, ``[S, W]``, or None for their own times.
        price: Of it, lower is better; NaN where nothing was measured.
    """

    computed: NDArray[np.bool_]
    orders: NDArray[np.intp]
    time_weights: NDArray[np.float32] | None
    price: float


def plan_outputs(
    gram: NDArray[np.float64],
    gains: NDArray[np.float64] | None,
    *,
    count: int,
    max_interval: int,
) -> OutputChoice:
    """The choice for a number of computed steps."""
    computed = spread_steps(len(gram), count)
    return OutputChoice(computed, np.full(len(gram), 2), hat_windows(computed), float("nan"))


def fewest_computed(steps: int, max_interval: int) -> int:
    """Steps that have to be computed where none may be further than that from the one before."""
    first = min(2, steps)
    return first + max(0, -(-(steps - first - max_interval + 1) // max_interval))


def spread_steps(steps: int, count: int) -> NDArray[np.bool_]:
    """Two steps first, then one in equal distances, ``[S]``."""
    first = min(2, steps, count)
    mask = np.arange(steps) < first
    place = np.arange(1, count - first + 1)
    if place.size:
        interval = (steps - first + 1) / (count - first + 1)
        mask[np.minimum(first - 1 + np.rint(place * interval).astype(np.intp), steps - 1)] = True
    return mask
