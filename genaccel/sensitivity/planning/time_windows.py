# SPDX-License-Identifier: Apache-2.0
"""Chooses the times whose mean a computed step is given: those around it, so that noise in time averages out.

What a model returns along a run is a smooth path and a part that is white from step to step, which no
forecast knows. A step that is computed with the mean of several embedded times returns the mean of
several such parts. Windows are shares of steps in computed ones, ``[S, S]``: row ``n`` of a computed step
has the sum 1, all other rows are 0. Ours.
"""

from __future__ import annotations

import itertools

import numpy as np
from numpy.typing import NDArray

# What the error on the way counts beside that at the end.
_ON_THE_WAY = 0.5
# Places on the way that are looked at, at most.
_MOST_PLACES = 24
# Keeps shares small where they hardly matter, relative to the size of the equations.
_RIDGE = 1e-3
# Variance of third differences of white noise of variance 1.
_THIRD = 20.0
# A model is at least as fast as this part of its noise: no window may be moved at no cost.
_LEAST_DRIFT = 0.1


def hat_shares(computed: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Windows that add up to every step once, whatever the model.

    A skipped step between two computed ones counts for each of them by how near it is, in steps, and
    behind the last computed one in full for that.

    Args:
        computed: ``[S]``; the first is computed.

    Example:
        >>> hat_shares(np.array([True, False, True, False]))[2].round(3).tolist()
        [0.0, 0.2, 0.4, 0.4]
    """
    steps = len(computed)
    nodes = np.flatnonzero(computed)
    shares = np.zeros((steps, steps))
    shares[nodes, nodes] = 1.0
    for n, after in itertools.pairwise(nodes.tolist()):
        between = np.arange(n + 1, after)
        shares[n, between] = (after - between) / (after - n)
        shares[after, between] = (between - n) / (after - n)
    shares[nodes[-1], nodes[-1] + 1 :] = 1.0
    shares /= np.maximum(shares.sum(axis=1, keepdims=True), 1e-12)
    return shares


def quiet_shares(
    computed: NDArray[np.bool_],
    weights: NDArray[np.float64],
    gains: NDArray[np.float64],
    noise: NDArray[np.float64],
    drift: NDArray[np.float64],
) -> NDArray[np.float64]:
    """The windows that bring as much of each step's noise into the sample as the plain run has.

    A plain run brings the noise of step ``s`` in with the gain of ``s``; a planned one brings in what
    the windows of computed steps share of it, each with all the gains of the steps it is part of.
    Least squares over the shares, within the intervals around each computed step, such that these
    agree, at the end and on the way, while windows move no computed step in time on the whole, as they
    would move the smooth path too.

    Args:
        computed: ``[S]``; the first is computed.
        weights: Of the computed outputs at each step, ``[S, S]``
            (:func:`~genaccel.sensitivity.planning.output_planner.forecast_weights`).
        gains: Effect of an error at each step on the finished sample, ``[S]``.
        noise: Length of the white part of each output, ``[S]``.
        drift: Length of what the smooth part changes by in a step, ``[S]``.
    """
    steps = len(computed)
    nodes = np.flatnonzero(computed)
    ends = np.append(nodes[1:], steps)
    begins = np.append(-1, nodes[:-1]) + 1
    begins[0] = nodes[0]
    # One unknown for each step within the intervals around each computed step.
    owner = np.concatenate(
        [np.full(e - b, i) for i, (b, e) in enumerate(zip(begins, ends, strict=True))]
    )
    place = np.concatenate([np.arange(b, e) for b, e in zip(begins, ends, strict=True)])
    unknowns = np.arange(len(place))
    carried = np.cumsum(gains[:, None] * weights[:, nodes], axis=0)  # [S, N]
    rows, sides = [], []
    looked_at = np.unique(np.linspace(0, len(ends) - 1, min(len(ends), _MOST_PLACES)).astype(int))
    for k in looked_at:
        end = int(ends[k])
        scale = 1.0 if end == steps else _ON_THE_WAY
        total = carried[end - 1]
        block = np.zeros((steps, len(place)))
        block[place, unknowns] = total[owner] * noise[place] * scale
        rows.append(block)
        sides.append(np.where(np.arange(steps) < end, gains, 0.0) * noise * scale)
        moved = total[owner] * (place - nodes[owner]) * drift[min(end, steps - 1)]
        rows.append(moved[None])
        sides.append(np.zeros(1))
    matrix, side = np.concatenate(rows), np.concatenate(sides)
    square = matrix.T @ matrix
    square[unknowns, unknowns] += _RIDGE**2 * max(float(np.trace(square)), 1e-30) / len(place)
    # The sum of each window is 1: Lagrange multipliers.
    sums = np.zeros((len(nodes), len(place)))
    sums[owner, unknowns] = 1.0
    system = np.block([[square, sums.T], [sums, np.zeros((len(nodes), len(nodes)))]])
    right = np.concatenate([matrix.T @ side, np.ones(len(nodes))])
    solution = np.linalg.lstsq(system, right, rcond=None)[0][: len(place)]
    shares = np.zeros((steps, steps))
    shares[nodes[owner], place] = solution
    return shares


def noise_and_drift(
    gram: NDArray[np.float64],
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Length of the white part of each output, and of the step that the smooth part makes, ``[S]`` both.

    Args:
        gram: Inner products of the outputs at each two steps, ``[S, S]``.
    """
    steps = len(gram)
    if steps < 4:
        return np.ones(steps), np.ones(steps)
    third, half = np.array([1.0, -3.0, 3.0, -1.0]), np.array([-0.5, 0.0, 0.5])
    white = np.array([third @ gram[i : i + 4, i : i + 4] @ third for i in range(steps - 3)])
    speed = np.array([half @ gram[i : i + 3, i : i + 3] @ half for i in range(steps - 2)])
    noise = np.interp(
        np.arange(steps), np.arange(steps - 3) + 1.5, np.sqrt(np.maximum(white / _THIRD, 1e-12))
    )
    moved = np.interp(np.arange(steps), np.arange(steps - 2) + 1.0, speed) - noise**2 / 2
    return noise, np.sqrt(np.maximum(moved, (_LEAST_DRIFT * noise) ** 2))


def window_table(shares: NDArray[np.float64]) -> NDArray[np.float32]:
    """Windows as plans hold them.

    Args:
        shares: ``[S, S]``.

    Returns:
        ``[S, W]``: the share, for step ``s``, of step ``s + j - W // 2`` in column ``j``.
    """
    steps = len(shares)
    rows, columns = np.nonzero(np.abs(shares) > 1e-6)
    reach = int(np.abs(rows - columns).max(initial=0))
    table = np.zeros((steps, 2 * reach + 1), dtype=np.float32)
    table[rows, columns - rows + reach] = shares[rows, columns]
    return table


def hat_windows(computed: NDArray[np.bool_]) -> NDArray[np.float32]:
    """:func:`hat_shares` as plans hold them, ``[S, W]``."""
    return window_table(hat_shares(computed))
