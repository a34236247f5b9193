# SPDX-License-Identifier: Apache-2.0
"""Two folders of images, matched by file stem, and a metric's value for each pair."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from genaccel.data.image_files import find_images, read_rgb

# Names shown of each folder's unmatched files before the rest is only counted.
_NAMES_SHOWN = 10


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

    def read(self) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        """Both images, ``[H, W, 3]``.

        Raises:
            OSError: If one does not decode.
            ValueError: If their sizes differ; nothing is resized.
        """
        original, reconstruction = read_rgb(self.original), read_rgb(self.reconstruction)
        if original.shape != reconstruction.shape:
            raise ValueError(
                f"{self.name}: {self.original} has {original.shape[1]}x{original.shape[0]} pixels, "
                f"{self.reconstruction} has {reconstruction.shape[1]}x{reconstruction.shape[0]}"
            )
        return original, reconstruction


@dataclass(frozen=True, kw_only=True, slots=True)
class Score:
    """Value of a metric for one pair."""

    name: str
    value: float


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
    left, right = _by_stem(originals), _by_stem(reconstructions)
    complaints = [
        f"only in {folder}: {_listing(sorted(names))}"
        for folder, names in (
            (originals, left.keys() - right.keys()),
            (reconstructions, right.keys() - left.keys()),
        )
        if names
    ]
    if complaints and not intersect:
        raise ValueError("the folders do not match; " + "; ".join(complaints))
    pairs = [
        ImagePair(name=name, original=left[name], reconstruction=right[name])
        for name in sorted(left.keys() & right.keys())
    ]
    if not pairs:
        raise ValueError(f"{originals} and {reconstructions} have no image in common")
    return pairs


def _by_stem(folder: str | os.PathLike[str]) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for path in find_images(folder):
        name = path.relative_to(folder).with_suffix("").as_posix()
        if name in found:
            raise ValueError(f"{found[name]} and {path} share the stem {name!r}")
        found[name] = path
    return found


def _listing(names: Sequence[str]) -> str:
    shown = ", ".join(names[:_NAMES_SHOWN])
    rest = len(names) - _NAMES_SHOWN
    return f"{shown} and {rest} more" if rest > 0 else shown


def score_pairs(
    pairs: Sequence[ImagePair],
    metric: Callable[[NDArray[np.uint8], NDArray[np.uint8]], float],
) -> Iterator[Score]:
    """Apply a metric of two ``[H, W, 3]`` uint8 images to each pair.

    Raises:
        ValueError: If sizes differ or the metric refuses an image; the message names the pair.
    """
    for pair in pairs:
        original, reconstruction = pair.read()
        try:
            value = metric(original, reconstruction)
        except ValueError as error:
            raise ValueError(f"{pair.name}: {error}") from error
        yield Score(name=pair.name, value=value)


def mean(scores: Sequence[Score]) -> float:
    """Mean of the images' values (for PSNR: of the decibels, as in the literature)."""
    return sum(score.value for score in scores) / len(scores)


def print_report(metric_name: str, scores: Sequence[Score], *, as_json: bool) -> None:
    """Print the values and their mean, as text or as one JSON object.

    JSON has no infinity: the PSNR of identical images is null there.
    """
    if as_json:
        content = {
            "metric": metric_name,
            "images": {score.name: _finite(score.value) for score in scores},
            "mean": _finite(mean(scores)),
        }
        print(json.dumps(content, indent=1))
        return
    width = max(len(score.name) for score in scores)
    for score in scores:
        print(f"{score.name:<{width}}  {score.value:.4f}")
    print(f"mean {metric_name} of {len(scores)} images: {mean(scores):.4f}")


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
