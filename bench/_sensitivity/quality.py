# SPDX-License-Identifier: Apache-2.0
"""Judges how far accelerated samples are from the unaccelerated ones, for ``bench/soda.py``."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from bench._sensitivity.workload import Workload
from genaccel.eval._pairs.image_tensors import to_unit_range
from genaccel.eval._sets.extractors import Extractor
from genaccel.eval._sets.frechet import frechet_distance
from genaccel.eval._sets.moments import Moments, Statistics
from genaccel.eval.fd_mobilenet_v2 import load_mobilenet_v2
from genaccel.models.st_lpips import StLpips
from genaccel.sampling.distances import psnr

# Of equal images, where a mean is taken: 8 bits tell no more.
_MOST_PSNR = 99.0
# Below this a distance of sets says nothing, and its matrices take longer than all else.
_FEWEST_FOR_FD = 8


@dataclass(frozen=True, slots=True)
class Quality:
    """Distances of samples to the plain ones.

    Attributes:
        psnrs: Decibels of each.
        distances: ST-LPIPS (vgg) of each; None without its weights.
        fd: FD-mobilenet_v2 of the sets; None without its weights, and for a part of them.
    """

    psnrs: tuple[float, ...]
    distances: tuple[float, ...] | None
    fd: float | None

    @property
    def psnr(self) -> float:
        """Mean decibels."""
        return statistics.fmean(self.psnrs)

    @property
    def st_lpips(self) -> float | None:
        """Mean distance."""
        return None if self.distances is None else statistics.fmean(self.distances)


class Judge:
    """Compares with the plain samples of the same noise.

    Args:
        workload: What is sampled.
        batches: Batches that are compared.
    """

    def __init__(self, workload: Workload, *, batches: int) -> None:
        self._workload = workload
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
        self._plain = self._decoded(
            [workload.sample(workload.plain, workload.test_samples(b)) for b in range(batches)]
        )
        # All methods are compared with the same images.
        self._plain_features = [self._features(image) for image in self._plain]
        self._plain_statistics = self._statistics(self._plain)

    @property
    def num_samples(self) -> int:
        """Images in each set."""
        return len(self._plain)

    def __call__(self, latents: Sequence[Tensor]) -> Quality:
        """Quality of a method's samples.

        Args:
            latents: Latents of all batches, or of the first ones, which get no distance of sets.
        """
        images = self._decoded(latents)
        reference = self._plain[: len(images)]
        # Of a part of the samples it would be another distance: it depends on their number.
        is_whole = len(images) == len(self._plain)
        plain, own = self._plain_statistics, self._statistics(images) if is_whole else None
        psnrs = tuple(
            min(psnr(a.numpy(), b.numpy()), _MOST_PSNR)
            for a, b in zip(reference, images, strict=True)
        )
        distances = None
        if self._st_lpips is not None:
            features = self._plain_features[: len(images)]
            distances = tuple(map(self._distance, features, images))
        return Quality(
            psnrs,
            distances,
            fd=None if own is None or plain is None else frechet_distance(plain, own),
        )

    def _decoded(self, latents: Sequence[Tensor]) -> Tensor:
        return torch.cat([self._workload.images(part) for part in latents])

    @torch.inference_mode()
    def _features(self, image: Tensor) -> list[Tensor]:
        if self._st_lpips is None:
            return []
        return self._st_lpips.features(to_unit_range(image.numpy()).to(self._workload.device))

    @torch.inference_mode()
    def _distance(self, features: list[Tensor], image: Tensor) -> float:
        assert self._st_lpips is not None
        return float(self._st_lpips.distance(features, self._features(image)))

    def _statistics(self, images: Tensor) -> Statistics | None:
        extractor = self._extractor
        if extractor is None:
            return None
        moments = Moments(extractor.dimensions, extractor.device)
        for part in images.split(32):
            moments.update(extractor(torch.stack([extractor.prepare(i.numpy()) for i in part])))
        return moments.statistics({"num_images": len(images)})
