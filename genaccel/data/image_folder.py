# SPDX-License-Identifier: Apache-2.0
"""An endless, numbered stream of random crops from a folder of images."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset
from tqdm import tqdm

from genaccel.data.class_names import class_of, classes_of
from genaccel.files.folders import find_images
from genaccel.files.images import AS_STORED, read_image, read_size

_logger = logging.getLogger(__name__)

# Philox takes its key and counter in words of 64 bits.
_WORD_LIMIT = 1 << 64


class RandomCropDataset(Dataset[Tensor]):
    """Random square crops of the images under a folder.

    Crop ``index`` is a pure function of the folder's contents, ``seed`` and ``index``: there are no
    epochs and no random state, so a run that stopped after ``n`` crops goes on with number ``n``, in any
    number of workers. A crop takes a random image, downscales it by a random factor (Lanczos), cuts a
    random square out of it and mirrors half of them.

    Images are decoded once, while scanning, and kept as 8-bit pixels until ``cache_bytes`` are in use;
    later images are only checked for their header and decoded at each use. Files that cannot be read, or
    are smaller than a crop, are left out and logged by name.

    Args:
        folder: Folder with images, at any depth.
        crop_size: Side of a crop in pixels.
        scale: Range of the factor by which the image is resized, within (0, 1]; it is raised where the
            resized image would be smaller than the crop.
        color_permutation: Share of the crops whose red, green and blue are exchanged at random. A small
            collection knows few colours: landscapes have no saturated red.
        seed: Number of the stream.
        cache_bytes: Memory for decoded images. Workers that are forked share it.

    Attributes:
        paths: The images in use, ordered by their path under ``folder``.
        skipped: The files left out, with the reason.

    Raises:
        NotADirectoryError: If ``folder`` is not a folder.
        ValueError: If an argument is out of range or no image is left.

    Example:
        >>> dataset = RandomCropDataset("photos/train", 128, scale=(0.5, 1.0), seed=0)
        >>> dataset[10_000_000].shape
        torch.Size([3, 128, 128])
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        crop_size: int,
        *,
        scale: tuple[float, float] = (0.5, 1.0),
        color_permutation: float = 0.0,
        seed: int = 0,
        cache_bytes: int = 2 << 30,
    ) -> None:
        if crop_size < 1:
            raise ValueError(f"crop_size must be at least 1, got {crop_size}")
        if not 0 < scale[0] <= scale[1] <= 1:
            raise ValueError(f"scale must satisfy 0 < low <= high <= 1, got {scale}")
        if not 0 <= color_permutation <= 1:
            raise ValueError(f"color_permutation must be within [0, 1], got {color_permutation}")
        if not 0 <= seed < _WORD_LIMIT:
            raise ValueError(f"seed must be within [0, 2**64), got {seed}")
        if cache_bytes < 0:
            raise ValueError(f"cache_bytes must not be negative, got {cache_bytes}")
        self.crop_size = crop_size
        self.scale = scale
        self.color_permutation = color_permutation
        self.seed = seed
        self.paths: list[Path] = []
        self.skipped: dict[Path, str] = {}
        self._pixels: dict[Path, NDArray[np.uint8]] = {}
        self._scan(find_images(folder), cache_bytes)
        if not self.paths:
            raise ValueError(
                f"{folder} has no image of at least {crop_size}x{crop_size} pixels that can be read"
            )

    def _scan(self, candidates: list[Path], cache_bytes: int) -> None:
        used_bytes = 0
        for path in tqdm(
            candidates, desc="reading images", unit="image", leave=False, disable=None
        ):
            try:
                if used_bytes < cache_bytes:
                    pixels = read_image(path, AS_STORED).pixels
                    height, width = pixels.shape[:2]
                else:
                    pixels = None
                    width, height = read_size(path, AS_STORED)
            except (OSError, ValueError) as error:
                self.skipped[path] = f"cannot be read ({error})"
                continue
            if min(height, width) < self.crop_size:
                self.skipped[path] = f"{width}x{height} pixels, smaller than a crop"
                continue
            self.paths.append(path)
            if pixels is not None and used_bytes + pixels.nbytes <= cache_bytes:
                self._pixels[path] = pixels
                used_bytes += pixels.nbytes
        for path, reason in self.skipped.items():
            _logger.warning("left out %s: %s", path, reason)

    def __getitem__(self, index: int) -> Tensor:
        """Crop number ``index``: ``[3, crop_size, crop_size]`` in [-1, 1].

        Raises:
            IndexError: If ``index`` is negative or not below 2**64.
            OSError: If an image that was not cached cannot be opened any more.
            BitstreamError: If it no longer decodes.
        """
        if not 0 <= index < _WORD_LIMIT:
            raise IndexError(f"index must be within [0, 2**64), got {index}")
        size = self.crop_size
        random = self._random(index)
        path = self.paths[random.integers(len(self.paths))]
        pixels = self._pixels.get(path)  # [H, W, 3]
        if pixels is None:
            pixels = read_image(path, AS_STORED).pixels
        height, width = pixels.shape[:2]
        factor = max(random.uniform(*self.scale), size / min(height, width))
        region = min(round(size / factor), height, width)
        top = int(random.integers(height - region + 1))
        left = int(random.integers(width - region + 1))
        crop = pixels[top : top + region, left : left + region]
        if region != size:
            resized = Image.fromarray(crop).resize((size, size), Image.Resampling.LANCZOS)
            crop = np.asarray(resized)
        if random.integers(2):
            crop = crop[:, ::-1]
        if random.random() < self.color_permutation:
            crop = crop[..., random.permutation(3)]
        planes = np.ascontiguousarray(crop.transpose(2, 0, 1), dtype=np.float32)  # [3, S, S]
        return torch.from_numpy(planes).div_(127.5).sub_(1.0)

    def path_of(self, index: int) -> Path:
        """The image that crop number ``index`` is cut from.

        Raises:
            IndexError: If ``index`` is negative or not below 2**64.
        """
        if not 0 <= index < _WORD_LIMIT:
            raise IndexError(f"index must be within [0, 2**64), got {index}")
        return self.paths[self._random(index).integers(len(self.paths))]

    def class_of(self, index: int) -> str:
        """Class of the image that crop number ``index`` is cut from, by its file's name; empty if it has none."""
        return class_of(self.path_of(index))

    def class_names(self, *, min_images: int) -> list[str]:
        """Classes by label, in the order of the alphabet.

        Raises:
            ValueError: If no class has as many images.
        """
        return classes_of(self.paths, min_images=min_images)

    def _random(self, index: int) -> np.random.Generator:
        # The counter's top word: the generator's own steps, which count up from the bottom, never reach it.
        counter = np.array([0, 0, 0, index], dtype=np.uint64)
        return np.random.Generator(np.random.Philox(key=self.seed, counter=counter))
