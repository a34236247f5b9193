# SPDX-License-Identifier: Apache-2.0
"""Which times a computed step stands for: hats over the steps that are forecast from it and the next one."""

from __future__ import annotations

import itertools

import numpy as np
from numpy.typing import NDArray


def hat_windows(computed: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Weights of the times around each computed step.

    A skipped step between two computed ones counts for each of them by how near it is, in steps, and
    behind the last computed one in full for that; so the windows of all computed steps add up to every
    step once.

    Args:
        computed: ``[S]``; the first is computed.

    Returns:
        ``[S, W]``: the weight, for step ``s``, of step ``s + j - W // 2`` in column ``j``. Rows of
        computed steps have the sum 1, all others are 0.

    Example:
        >>> hat_windows(np.array([True, False, True, False]))[2].round(3).tolist()
        [0.2, 0.4, 0.4]
    """
    steps = len(computed)
    nodes = np.flatnonzero(computed)
    shares = np.zeros((steps, steps))  # of a computed step, in each step
    shares[nodes, nodes] = 1.0
    for n, after in itertools.pairwise(nodes.tolist()):
        between = np.arange(n + 1, after)
        shares[n, between] = (after - between) / (after - n)
        shares[after, between] = (between - n) / (after - n)
    shares[nodes[-1], nodes[-1] + 1 :] = 1.0
    shares /= np.maximum(shares.sum(axis=1, keepdims=True), 1e-12)
    # The widest reach, to either side.
    rows, columns = np.nonzero(shares)
    reach = int(np.abs(rows - columns).max(initial=0))
    windows = np.zeros((steps, 2 * reach + 1), dtype=np.float32)
    windows[rows, columns - rows + reach] = shares[rows, columns]
    return windows
