# SPDX-License-Identifier: Apache-2.0
"""ST-LPIPS between 8-bit images: :class:`genaccel.models.st_lpips.StLpips` on files."""

from __future__ import annotations

from typing import Annotated, Literal

import numpy as np
import typer
from numpy.typing import NDArray
from torch import Tensor

from genaccel.eval._pairs.feature_distance import FeatureDistance
from genaccel.eval._pairs.image_tensors import to_unit_range
from genaccel.eval._pairs.pair_metrics import PairedMetric, paired_command
from genaccel.eval.commands import Device, Weights
from genaccel.eval.devices import device_by_name
from genaccel.eval.metrics import METRICS
from genaccel.models.st_lpips import StLpips


class StLpipsOfImages(FeatureDistance[StLpips]):
    """ST-LPIPS of 8-bit images."""

    def features_of(self, image: NDArray[np.uint8]) -> list[Tensor]:
        """Features of ``[H, W, 3]``."""
        return self.metric.features(to_unit_range(image).to(self.metric.shift.device))


@paired_command
def main(
    net: Annotated[Literal["alex", "vgg"], typer.Option(help="Trunk of the metric.")] = "vgg",
    weights: Weights = None,
    device: Device = "cpu",
) -> PairedMetric:
    """ST-LPIPS between two folders of images, matched by file stem."""
    metric = StLpips.from_pretrained(net, weights).to(device_by_name(device))
    return PairedMetric(
        metric=METRICS["st-lpips"].metric.variant(net),
        function=StLpipsOfImages(metric),
        settings={"device": device, "weights": str(weights or "stlpips-pytorch")},
        packages=["stlpips-pytorch"],
    )


if __name__ == "__main__":
    typer.run(main)
