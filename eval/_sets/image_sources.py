# SPDX-License-Identifier: Apache-2.0
"""Where a set of images comes from: files, an array, a generator, or a diffusers pipeline with its prompts."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from genaccel.errors import UnsupportedImageError
from genaccel.eval._sets.moments import DIGEST_BYTES
from genaccel.eval._sets.processes import Processes
from genaccel.eval.image_sets import ArchiveMember, ImageFile, SampleArray, find_image_files
from genaccel.eval.images import UNUSABLE, load_image
from genaccel.sampling.calls import run_call
from genaccel.sampling.images import images_of, to_pixels

PrepareFunction = Callable[[NDArray[np.uint8]], Tensor]


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Some images of a source.

    Attributes:
        number: Its place among the source's batches. Its contents do not depend on the number of
            processes or workers, so neither do the features.
        images: Prepared, ``[B, 3, S, S]``; B may be 0.
        digests: Of the pixels of each image.
        skipped: Reason by name of the files that could not be used.
    """

    number: int
    images: Tensor
    digests: Sequence[bytes] = ()
    skipped: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        number: int,
        pixels: Sequence[NDArray[np.uint8]],
        prepare: PrepareFunction,
        skipped: Mapping[str, str] | None = None,
    ) -> Batch:
        """Prepare images ``[H, W, 3]``."""
        images = [prepare(image) for image in pixels]
        return cls(
            number=number,
            images=torch.stack(images) if images else torch.empty(0),
            digests=[_digest(image) for image in pixels],
            skipped=skipped or {},
        )


def _digest(image: NDArray[np.uint8]) -> bytes:
    """Of shape and pixels: the same for a file that was saved again without loss."""
    digest = hashlib.blake2b(str(image.shape).encode(), digest_size=DIGEST_BYTES)
    digest.update(image.tobytes())
    return digest.digest()


class ImageSource(Protocol):
    """A set of images."""

    @property
    def name(self) -> str:
        """For records and messages."""

    @property
    def num_images(self) -> int | None:
        """Upper bound of the number of images, where it is known beforehand."""

    def batches(
        self, prepare: PrepareFunction, *, batch_size: int, processes: Processes, workers: int
    ) -> Iterator[Batch]:
        """This process's share of the batches, in order."""


@dataclass(frozen=True, kw_only=True)
class FileImages:
    """Image files, decoded in worker processes.

    Attributes:
        name: Folder, archive or description.
        files: Paths, or files inside of a .zip, in the order of the batches.
        strict: Raise for a file that cannot be used, instead of leaving it out by name.
        convert: As for :func:`genaccel.eval.images.load_image`.
        tile: Side of the tiles that each image is cut into, or None for whole images. A second grid,
            shifted by half a tile, is cut where it fits: the patch FID of HiFiC (arXiv:2006.09965).
        unusable: As :class:`genaccel.eval.image_sets.FoundImages` has it; counts as left out.
        notes: As there.
    """

    name: str
    files: Sequence[ImageFile]
    strict: bool = False
    convert: bool = False
    tile: int | None = None
    unusable: Mapping[str, str] = field(default_factory=dict)
    notes: Sequence[str] = ()

    @classmethod
    def from_folder(cls, folder: Path, **options: Any) -> FileImages:
        """All images under a folder, or in a .zip.

        Raises:
            NotADirectoryError: If it is neither.
            ValueError: If it holds no image, or is strict and holds a link to nothing or a closed folder.
        """
        found = find_image_files(folder)
        first = next((f"{name}: {why}" for name, why in found.unusable.items()), "")
        if first and options.get("strict"):
            raise ValueError(first)
        if not found.files:
            raise ValueError(f"{folder} holds no image" + (f"; {first}" if first else ""))
        return cls(
            name=str(folder),
            files=found.files,
            unusable=found.unusable,
            notes=found.notes,
            **options,
        )

    def content_digest(self) -> str:
        """SHA-256 of names and contents of the files, for a cache of their features."""
        digest = hashlib.sha256()
        for file in self.files:
            try:
                content = (
                    file.read_bytes() if isinstance(file, ArchiveMember) else _file_digest(file)
                )
            except UNUSABLE as error:
                content = str(error).encode()
            digest.update(f"{Path(file.name).name}\0".encode(errors="surrogateescape"))
            digest.update(hashlib.sha256(content).digest())
        return digest.hexdigest()

    @property
    def num_images(self) -> int | None:
        """Number of files; unknown for tiles."""
        return len(self.files) if self.tile is None else None

    def batches(
        self, prepare: PrepareFunction, *, batch_size: int, processes: Processes, workers: int
    ) -> Iterator[Batch]:
        """The files in order; a batch of tiles is one file."""
        # A large photograph makes a batch of tiles by itself.
        files_per_batch = batch_size if self.tile is None else 1
        loader = DataLoader(
            _FileBatches(self, prepare, files_per_batch),
            batch_size=None,
            sampler=range(
                processes.rank, -(-len(self.files) // files_per_batch), processes.world_size
            ),
            num_workers=workers,
        )
        with tqdm(
            total=-(-len(self.files) // processes.world_size),
            desc=self.name,
            unit="image",
            leave=False,
            # None: on a terminal only.
            disable=None if processes.is_main else True,
        ) as progress:
            for batch in loader:
                yield batch
                progress.update(min(files_per_batch, progress.total - progress.n))


class _FileBatches(Dataset[Batch]):
    def __init__(self, source: FileImages, prepare: PrepareFunction, files_per_batch: int) -> None:
        self.source, self.prepare, self.files_per_batch = source, prepare, files_per_batch

    def __getitem__(self, number: int) -> Batch:
        source = self.source
        images: list[NDArray[np.uint8]] = []
        skipped: dict[str, str] = {} if number else dict(source.unusable)
        start = number * self.files_per_batch
        for path in source.files[start : start + self.files_per_batch]:
            try:
                pixels = load_image(path, convert=source.convert).pixels
                parts = [pixels] if source.tile is None else list(tiles_of(pixels, source.tile))
            except UNUSABLE as error:
                if source.strict:
                    raise ValueError(f"{path}: {error}") from error
                skipped[str(path)] = str(error)
                continue
            images += parts
        return Batch.of(number, images, self.prepare, skipped)


def _file_digest(path: Path) -> bytes:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").digest()


@dataclass(frozen=True, kw_only=True)
class ArrayImages:
    """The images of an .npz, as samples of ADM are published; read row by row, however many there are.

    Attributes:
        array: The images.
        tile: As for :class:`FileImages`.
        strict: As for :class:`FileImages`; only tiles can leave an image out.
    """

    array: SampleArray
    tile: int | None = None
    strict: bool = False

    @property
    def name(self) -> str:
        """The file."""
        return str(self.array.path)

    @property
    def num_images(self) -> int | None:
        """Number of rows; unknown for tiles."""
        return self.array.shape[0] if self.tile is None else None

    def content_digest(self) -> str:
        """SHA-256 of the file, for a cache of its features."""
        return _file_digest(self.array.path).hex()

    def batches(
        self, prepare: PrepareFunction, *, batch_size: int, processes: Processes, workers: int
    ) -> Iterator[Batch]:
        """The rows in order, or a batch of tiles for each; ``workers`` play no part."""
        rows_per_batch = batch_size if self.tile is None else 1
        if self.tile is not None and min(self.array.shape[1:3]) < self.tile:
            height, width = self.array.shape[1:3]
            raise ValueError(
                f"{self.name}: images of {width}x{height} pixels are smaller than a tile of {self.tile}"
            )
        rows = tqdm(
            self.array,
            total=self.array.shape[0],
            desc=self.name,
            unit="image",
            leave=False,
            disable=None if processes.is_main else True,
        )
        iterator = iter(rows)
        number = 0
        while chunk := list(islice(iterator, rows_per_batch)):
            if number % processes.world_size == processes.rank:
                parts = chunk if self.tile is None else [*tiles_of(chunk[0], self.tile)]
                yield Batch.of(number, parts, prepare)
            number += 1


def tiles_of(image: NDArray[np.uint8], side: int) -> Iterator[NDArray[np.uint8]]:
    """Square tiles of ``[H, W, 3]``: one grid from the corner, one shifted by half a tile.

    Raises:
        UnsupportedImageError: If the image is smaller than a tile.
    """
    height, width = image.shape[:2]
    if min(height, width) < side:
        raise UnsupportedImageError(
            f"image of {width}x{height} pixels is smaller than a tile of {side}"
        )
    for offset in (0, side // 2):
        for top in range(offset, height - side + 1, side):
            for left in range(offset, width - side + 1, side):
                yield image[top : top + side, left : left + side]


@dataclass(frozen=True, kw_only=True)
class GeneratedImages:
    """Images of any iterable, one at a time.

    Attributes:
        images: Each as :func:`~genaccel.sampling.images.to_pixels` takes it.
        name: For records.
        num_images: Upper bound, where it is known.
    """

    images: Iterable[Any]
    name: str = "generator"
    num_images: int | None = None

    def batches(
        self, prepare: PrepareFunction, *, batch_size: int, processes: Processes, workers: int
    ) -> Iterator[Batch]:
        """The images in the order in which they come.

        Raises:
            ValueError: With several processes, which would all count the same images.
        """
        if processes.world_size > 1:
            raise ValueError("an iterable cannot be shared by several processes; use files")
        iterator = iter(self.images)
        number = 0
        with tqdm(
            total=self.num_images, desc=self.name, unit="image", leave=False, disable=None
        ) as progress:
            while chunk := to_pixels(list(islice(iterator, batch_size))):
                yield Batch.of(number, chunk, prepare)
                number += 1
                progress.update(len(chunk))


@dataclass(frozen=True, kw_only=True)
class PipelineImages:
    """Images that a diffusers pipeline makes of a list of prompts, each with a seed of its own.

    Attributes:
        pipeline: Called with prompts, ``generator=`` and ``output_type="np"``.
        prompts: One an image; class labels for a class-conditional pipeline.
        seed: The generator of image ``i`` starts at ``seed + i``, whatever the batches are.
        prompt_argument: Name of the pipeline's argument: ``"class_labels"`` for DiT.
        arguments: Further arguments: ``num_inference_steps``, ``guidance_scale``...
        images_per_call: Prompts given to one call.
        name: For records.
    """

    pipeline: Any
    prompts: Sequence[Any]
    seed: int = 0
    prompt_argument: str = "prompt"
    arguments: Mapping[str, Any] = field(default_factory=dict)
    images_per_call: int = 1
    name: str = "pipeline"

    @property
    def num_images(self) -> int | None:
        """Number of prompts."""
        return len(self.prompts)

    def batches(
        self, prepare: PrepareFunction, *, batch_size: int, processes: Processes, workers: int
    ) -> Iterator[Batch]:
        """A batch for each call of the pipeline; ``batch_size`` and ``workers`` play no part."""
        starts = range(0, len(self.prompts), self.images_per_call)
        own = starts[processes.rank :: processes.world_size]
        progress = tqdm(
            own, desc=self.name, leave=False, disable=None if processes.is_main else True
        )
        for start in progress:
            prompts = list(self.prompts[start : start + self.images_per_call])
            call = {
                self.prompt_argument: prompts,
                "seed": range(self.seed + start, self.seed + start + len(prompts)),
                "output_type": "np",
                **self.arguments,
            }
            images = images_of(run_call(self.pipeline, call))
            yield Batch.of(start // self.images_per_call, images, prepare)
