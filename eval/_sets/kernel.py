# SPDX-License-Identifier: Apache-2.0
"""Maximum mean discrepancy of features: the kernels of KID and of CMMD."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from genaccel.eval._sets.set_features import SetFeatures
from genaccel.eval._sets.set_values import SetValue

# Of CMMD's published code: deviation of the kernel, and the factor that makes its values readable.
_CMMD_DEVIATION = 10.0
_CMMD_SCALE = 1000.0
# Rows of a kernel's matrix in memory at a time: 50,000 columns take 400 MB.
_ROWS = 1024


def polynomial_mmd(x: NDArray[np.float64], y: NDArray[np.float64]) -> float:
    """Unbiased squared maximum mean discrepancy with the kernel ``(x.y / D + 1)^3``; may be negative.

    Args:
        x: ``[N, D]``, N at least 2.
        y: ``[M, D]``, M at least 2.

    Raises:
        ValueError: If a set has fewer than two rows.
    """
    n, m, dimensions = len(x), len(y), x.shape[1]
    if min(n, m) < 2:
        raise ValueError(f"KID needs at least two images of each set, got {n} and {m}")
    within_x = (x @ x.T / dimensions + 1) ** 3
    within_y = (y @ y.T / dimensions + 1) ** 3
    across = (x @ y.T / dimensions + 1) ** 3
    # Leaving the pairs of an image with itself out is what makes it unbiased.
    mean_x = (within_x.sum() - np.trace(within_x)) / (n * (n - 1))
    mean_y = (within_y.sum() - np.trace(within_y)) / (m * (m - 1))
    return float(mean_x + mean_y - 2 * across.mean())


def kernel_distance(
    real: NDArray[np.float32],
    fake: NDArray[np.float32],
    *,
    num_subsets: int = 100,
    subset_size: int = 1000,
    seed: int = 0,
) -> tuple[float, float | None]:
    """KID over random subsets.

    Args:
        real: Features ``[N, D]``.
        fake: Features ``[M, D]``.
        num_subsets: How many pairs of subsets are drawn.
        subset_size: Rows of each; sets that are not larger are taken whole, once.
        seed: Of the subsets.

    Returns:
        Mean and standard deviation over the subsets; the second is None where both sets were taken whole.

    Raises:
        ValueError: If a set has fewer than two rows.
    """
    size_real, size_fake = min(subset_size, len(real)), min(subset_size, len(fake))
    x, y = np.asarray(real, dtype=np.float64), np.asarray(fake, dtype=np.float64)
    if size_real == len(real) and size_fake == len(fake):
        return polynomial_mmd(x, y), None
    random = np.random.default_rng(seed)
    values = [
        polynomial_mmd(
            x[random.choice(len(x), size_real, replace=False)],
            y[random.choice(len(y), size_fake, replace=False)],
        )
        for _ in range(num_subsets)
    ]
    return float(np.mean(values)), float(np.std(values))


def kernel_value(
    real: SetFeatures,
    fake: SetFeatures,
    *,
    num_subsets: int = 100,
    subset_size: int = 1000,
    seed: int = 0,
) -> SetValue:
    """:func:`kernel_distance` of two sets, with what was done where a set is smaller than a subset.

    Raises:
        ValueError: If a set has fewer than two images, or its features are not known.
    """
    x, y = real.of_each_image, fake.of_each_image
    value, deviation = kernel_distance(
        x, y, num_subsets=num_subsets, subset_size=subset_size, seed=seed
    )
    settings: dict[str, object] = {}
    warnings = []
    smaller = min(len(x), len(y))
    if deviation is None:
        settings = {"subsets": 1, "subset_size": [len(x), len(y)], "subset_seed": None}
        warnings.append(
            f"sets of {len(x)} and {len(y)} images, no more than a subset of {subset_size}, were compared "
            "whole and once: there is no deviation over subsets"
        )
    elif smaller < subset_size:
        settings = {"subset_size": [min(subset_size, len(x)), min(subset_size, len(y))]}
        warnings.append(
            f"the smaller set of {smaller} images, fewer than a subset of {subset_size}, is whole in every "
            "subset: the deviation is that of the larger one alone"
        )
    return SetValue(
        value=value,
        details={"standard_deviation": deviation},
        warnings=warnings,
        settings=settings,
    )


def gaussian_mmd(real: NDArray[np.float32], fake: NDArray[np.float32]) -> float:
    """CMMD's distance (Jayasumana et al., arXiv:2401.09603) of embeddings, times 1000 as in its published code.

    Rows are brought to length 1; the kernel is ``exp(-|x - y|^2 / (2 * 10^2))``, and the estimate the biased one.

    Args:
        real: ``[N, D]``.
        fake: ``[M, D]``.
    """
    x, y = (
        rows / np.linalg.norm(rows, axis=1, keepdims=True).clip(min=np.finfo(np.float64).tiny)
        for rows in (np.asarray(features, dtype=np.float64) for features in (real, fake))
    )
    total = _gaussian_mean(x, x) + _gaussian_mean(y, y) - 2 * _gaussian_mean(x, y)
    return _CMMD_SCALE * total


def _gaussian_mean(x: NDArray[np.float64], y: NDArray[np.float64]) -> float:
    gamma = 1 / (2 * _CMMD_DEVIATION**2)
    total = 0.0
    for start in range(0, len(x), _ROWS):
        products = x[start : start + _ROWS] @ y.T  # of unit rows: |x - y|^2 = 2 - 2 x.y
        total += float(np.exp(-gamma * (2 - 2 * products)).sum())
    return total / (len(x) * len(y))
