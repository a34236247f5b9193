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
from genaccel.eval._sets.set_metrics import SetMetric, set_command
from genaccel.eval._sets.set_values import SetValue
from genaccel.eval.commands import Device, WeightsOrFolder
from genaccel.eval.fid import ResizeOption
from genaccel.eval.kid import Features, load_features
from genaccel.eval.metrics import METRICS

# Rows of the distance matrix in memory at a time: 50,000 columns take 400 MB.
_ROWS = 1024
# Of a row's length: what its distance to an equal one may come out as, and how far features of one image lie apart.
_NOISE = 2e-3
_ROUNDING = 1e-5


@dataclass(frozen=True, kw_only=True, slots=True)
class ManifoldScores:
    """Shares of images, but for the density.

    Attributes:
        precision: Generated images within the real manifold.
        recall: Real images within the generated manifold.
        density: Real balls that a generated image lies in, over k; may exceed 1.
        coverage: Real balls that hold a generated image.
        real_points: Real images that are repeated more than k times: their balls are points, which hold what is equal.
        fake_points: Generated ones.
    """

    precision: float
    recall: float
    density: float
    coverage: float
    real_points: int = 0
    fake_points: int = 0


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
    real_points = _points(x, real_radius, neighbours)
    fake_points = _points(y, fake_radius, neighbours)
    in_real = torch.zeros(len(y))  # real balls around each generated image
    covered, recalled = [], []
    for start in range(0, len(x), _ROWS):
        rows = slice(start, start + _ROWS)
        distance = torch.cdist(x[rows], y)  # [R, M]
        inside = distance < real_radius[rows, None]
        within_fake = distance < fake_radius
        if real_points.any() or fake_points.any():
            same = _equal(x[rows], y)
            inside = torch.where(real_points[rows, None], same, inside)
            within_fake = torch.where(fake_points, same, within_fake)
        in_real += inside.sum(0)
        covered.append(inside.any(1))
        recalled.append(within_fake.any(1))
    return ManifoldScores(
        precision=float((in_real > 0).double().mean()),
        recall=float(torch.cat(recalled).double().mean()),
        density=float(in_real.double().mean() / neighbours),
        coverage=float(torch.cat(covered).double().mean()),
        real_points=int(real_points.sum()),
        fake_points=int(fake_points.sum()),
    )


def _radii(x: Tensor, neighbours: int) -> Tensor:
    """Distance of each row to its k-th nearest other row."""
    found = [
        # The nearest of all is the row itself.
        torch.cdist(x[start : start + _ROWS], x).kthvalue(neighbours + 1, dim=1).values
        for start in range(0, len(x), _ROWS)
    ]
    return torch.cat(found)


def _points(x: Tensor, radius: Tensor, neighbours: int) -> Tensor:
    """Rows whose k nearest others are all equal to them, ``[N]``."""
    points = torch.zeros(len(x), dtype=torch.bool)
    # Distances in single precision, of a matrix product, are no better than this.
    candidates = torch.nonzero(radius <= _NOISE * x.norm(dim=1)).flatten()
    for rows in candidates.split(_ROWS):
        points[rows] = _equal(x[rows], x).sum(1) > neighbours
    return points


def _equal(x: Tensor, y: Tensor) -> Tensor:
    """Whether rows are equal but for what the place of an image in a batch changes, ``[N, M]``."""
    a, b = x.double(), y.double()
    squared = a.square().sum(1)  # [N]
    distance = squared[:, None] + b.square().sum(1) - 2 * a @ b.T
    return distance <= (_ROUNDING * squared.sqrt()[:, None]).square()


@set_command
def main(
    features: Features = "inception",
    weights: WeightsOrFolder = None,
    device: Device = "cpu",
    resize: ResizeOption = "bilinear",
    neighbours: Annotated[int, typer.Option(min=1, help="The k of the nearest neighbours.")] = 5,
) -> SetMetric:
    """Precision, recall, density and coverage of a set of generated images."""
    extractor = load_features(features, weights, device, resize)

    def evaluate(real: SetFeatures, fake: SetFeatures) -> SetValue:
        scores = manifold_scores(real.of_each_image, fake.of_each_image, neighbours=neighbours)
        details = asdict(scores)
        points = {"real": details.pop("real_points"), "generated": details.pop("fake_points")}
        warnings = [
            f"{count} of the {len(features.of_each_image)} {name} images are repeated more than {neighbours} "
            "times: their balls are points, which hold equal images alone"
            for (name, count), features in zip(points.items(), (real, fake), strict=True)
            if count
        ]
        return SetValue(value=scores.precision, details=details, warnings=warnings)

    return SetMetric(
        metric=METRICS["precision-recall"].metric.variant(features),
        extractor=extractor,
        function=evaluate,
        needs_features=True,
        settings={"neighbours": neighbours},
    )


if __name__ == "__main__":
    typer.run(main)
