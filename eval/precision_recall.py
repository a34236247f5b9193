# SPDX-License-Identifier: Apache-2.0
"""Precision and recall (arXiv:1904.06991), density and coverage (arXiv:2002.09797) of generated images.

A set's manifold is the union of balls around its images, each reaching to the k-th nearest neighbour.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Annotated

import numpy as np
import torch
import typer
from numpy.typing import NDArray
from torch import Tensor

from genaccel.eval._sets.set_features import SetFeatures
from genaccel.eval._sets.set_metrics import SetMetric, SetValue, set_command
from genaccel.eval.commands import Device, Weights
from genaccel.eval.fid import ResizeOption
from genaccel.eval.kid import Features, load_features
from genaccel.eval.metrics import METRICS

# Rows of the distance matrix in memory at a time: 50,000 columns take 400 MB.
_ROWS = 1024


@dataclass(frozen=True, kw_only=True, slots=True)
class ManifoldScores:
    """Shares of images, but for the density.

    Attributes:
        precision: Generated images within the real manifold.
        recall: Real images within the generated manifold.
        density: Real balls that a generated image lies in, over k; may exceed 1.
        coverage: Real balls that hold a generated image.
    """

    precision: float
    recall: float
    density: float
    coverage: float


def manifold_scores(
    real: NDArray[np.float32], fake: NDArray[np.float32], *, neighbours: int = 5
) -> ManifoldScores:
    """Precision, recall, density and coverage.

    Args:
        real: Features ``[N, D]``.
        fake: Features ``[M, D]``.
        neighbours: The k of the balls.

    Raises:
        ValueError: If a set has no more than k images.
    """
    if min(len(real), len(fake)) <= neighbours:
        raise ValueError(
            f"{neighbours} neighbours need at least {neighbours + 1} images of each set, "
            f"got {len(real)} and {len(fake)}"
        )
    x, y = torch.from_numpy(real), torch.from_numpy(fake)
    real_radius = _radii(x, neighbours)  # [N]
    fake_radius = _radii(y, neighbours)  # [M]
    in_real = torch.zeros(len(y))  # real balls around each generated image
    covered, recalled = [], []
    for start in range(0, len(x), _ROWS):
        distance = torch.cdist(x[start : start + _ROWS], y)  # [R, M]
        inside = distance < real_radius[start : start + _ROWS, None]
        in_real += inside.sum(0)
        covered.append(inside.any(1))
        recalled.append((distance < fake_radius).any(1))
    return ManifoldScores(
        precision=float((in_real > 0).double().mean()),
        recall=float(torch.cat(recalled).double().mean()),
        density=float(in_real.double().mean() / neighbours),
        coverage=float(torch.cat(covered).double().mean()),
    )


def _radii(x: Tensor, neighbours: int) -> Tensor:
    """Distance of each row to its k-th nearest other row."""
    found = [
        # The nearest of all is the row itself.
        torch.cdist(x[start : start + _ROWS], x).kthvalue(neighbours + 1, dim=1).values
        for start in range(0, len(x), _ROWS)
    ]
    return torch.cat(found)


@set_command
def main(
    features: Features = "inception",
    weights: Weights = None,
    device: Device = "cpu",
    resize: ResizeOption = "bilinear",
    neighbours: Annotated[int, typer.Option(min=1, help="The k of the nearest neighbours.")] = 5,
) -> SetMetric:
    """Precision, recall, density and coverage of a set of generated images."""
    extractor = load_features(features, weights, device, resize)

    def evaluate(real: SetFeatures, fake: SetFeatures) -> SetValue:
        scores = manifold_scores(real.of_each_image, fake.of_each_image, neighbours=neighbours)
        return SetValue(value=scores.precision, details=asdict(scores))

    return SetMetric(
        metric=METRICS["precision-recall"].metric.variant(features),
        extractor=extractor,
        function=evaluate,
        needs_features=True,
        settings={"neighbours": neighbours},
    )


if __name__ == "__main__":
    typer.run(main)
