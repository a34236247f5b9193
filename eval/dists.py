# SPDX-License-Identifier: Apache-2.0
"""DISTS between 8-bit images: :class:`genaccel.models.dists.Dists` on files."""

from __future__ import annotations

from typing import Annotated

import numpy as np
import torch
import typer
from numpy.typing import NDArray
from torch import Tensor

from genaccel.eval._pairs.pair_metrics import PairedMetric, paired_command
from genaccel.eval._sets.processes import device_by_name
from genaccel.eval.commands import Device, Weights
from genaccel.eval.results import Metric
from genaccel.models.dists import Dists


class DistsOfImages:
    """DISTS of 8-bit images, with the features of the last original kept.

    Comparing several reconstructions with one original runs the network on the original once.

    Args:
        metric: The metric, with its weights.

    Example:
        >>> dists = DistsOfImages(Dists.from_pretrained())  # doctest: +SKIP
        >>> dists(original, reconstruction)  # uint8 [H, W, 3]  # doctest: +SKIP
    """

    def __init__(self, metric: Dists) -> None:
        self.metric = metric.to(memory_format=torch.channels_last)  # faster on a CPU
        self._original: NDArray[np.uint8] | None = None
        self._features: list[Tensor] = []

    def _features_of(self, image: NDArray[np.uint8]) -> list[Tensor]:
        planes = torch.tensor(image).permute(2, 0, 1)[None]  # [1, 3, H, W]
        # On a GPU: TF32 would change the third digit, and autotuning may choose differently each time.
        with torch.backends.cudnn.flags(
            enabled=True, benchmark=False, deterministic=True, allow_tf32=False
        ):
            return self.metric.features(planes.to(self.metric.mean.device).float() / 255.0)

    @torch.inference_mode()
    def __call__(self, original: NDArray[np.uint8], reconstruction: NDArray[np.uint8]) -> float:
        """Distance of two images ``[H, W, 3]``; 0 for equal images.

        Raises:
            ValueError: If the shapes differ.
        """
        if original.shape != reconstruction.shape:
            raise ValueError(
                f"images must have the same shape, got {original.shape} and {reconstruction.shape}"
            )
        if self._original is None or not np.array_equal(original, self._original):
            self._features = self._features_of(original)
            self._original = original.copy()
        return float(self.metric.distance(self._features, self._features_of(reconstruction)))


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
    metric = Dists.from_pretrained(weights, resize=resize).to(device_by_name(device))
    return PairedMetric(
        metric=Metric(
            key="dists" if resize is None else f"dists_r{resize}",
            title="DISTS" if resize is None else f"DISTS (resized to {resize})",
            higher_is_better=False,
        ),
        function=DistsOfImages(metric),
        settings={"device": device, "resize": resize, "weights": str(weights or "vgg16")},
        packages=["DISTS-pytorch"],
    )


if __name__ == "__main__":
    typer.run(main)
