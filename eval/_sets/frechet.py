# SPDX-License-Identifier: Apache-2.0
"""The Frechet distance between Gaussians (Dowson and Landau 1982), and its limit for many images."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from genaccel.eval._sets.moments import Statistics

# Below this the covariance of 2048 features has no full rank, and the bias is larger than most effects.
FEW_IMAGES = 2048

# Subset sizes of the extrapolation, as in Chong and Forsyth.
_NUM_SUBSETS = 15
MIN_IMAGES_FOR_LIMIT = 30


def frechet_distance(a: Statistics, b: Statistics) -> float:
    """Squared Frechet distance ``|mu_a - mu_b|^2 + Tr(S_a + S_b - 2 (S_a S_b)^(1/2))``, never below 0.

    With any factor ``S_a = F F^T``, the eigenvalues of ``S_a S_b`` are those of the symmetric ``F^T S_b F``,
    and ``Tr (S_a S_b)^(1/2)`` is the sum of their square roots: a Cholesky factor and one symmetric
    eigenproblem, many times faster than a general matrix square root, and never complex.

    Args:
        a: The first Gaussian.
        b: The second, of as many features.

    Raises:
        ValueError: If the numbers of features differ.

    Example:
        >>> gaussian = Statistics(mean=np.zeros(2), covariance=np.eye(2))
        >>> moved = Statistics(mean=np.ones(2), covariance=np.eye(2))
        >>> round(frechet_distance(gaussian, moved), 12)
        2.0
    """
    if a.mean.shape != b.mean.shape:
        raise ValueError(
            f"the statistics have {a.mean.size} and {b.mean.size} features; "
            "both must come from the same network"
        )
    # N images give a covariance of rank N - 1. What rounding leaves in the other eigenvalues would count
    # by its square root, which is far larger.
    counts = [n for n in (a.num_images, b.num_images) if n is not None]
    rank = min([a.mean.size, *(n - 1 for n in counts)])
    factor = _factor(a)
    product = factor.T @ torch.from_numpy(b.covariance) @ factor
    cross = _root_sum(torch.linalg.eigvalsh((product + product.T) / 2)[-rank:])
    difference = a.mean - b.mean
    traces = float(np.trace(a.covariance) + np.trace(b.covariance))
    # Of equal sets, rounding leaves a little on either side of zero.
    return max(0.0, float(difference @ difference) + traces - 2 * cross)


def _factor(a: Statistics) -> torch.Tensor:
    """``F`` with ``S = F F^T``."""
    symmetric = torch.from_numpy(a.covariance)
    symmetric = (symmetric + symmetric.T) / 2
    if a.num_images is None or a.num_images > a.mean.size:
        factor, failed = torch.linalg.cholesky_ex(symmetric)
        if not int(failed):
            return factor
    # Of lower rank, by the number of images or because features are linear in others.
    values, vectors = torch.linalg.eigh(symmetric)  # ascending
    rank = min(a.mean.size, (a.num_images or a.mean.size + 1) - 1)
    factor = vectors[:, -rank:] * values[-rank:].clamp_min(0).sqrt()
    return factor


def _root_sum(eigenvalues: torch.Tensor) -> float:
    return float(eigenvalues.clamp_min(0).sqrt().sum())


@dataclass(frozen=True, kw_only=True, slots=True)
class FrechetLimit:
    """The distance extrapolated to infinitely many generated images.

    Attributes:
        value: The limit.
        bias: How far the distance at all images lies above it on the fitted line.
    """

    value: float
    bias: float


def frechet_limit(
    reference: Statistics, features: NDArray[np.float32], *, seed: int = 0
) -> FrechetLimit | None:
    """FID-infinity (Chong and Forsyth, arXiv:1911.07023): the distance as a line in 1/N, at 1/N = 0.

    The reference stays as it is; subsets of the generated images give the line. Its own finite number
    of images is not corrected for.

    Args:
        reference: The reference's Gaussian.
        features: Of the generated images, ``[N, D]``.
        seed: Of the subsets.

    Returns:
        The limit, or None for fewer than 30 images, which give no line worth the name.
    """
    num_images = features.shape[0]
    if num_images < MIN_IMAGES_FOR_LIMIT:
        return None
    random = np.random.default_rng(seed)
    sizes = np.linspace(num_images // 2, num_images, _NUM_SUBSETS).round().astype(int)
    x = torch.from_numpy(np.asarray(features, dtype=np.float64))
    reference_covariance = torch.from_numpy(reference.covariance)
    trace = float(np.trace(reference.covariance))
    distances = []
    for size in sizes:
        subset = x[torch.from_numpy(np.sort(random.permutation(num_images)[:size]))]  # [n, D]
        mean = subset.mean(0)
        centred = subset - mean
        # The nonzero eigenvalues of S_r X^T X are those of X S_r X^T, which is only n x n.
        gram = centred @ reference_covariance @ centred.T / (size - 1)
        cross = _root_sum(torch.linalg.eigvalsh((gram + gram.T) / 2)[1:])  # centred: one is 0
        difference = mean - torch.from_numpy(reference.mean)
        own_trace = float(centred.square().sum()) / (size - 1)
        distances.append(float(difference @ difference) + trace + own_trace - 2 * cross)
    slope, limit = np.polyfit(1 / sizes, distances, 1)
    return FrechetLimit(value=float(limit), bias=float(slope / num_images))


def few_images_warning(num_images: int | None, *, has_limit: bool = True) -> list[str]:
    """The sentence that must stand beside a distance of a small set; none for a large one.

    Args:
        num_images: Of the smaller set, if it is known.
        has_limit: Whether the value at infinitely many images stands beside it too.
    """
    if num_images is None or num_images >= FEW_IMAGES:
        return []
    sentence = (
        f"{num_images} images are too few for a covariance of full rank: the distance is biased "
        "upwards; compare only with distances of as many images"
    )
    return [sentence + ", or take the value at infinitely many" * has_limit]
