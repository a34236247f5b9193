# SPDX-License-Identifier: Apache-2.0
"""Two folders of images, matched by their paths without the extension."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from genaccel.errors import listing
from genaccel.eval.images import load_image
from genaccel.files.folders import find_images


@dataclass(frozen=True, kw_only=True, slots=True)
class ImagePair:
    """Two files that show the same picture.

    Attributes:
        name: Their common path without the extension, relative to either folder.
        original: File of the first folder.
        reconstruction: File of the second folder.
    """

    name: str
    original: Path
    reconstruction: Path

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


def match_folders(
    originals: str | os.PathLike[str],
    reconstructions: str | os.PathLike[str],
    *,
    intersect: bool = False,
) -> list[ImagePair]:
    """Pair the images of two folders by their relative path without the extension.

    Args:
        originals: First folder.
        reconstructions: Second folder.
        intersect: Leave unmatched files out instead of refusing them.

    Raises:
        NotADirectoryError: If one is not a folder.
        ValueError: If files have no partner, two files of a folder share a stem, or no pair is left.
    """
    left, right = (by_stem(folder, find_images(folder)) for folder in (originals, reconstructions))
    for folder, files in ((originals, left), (reconstructions, right)):
        if not files:
            raise ValueError(f"{folder} holds no image")
    return [
        ImagePair(name=name, original=left[name], reconstruction=right[name])
        for name in common_names((originals, left), (reconstructions, right), intersect=intersect)
    ]


Found = tuple[str | os.PathLike[str], Mapping[str, Path]]


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
        f"only in {folder}: {listing(sorted(names))}"
        for folder, names in (
            (left[0], left[1].keys() - right[1].keys()),
            (right[0], right[1].keys() - left[1].keys()),
        )
        if names
    ]
    if complaints and not intersect:
        raise ValueError(
            "the folders do not match (--intersect leaves such files out); " + "; ".join(complaints)
        )
    names = sorted(left[1].keys() & right[1].keys())
    if not names:
        raise ValueError(f"{left[0]} and {right[0]} have no {unit} in common")
    return names


def by_stem(folder: str | os.PathLike[str], files: Iterable[Path]) -> dict[str, Path]:
    """Files of a folder by their path relative to it, without the extension.

    Raises:
        ValueError: If two files share one.
    """
    found: dict[str, Path] = {}
    for path in files:
        name = path.relative_to(folder).with_suffix("").as_posix()
        if name in found:
            raise ValueError(f"{found[name]} and {path} share the stem {name!r}")
        found[name] = path
    return found
