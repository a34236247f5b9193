# SPDX-License-Identifier: Apache-2.0
"""Kernel Inception distance (Binkowski et al., arXiv:1801.01401): unbiased, so it suits small sets."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import typer
from numpy.typing import NDArray

from genaccel.eval._sets.extractors import Extractor, Resize
from genaccel.eval._sets.set_features import SetFeatures
from genaccel.eval._sets.set_metrics import SetMetric, SetValue, set_command
from genaccel.eval.commands import Device, Weights
from genaccel.eval.fd_mobilenet_v2 import load_mobilenet_v2
from genaccel.eval.fid import ResizeOption, load_inception
from genaccel.eval.metrics import METRICS

Features = Annotated[
    Literal["inception", "mobilenet_v2"],
    typer.Option(help="Network; the second works offline and is named in the result."),
]


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
) -> tuple[float, float]:
    """KID over random subsets.

    Args:
        real: Features ``[N, D]``.
        fake: Features ``[M, D]``.
        num_subsets: How many pairs of subsets are drawn.
        subset_size: Rows of each; sets that are not larger are taken whole, once.
        seed: Of the subsets.

    Returns:
        Mean and standard deviation over the subsets.

    Raises:
        ValueError: If a set has fewer than two rows.
    """
    size_real, size_fake = min(subset_size, len(real)), min(subset_size, len(fake))
    x, y = np.asarray(real, dtype=np.float64), np.asarray(fake, dtype=np.float64)
    if size_real == len(real) and size_fake == len(fake):
        return polynomial_mmd(x, y), 0.0
    random = np.random.default_rng(seed)
    values = [
        polynomial_mmd(
            x[random.choice(len(x), size_real, replace=False)],
            y[random.choice(len(y), size_fake, replace=False)],
        )
        for _ in range(num_subsets)
    ]
    return float(np.mean(values)), float(np.std(values))


def load_features(network: str, weights: Path | None, device: str, resize: Resize) -> Extractor:
    """The extractor of an option ``--features``."""
    if network == "mobilenet_v2":
        return load_mobilenet_v2(weights, device=device)
    return load_inception(weights, device=device, resize=resize)


@set_command
def main(
    features: Features = "inception",
    weights: Weights = None,
    device: Device = "cpu",
    resize: ResizeOption = "bilinear",
    subsets: Annotated[int, typer.Option(min=1, help="Random subsets.")] = 100,
    subset_size: Annotated[int, typer.Option(min=2, help="Images of each set in a subset.")] = 1000,
    subset_seed: Annotated[int, typer.Option(help="Of the subsets.")] = 0,
) -> SetMetric:
    """KID between two sets of images: unbiased, for small sets."""
    extractor = load_features(features, weights, device, resize)

    def evaluate(real: SetFeatures, fake: SetFeatures) -> SetValue:
        value, deviation = kernel_distance(
            real.of_each_image,
            fake.of_each_image,
            num_subsets=subsets,
            subset_size=subset_size,
            seed=subset_seed,
        )
        return SetValue(value=value, details={"standard_deviation": deviation})

    kid = METRICS["kid"].metric
    return SetMetric(
        # The I of its name is Inception's.
        metric=kid
        if features == "inception"
        else replace(kid, key=f"kd_{features}", title=f"KD-{features}"),
        extractor=extractor,
        function=evaluate,
        needs_features=True,
        settings={"subsets": subsets, "subset_size": subset_size, "subset_seed": subset_seed},
    )


if __name__ == "__main__":
    typer.run(main)
