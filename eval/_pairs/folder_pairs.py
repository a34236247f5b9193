# SPDX-License-Identifier: Apache-2.0
"""Two folders or archives of images, matched by their paths without the extension, or two single files."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from genaccel.errors import listing
from genaccel.eval.image_sets import (
    FoundImages,
    ImageFile,
    find_image_files,
    is_archive,
    name_inside,
)
from genaccel.eval.images import load_image

F = TypeVar("F", Path, ImageFile)


@dataclass(frozen=True, kw_only=True, slots=True)
class ImagePair:
    """Two files that show the same picture.

    Attributes:
        name: Their common path without the extension, relative to either folder.
        original: File of the first folder.
        reconstruction: File of the second folder.
    """

    name: str
    original: ImageFile
    reconstruction: ImageFile

    def read(self, *, convert: bool = False) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        """Both images, ``[H, W, 3]``.

        Args:
            convert: As for :func:`genaccel.eval.images.load_image`.

        Raises:
            ValueError: If their sizes differ (nothing is resized), or a file cannot be used.
            OSError: If a file cannot be opened.
        """
        images = []
        for path in (self.original, self.reconstruction):
            try:
                images.append(load_image(path, convert=convert).pixels)
            except ValueError as error:
                raise ValueError(f"{path}: {error}") from error
        original, reconstruction = images
        if original.shape != reconstruction.shape:
            raise ValueError(
                f"{self.original} has {original.shape[1]}x{original.shape[0]} pixels, "
                f"{self.reconstruction} has {reconstruction.shape[1]}x{reconstruction.shape[0]}"
            )
        return original, reconstruction


@dataclass(frozen=True, kw_only=True, slots=True)
class MatchedImages:
    """Pairs of two folders, and what has no part in them.

    Attributes:
        pairs: In alphabetical order of their names.
        unmatched: Names of the files without a partner, by their folder.
        unusable: As :class:`genaccel.eval.image_sets.FoundImages` has it, of both folders.
        notes: Sentences about all else in the folders.
    """

    pairs: list[ImagePair]
    unmatched: dict[str, list[str]]
    unusable: dict[str, str]
    notes: list[str]


def match_images(
    originals: str | os.PathLike[str],
    reconstructions: str | os.PathLike[str],
    *,
    intersect: bool = False,
) -> MatchedImages:
    """Pair the images of two folders or .zip archives by their relative path without the extension, or two files.

    Args:
        originals: First folder, archive or file.
        reconstructions: The second, of the same kind.
        intersect: Leave unmatched files out instead of refusing them.

    Raises:
        NotADirectoryError: If one is not there, or is a single file and the other is not.
        ValueError: If one is a pipe or a device, files have no partner, two files of a folder share a stem, or no pair is left.
    """
    paths = Path(originals), Path(reconstructions)
    for path in paths:
        if not path.exists():
            raise NotADirectoryError(f"{path} is not a folder, and no file either")
        if not path.is_dir() and not path.is_file():
            raise ValueError(f"{path} is no regular file")
    are_files = [not path.is_dir() and not is_archive(path) for path in paths]
    if all(are_files):
        pair = ImagePair(name=paths[0].stem, original=paths[0], reconstruction=paths[1])
        return MatchedImages(pairs=[pair], unmatched={}, unusable={}, notes=[])
    if any(are_files):
        file, folder = paths if are_files[0] else paths[::-1]
        raise NotADirectoryError(
            f"{file} is not a folder, and {folder} is one: give two folders or two files"
        )
    found = [find_image_files(path) for path in paths]
    sides = [_named(side) for side in found]
    left, right = zip(paths, sides, strict=True)
    names = common_names(left, right, intersect=intersect)
    return MatchedImages(
        pairs=[
            ImagePair(name=name, original=sides[0][name], reconstruction=sides[1][name])
            for name in names
        ],
        unmatched=unmatched_names(left, right),
        unusable={name: why for side in found for name, why in side.unusable.items()},
        notes=[note for side in found for note in side.notes],
    )


def match_folders(
    originals: str | os.PathLike[str],
    reconstructions: str | os.PathLike[str],
    *,
    intersect: bool = False,
) -> list[ImagePair]:
    """The pairs of :func:`match_images`, which has the arguments and errors."""
    return match_images(originals, reconstructions, intersect=intersect).pairs


def _named(found: FoundImages) -> dict[str, ImageFile]:
    if not found.files:
        reason = next((f": {name}: {why}" for name, why in found.unusable.items()), "")
        raise ValueError(f"{found.place} holds no image{reason}")
    return _by_name(found.place, found.files)


Found = tuple[str | os.PathLike[str], Mapping[str, ImageFile]]


def common_names(left: Found, right: Found, *, intersect: bool, unit: str = "image") -> list[str]:
    """Names of the files that two folders share, in alphabetical order.

    Args:
        left: A folder with its files by name.
        right: The other one.
        intersect: Leave unmatched files out instead of refusing them.
        unit: Kind of the files, for the message.

    Raises:
        ValueError: If files have no partner, or none has one.
    """
    complaints = [
        f"only in {folder}: {listing(names)}"
        for folder, names in unmatched_names(left, right).items()
    ]
    if complaints and not intersect:
        raise ValueError(
            "the folders do not match (--intersect leaves such files out); " + "; ".join(complaints)
        )
    names = sorted(left[1].keys() & right[1].keys())
    if not names:
        raise ValueError(f"{left[0]} and {right[0]} have no {unit} in common")
    return names


def unmatched_names(left: Found, right: Found) -> dict[str, list[str]]:
    """Names that only one of two folders has, in alphabetical order, by that folder."""
    only = {
        str(mine[0]): sorted(mine[1].keys() - other[1].keys())
        for mine, other in ((left, right), (right, left))
    }
    return {folder: names for folder, names in only.items() if names}


def by_stem(folder: str | os.PathLike[str], files: Iterable[Path]) -> dict[str, Path]:
    """Files of a folder by their path relative to it, without the extension.

    Raises:
        ValueError: If two files share one.
    """
    return _by_name(folder, files)


def _by_name(folder: str | os.PathLike[str], files: Iterable[F]) -> dict[str, F]:
    found: dict[str, F] = {}
    for file in files:
        name = name_inside(folder, file)
        if name in found:
            raise ValueError(f"{found[name]} and {file} share the stem {name!r}")
        found[name] = file
    return found
