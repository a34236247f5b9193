# SPDX-License-Identifier: Apache-2.0
"""The digits of MNIST as a stream of pictures with classes, as other recipes get theirs from a folder of photographs."""

from __future__ import annotations

import os

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from genaccel.data.digits import MANIFEST_NAME, Split, load_digits
from genaccel.data.image_folder import RandomCropDataset


class DigitImages(Dataset[Tensor]):
    """An endless, numbered stream of digits in random order, all of them before any comes twice.

    Args:
        folder: Folder that :func:`genaccel.data.digits.fetch_digits` made.
        size: Side of the pictures in pixels, at least 28; digits stand in the middle of black.
        split: Which part of the digits.
        seed: Of the order.

    Raises:
        FileNotFoundError: If the digits are not there.
        ValueError: If the size is too small, or the digits are damaged.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        size: int,
        *,
        split: Split = "train",
        seed: int = 0,
    ) -> None:
        digits = load_digits(folder, split)
        margin = size - digits.images.shape[1]
        if margin < 0:
            raise ValueError(f"digits have {digits.images.shape[1]} pixels a side, got size {size}")
        before, after = margin // 2, margin - margin // 2
        self._images = np.pad(digits.images, ((0, 0), (before, after), (before, after)))
        self._labels, self._seed = digits.labels, seed
        self._orders: dict[int, Tensor] = {}

    def __getitem__(self, index: int) -> Tensor:
        """Digit number ``index``: ``[3, size, size]`` in [-1, 1], all channels alike."""
        pixels = torch.from_numpy(self._images[self._row(index)]).float()
        return pixels.div_(127.5).sub_(1.0).expand(3, -1, -1)

    def class_of(self, index: int) -> str:
        """What digit number ``index`` is, ``"0"`` to ``"9"``."""
        return str(self._labels[self._row(index)])

    def class_names(self, *, min_images: int) -> list[str]:
        """The classes that have as many digits."""
        counts = np.bincount(self._labels, minlength=10)
        return [str(label) for label, count in enumerate(counts) if count >= min_images]

    def _row(self, index: int) -> int:
        if index < 0:
            raise IndexError(f"index must be at least 0, got {index}")
        epoch, place = divmod(index, len(self._labels))
        if epoch not in self._orders:
            generator = torch.Generator().manual_seed(self._seed + epoch)
            self._orders = {epoch: torch.randperm(len(self._labels), generator=generator)}
        return int(self._orders[epoch][place])


def open_training_images(
    folder: str | os.PathLike[str],
    size: int,
    *,
    scale: tuple[float, float],
    seed: int,
    split: Split = "train",
) -> RandomCropDataset | DigitImages:
    """The stream of square pictures that a folder gives.

    Args:
        folder: Images, at any depth, or what `genaccel data digits` wrote.
        size: Side in pixels.
        scale: Of random crops; digits are taken whole.
        seed: Number of the stream.
        split: Which part of the digits; a folder of images has no parts.
    """
    if os.path.isfile(os.path.join(folder, MANIFEST_NAME)) and os.path.isfile(
        os.path.join(folder, f"{split}.safetensors")
    ):
        return DigitImages(folder, size, split=split, seed=seed)
    return RandomCropDataset(folder, size, scale=scale, seed=seed)
