# SPDX-License-Identifier: Apache-2.0
"""How far accelerated samples are from the unaccelerated ones, for ``bench/soda.py``."""

from __future__ import annotations

import statistics
from dataclasses import dataclass

import torch
from torch import Tensor

from bench.soda_workload import Attached, Workload
from genaccel.eval.extractors import Extractor
from genaccel.eval.fd_mobilenet_v2 import load_mobilenet_v2
from genaccel.eval.frechet import frechet_distance
from genaccel.eval.moments import Moments, Statistics
from genaccel.eval.psnr import psnr
from genaccel.eval.st_lpips import to_unit_range
from genaccel.models.st_lpips import StLpips

# Of equal images, where a mean is taken: 8 bits tell no more.
_MOST_PSNR = 99.0
# Below this a distance of sets says nothing, and its matrices take longer than all else.
_FEWEST_FOR_FD = 8


@dataclass(frozen=True, slots=True)
class Quality:
    """Means over the samples, and the distance of the sets.

    Attributes:
        psnr: Decibels.
        st_lpips: ST-LPIPS (vgg); None without its weights.
        fd: FD-mobilenet_v2; None without its weights, and for very few samples.
    """

    psnr: float
    st_lpips: float | None
    fd: float | None


class Judge:
    """Compares with the plain samples of the same noise.

    Args:
        workload: What is sampled.
        batches: Batches that are compared.
    """

    def __init__(self, workload: Workload, *, batches: int) -> None:
        self._workload = workload
        self._batches = batches
        self.notes: list[str] = []
        self._st_lpips: StLpips | None = None
        self._extractor: Extractor | None = None
        try:
            metric = StLpips.from_pretrained("vgg").to(workload.device)
            self._st_lpips = metric.to(memory_format=torch.channels_last)
        except (ImportError, FileNotFoundError, ValueError) as error:
            self.notes.append(f"no ST-LPIPS: {error}")
        if batches * workload.batch_size >= _FEWEST_FOR_FD:
            try:
                self._extractor = load_mobilenet_v2(device=str(workload.device))
            except (ImportError, FileNotFoundError, ValueError) as error:
                self.notes.append(f"no FD-mobilenet_v2: {error}")
        self._plain = self._images(workload.plain, None)
        # All methods are compared with the same images.
        self._plain_features = [self._features(image) for image in self._plain]
        self._plain_statistics = self._statistics(self._plain)

    @property
    def num_samples(self) -> int:
        """Images in each set."""
        return len(self._plain)

    def __call__(self, attached: Attached, first_latents: Tensor | None = None) -> Quality:
        """Of an accelerated pipeline.

        Args:
            attached: The pipeline.
            first_latents: Of the first samples, if they are at hand.
        """
        images = self._images(attached, first_latents)
        own = self._statistics(images)
        distances = [
            self._distance(features, image)
            for features, image in zip(self._plain_features, images, strict=True)
        ]
        return Quality(
            psnr=statistics.mean(
                min(psnr(a.numpy(), b.numpy()), _MOST_PSNR)
                for a, b in zip(self._plain, images, strict=True)
            ),
            st_lpips=None if self._st_lpips is None else statistics.mean(distances),
            fd=None
            if own is None or self._plain_statistics is None
            else frechet_distance(self._plain_statistics, own),
        )

    def _images(self, attached: Attached, first_latents: Tensor | None) -> Tensor:
        workload = self._workload
        latents = [] if first_latents is None else [first_latents]
        for batch in range(len(latents), self._batches):
            latents.append(workload.latents(attached, workload.test_samples(batch)))
        return torch.cat([workload.images(part) for part in latents])

    @torch.inference_mode()
    def _features(self, image: Tensor) -> list[Tensor]:
        if self._st_lpips is None:
            return []
        return self._st_lpips.features(to_unit_range(image.numpy()).to(self._workload.device))

    @torch.inference_mode()
    def _distance(self, features: list[Tensor], image: Tensor) -> float:
        if self._st_lpips is None:
            return 0.0
        return float(self._st_lpips.distance(features, self._features(image)))

    def _statistics(self, images: Tensor) -> Statistics | None:
        extractor = self._extractor
        if extractor is None:
            return None
        moments = Moments(extractor.dimensions, extractor.device)
        for part in images.split(32):
            moments.update(extractor(torch.stack([extractor.prepare(i.numpy()) for i in part])))
        return moments.statistics({"num_images": len(images)})
