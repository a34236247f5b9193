# SPDX-License-Identifier: Apache-2.0
"""DISTS between 8-bit images: :class:`genaccel.models.dists.Dists` on files."""

from __future__ import annotations

from typing import Annotated

import numpy as np
import typer
from numpy.typing import NDArray
from torch import Tensor

from genaccel.eval._pairs.feature_distance import FeatureDistance
from genaccel.eval._pairs.image_tensors import to_planes
from genaccel.eval._pairs.pair_metrics import PairedMetric, paired_command
from genaccel.eval.commands import Device, Weights
from genaccel.eval.devices import device_by_name, exact_convolutions
from genaccel.eval.metrics import METRICS
from genaccel.models.dists import Dists
from genaccel.models.torchvision_weights import find_weights, identify_weights


class DistsOfImages(FeatureDistance[Dists]):
    """DISTS of 8-bit images.

    Example:
        >>> dists = DistsOfImages(Dists.from_pretrained())  # doctest: +SKIP
        >>> dists(original, reconstruction)  # uint8 [H, W, 3]  # doctest: +SKIP
    """

    def features_of(self, image: NDArray[np.uint8]) -> list[Tensor]:
        """Features of ``[H, W, 3]``."""
        planes = to_planes(image).to(self.metric.mean.device).float() / 255.0
        with exact_convolutions():
            return self.metric.features(planes)


@paired_command
def main(
    resize: Annotated[
        int | None,
        typer.Option(min=1, help="Shrink the shorter side to this first; piq does so to 256."),
    ] = None,
    weights: Weights = None,
    device: Device = "cpu",
) -> PairedMetric:
    """DISTS between two folders of images, matched by file stem."""
    full_size = METRICS["dists"].metric
    metric = Dists.from_pretrained(weights, resize=resize).to(device_by_name(device))
    digest, warnings = identify_weights("vgg16", find_weights("vgg16", weights))
    return PairedMetric(
        metric=full_size
        if resize is None
        else full_size.variant(f"r{resize}", f"resized to {resize}"),
        function=DistsOfImages(metric),
        settings={
            "device": device,
            "resize": resize,
            "weights": str(weights or "vgg16"),
            "weights_sha256": digest,
        },
        packages=["DISTS-pytorch"],
        warnings=warnings,
    )


if __name__ == "__main__":
    typer.run(main)
