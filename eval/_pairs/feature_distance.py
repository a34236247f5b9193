# SPDX-License-Identifier: Apache-2.0
"""Distances of 8-bit images in the features of a network, with those of the last original kept."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Generic, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from genaccel.eval._pairs.image_tensors import require_same_shape
from genaccel.models.dists import Dists
from genaccel.models.st_lpips import StLpips

M = TypeVar("M", Dists, StLpips)


class FeatureDistance(ABC, Generic[M]):
    """Distance of 8-bit images, with the features of the last original kept.

    Comparing several reconstructions with one original runs the network on the original once.

    Args:
        metric: The metric, with its weights.
    """

    def __init__(self, metric: M) -> None:
        # A quarter faster on a CPU; the values are the same.
        self.metric: M = metric.to(memory_format=torch.channels_last)
        self._original: NDArray[np.uint8] | None = None
        self._features: list[Tensor] = []

    @abstractmethod
    def features_of(self, image: NDArray[np.uint8]) -> list[Tensor]:
        """Features of ``[H, W, 3]``, in the range of values that the metric takes."""

    @torch.inference_mode()
    def __call__(self, original: NDArray[np.uint8], reconstruction: NDArray[np.uint8]) -> float:
        """Distance of two images ``[H, W, 3]``; 0 for equal images.

        Raises:
            ValueError: If the shapes differ or the images are too small.
        """
        require_same_shape(original, reconstruction)
        if self._original is None or not np.array_equal(original, self._original):
            self._features = self.features_of(original)
            self._original = original.copy()
        return float(self.metric.distance(self._features, self.features_of(reconstruction)))
