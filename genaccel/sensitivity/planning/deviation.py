# SPDX-License-Identifier: Apache-2.0
"""Estimates how far a schedule carries the finished sample away, from the errors of all its steps together.

Prices of single edges (S4, arXiv:2603.07057) know neither which computed steps a forecast really
has behind it nor that errors of one sign add up where others cancel. Forecasts are weighted sums
of outputs, and so is the sum of their errors: inner products of the outputs
(:mod:`genaccel.sensitivity.measure.output_sketch`) give its length for any schedule. Ours.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

# Schedules that are priced at once, so that their arrays stay small.
_BATCH = 512
# A computed step is moved so far at once, at most.
_REACH = 4
# Computed steps that are shifted together, at most: bounds the time for long runs.
_LONGEST_SHIFT = 32
# Passes over the computed steps; the search ends before, where nothing gets better.
_MAX_PASSES = 30
# A change must be better than by rounding.
_LEAST_GAIN = 1e-9


@dataclass(frozen=True, slots=True, eq=False)
class Candidate:
    """A schedule, and what would forecast each of its steps.

    Attributes:
        mask: Computed steps, ``[S]``, bool.
        forecasters: Index of the forecaster of each step, ``[S]``; it does not count where the
            step is computed.
    """

    mask: NDArray[np.bool_]
    forecasters: NDArray[np.intp]


class Deviation:
    """Prices schedules.

    The price has two parts. One is the length of the sum of all errors, each times its effect on
    the finished sample, over the outputs' own length: what is left where errors cancel. The other
    takes no cancelling for granted, as an accelerated run is not quite the measured one: the sum of
    the lengths over the dearest interval ("minimax") or over all steps ("sum"). On a
    class-conditional DiT at 8 and 12 steps, either alone chose schedules up to 7 dB below the best;
    any sum of both with weights from 0.3 to 1 chose the best or one within 0.2 dB.

    Args:
        grams: For each tensor that a segment returns, its inner products at each two steps,
            ``[S, S]``; errors are root mean squares over these tensors.
        gains: Effect of an error at each step on the finished sample, ``[S]``.
        forecasters: Names of the forecasters, F: of "reuse", "taylor1" and "taylor2". The affine
            corrector is no sum of outputs: its weights differ from tensor to tensor.
        objective: How the second part of the price adds up errors.

    Attributes:
        num_priced: Schedules that were priced so far.

    Raises:
        ValueError: If there is no tensor, or a forecaster is unknown.
    """

    def __init__(
        self,
        grams: Sequence[NDArray[np.float64]],
        gains: NDArray[np.float64],
        forecasters: Sequence[str],
        *,
        objective: Literal["sum", "minimax"] = "minimax",
    ) -> None:
        if not len(grams):
            raise ValueError("no tensor was measured")
        self.num_steps = len(gains)
        self.num_forecasters = len(forecasters)
        self.num_priced = 0
        self._objective = objective
        known = {"reuse": 0, "taylor1": 1, "taylor2": 2}
        if not set(forecasters) <= set(known):
            raise ValueError(f"forecasters must be some of {sorted(known)}, got {forecasters}")
        self._orders = np.array([known[name] for name in forecasters])
        # Tensors count alike, however large they are. Forecasts of all have the same
        # weights, so their inner products may be added first.
        alike = [gram / np.diagonal(gram).mean() for gram in grams]
        self._gram: NDArray[np.float64] = np.mean(alike, axis=0)
        squares = np.diagonal(self._gram)
        lengths = np.sqrt(np.where(squares > 0, squares, 1.0))
        self._gains = np.asarray(gains, dtype=np.float64) / lengths

    def __call__(self, candidates: Sequence[Candidate]) -> NDArray[np.float64]:
        """Price of each candidate; its first step must be computed."""
        self.num_priced += len(candidates)
        prices = []
        for first in range(0, len(candidates), _BATCH):
            part = candidates[first : first + _BATCH]
            masks = np.stack([c.mask for c in part])
            total, errors = self._measure(masks, np.stack([c.forecasters for c in part]))
            if self._objective == "minimax":
                intervals = np.cumsum(masks, axis=1) - 1 + self.num_steps * _column(len(part))
                sums = np.bincount(intervals.ravel(), errors.ravel(), masks.size)
                prices.append(total + sums.reshape(masks.shape).max(axis=1))
            else:
                prices.append(total + errors.sum(axis=1))
        result: NDArray[np.float64] = np.concatenate(prices)
        return result

    def step_errors(self, candidate: Candidate) -> NDArray[np.float64]:
        """Length of the error of each step times its effect, ``[S]``; 0 where it is computed."""
        return self._measure(candidate.mask[None], candidate.forecasters[None])[1][0]

    def _measure(
        self, masks: NDArray[np.bool_], forecasters: NDArray[np.intp]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Length of the sum of all errors, ``[P]``, and of each error, ``[P, S]``."""
        count, steps = masks.shape
        step = np.broadcast_to(np.arange(steps), masks.shape)
        nodes, weights = _polynomials(masks, self._orders[forecasters])
        # Outputs that make up an error: the cached ones, and what is forecast.
        outputs = np.stack([*np.maximum(nodes, 0), step], axis=2)  # [P, S, 4]
        effect = np.where(masks, 0.0, self._gains)[..., None]
        shares = np.stack([*weights, np.full(masks.shape, -1.0)], axis=2) * effect
        inner = self._gram[outputs[..., :, None], outputs[..., None, :]]
        squares = np.einsum("psi,psij,psj->ps", shares, inner, shares)
        places = outputs + steps * _column(count)[..., None]
        summed = np.bincount(places.ravel(), shares.ravel(), count * steps).reshape(count, steps)
        total = np.einsum("pi,pi->p", summed @ self._gram, summed)
        return np.sqrt(np.maximum(total, 0)), np.sqrt(np.maximum(squares, 0))


def improve(
    candidate: Candidate,
    deviation: Deviation,
    *,
    max_interval: int,
    fixed: NDArray[np.bool_],
    most_priced: float = math.inf,
) -> tuple[float, Candidate]:
    """Move computed steps and change forecasters, one at a time, as long as the price falls.

    Args:
        candidate: Where to start from.
        deviation: What prices it.
        max_interval: Largest distance between computed steps, and from the last one to the end.
        fixed: Steps to leave as they are, ``[S]``.
        most_priced: The search ends when ``deviation`` has priced so many schedules.

    Returns:
        The price and the schedule, with as many computed steps.
    """
    best = float(deviation([candidate])[0])
    for _ in range(_MAX_PASSES):
        before = best
        for step in range(len(candidate.mask)):
            if not candidate.mask[step]:
                continue
            if deviation.num_priced >= most_priced:
                return best, candidate
            others = [
                *_moved(candidate, step, max_interval, fixed),
                *_forecast_anew(candidate, step, deviation.num_forecasters),
            ]
            if not others:
                continue
            prices = deviation(others)
            cheapest = int(prices.argmin())
            if prices[cheapest] < best * (1 - _LEAST_GAIN):
                best, candidate = float(prices[cheapest]), others[cheapest]
        if best == before:
            break
    return best, candidate


def is_allowed(mask: NDArray[np.bool_], max_interval: int) -> bool:
    """Whether the first step is computed, and none is further from the one before than may be."""
    nodes = [*np.flatnonzero(mask).tolist(), len(mask)]
    return bool(mask[0]) and max(b - a for a, b in itertools.pairwise(nodes)) <= max_interval


def _moved(
    candidate: Candidate, step: int, max_interval: int, fixed: NDArray[np.bool_]
) -> list[Candidate]:
    """Candidates that compute another step nearby instead of this one, or shift all up to some later one."""
    if fixed[step]:
        return []
    found = []
    for target in range(max(1, step - _REACH), min(len(fixed), step + _REACH + 1)):
        if candidate.mask[target] or fixed[target]:
            continue
        mask = candidate.mask.copy()
        mask[step], mask[target] = False, True
        found.append(Candidate(mask, candidate.forecasters))
    for way in (-1, 1):
        found += _shifted(candidate, step, way, fixed)
    return [c for c in found if is_allowed(c.mask, max_interval)]


def _shifted(
    candidate: Candidate, first: int, way: int, fixed: NDArray[np.bool_]
) -> list[Candidate]:
    """Candidates whose computed steps from this one to a later one are a step earlier or later.

    So one interval gets shorter and a distant one longer, which no move of a single step does.
    """
    steps = len(candidate.mask)
    nodes = [*np.flatnonzero(candidate.mask[first:])[:_LONGEST_SHIFT] + first, steps]
    found = []
    for last, end in itertools.pairwise(nodes):
        if fixed[last]:
            break
        edge = first - 1 if way < 0 else last + 1
        if not 0 < edge < steps or candidate.mask[edge] or fixed[edge]:
            continue
        mask, forecasters = candidate.mask.copy(), candidate.forecasters.copy()
        mask[first : last + 1] = False
        mask[first + way : last + 1 + way] |= candidate.mask[first : last + 1]
        # Intervals keep their forecasters.
        if way < 0:
            forecasters[first - 1 : end - 1] = candidate.forecasters[first:end]
        else:
            forecasters[first] = candidate.forecasters[first - 1]
            forecasters[first + 1 : end] = candidate.forecasters[first : end - 1]
        found.append(Candidate(mask, forecasters))
    return found


def _forecast_anew(candidate: Candidate, step: int, count: int) -> list[Candidate]:
    """Candidates with another forecaster between this computed step and the next one."""
    later = np.flatnonzero(candidate.mask[step + 1 :])
    end = step + 1 + int(later[0]) if later.size else len(candidate.mask)
    found = []
    for forecaster in range(count):
        if (candidate.forecasters[step + 1 : end] != forecaster).any():
            forecasters = candidate.forecasters.copy()
            forecasters[step:end] = forecaster
            found.append(Candidate(candidate.mask, forecasters))
    return found


def _polynomials(
    masks: NDArray[np.bool_], orders: NDArray[np.intp]
) -> tuple[NDArray[np.intp], NDArray[np.float64]]:
    """Steps before each step that were computed last, and their weights in its forecast.

    The weights are those of :class:`~genaccel.sensitivity.run.forecast.Taylor`, for all steps at once.

    Args:
        masks: ``[P, S]``.
        orders: Degrees, 0 to 2, ``[P, S]``; lower where there is not so much history.

    Returns:
        Steps, the newest first and -1 where there is none, and weights, ``[3, P, S]`` both.
    """
    count, steps = masks.shape
    step = np.arange(steps)
    newest = np.maximum.accumulate(np.where(masks, step, -1), axis=1)
    # One column more, for -1: before the first there is none.
    none = np.full((count, 1), -1)
    before = np.concatenate([none, newest[:, :-1], none], axis=1)
    a = before[:, :-1]
    b = np.take_along_axis(before, a, axis=1)
    c = np.take_along_axis(before, b, axis=1)
    linear = (orders >= 1) & (b >= 0)
    parabola = (orders >= 2) & (c >= 0)
    # Where there is no such step, any other numbers will do: their weights are not taken.
    b_, c_ = np.where(b < 0, a - 1, b), np.where(c < 0, np.where(b < 0, a - 2, b - 1), c)
    ahead_a, ahead_b, ahead_c = step - a, step - b_, step - c_
    ab, ac, bc = a - b_, a - c_, b_ - c_
    weights = np.stack(
        [
            np.where(parabola, ahead_b * ahead_c / (ab * ac), np.where(linear, ahead_b / ab, 1.0)),
            np.where(
                parabola, -ahead_a * ahead_c / (ab * bc), np.where(linear, -ahead_a / ab, 0.0)
            ),
            np.where(parabola, ahead_a * ahead_b / (ac * bc), 0.0),
        ]
    )
    return np.stack([a, b, c]), weights


def _column(count: int) -> NDArray[np.intp]:
    return np.arange(count)[:, None]
