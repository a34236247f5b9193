# SPDX-License-Identifier: Apache-2.0
"""Batches of random crops by their numbers."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count
from typing import Annotated

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from genaccel.data.image_folder import RandomCropDataset
from genaccel.training.options import AT_LEAST_1, SHARE, SHARE_ABOVE_0, Option, check


@dataclass(frozen=True, kw_only=True, slots=True)
class CropConfig:
    """Which crops are trained on.

    Args:
        crop_size: Side of a crop in pixels.
        min_scale: Images are shrunk by a random factor from this to 1.
        color_permutation: Share of the crops with red, green and blue exchanged at random.
    """

    crop_size: Annotated[int, Option(), AT_LEAST_1] = 128
    min_scale: Annotated[float, Option(), SHARE_ABOVE_0] = 0.5
    color_permutation: Annotated[float, Option(), SHARE] = 0.25

    def __post_init__(self) -> None:
        check(self)

    def dataset(self, data: str | os.PathLike[str], *, seed: int) -> RandomCropDataset:
        """The stream of such crops of the images under a folder."""
        return RandomCropDataset(
            data,
            self.crop_size,
            scale=(self.min_scale, 1.0),
            color_permutation=self.color_permutation,
            seed=seed,
        )


class CropBatches:
    """Batches of a stream of crops.

    Args:
        dataset: The stream.
        stride: From the first number of a batch to that of the next one asked for; with workers only.
        num_workers: Processes that prepare the next batches; with 0, a batch is made when it is asked for.
    """

    def __init__(
        self, dataset: RandomCropDataset, *, stride: int = 0, num_workers: int = 0
    ) -> None:
        self.dataset = dataset
        self._stride, self._num_workers = stride, num_workers
        self._ahead: Iterator[Tensor] = iter(())
        self._next: range | None = None

    def __call__(self, numbers: range) -> Tensor:
        """The crops with these numbers, ``[B, 3, S, S]`` in [-1, 1]."""
        if not self._num_workers:
            return torch.stack([self.dataset[n] for n in numbers])
        if numbers != self._next:
            self._ahead = iter(
                DataLoader(
                    self.dataset,
                    batch_sampler=(
                        [n + shift for n in numbers] for shift in count(0, self._stride)
                    ),
                    num_workers=self._num_workers,
                    pin_memory=torch.cuda.is_available(),
                )
            )
        self._next = range(numbers.start + self._stride, numbers.stop + self._stride)
        return next(self._ahead)
