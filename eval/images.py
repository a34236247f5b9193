# SPDX-License-Identifier: Apache-2.0
"""Reading the images that are judged: what a metric sees is what the file shows, or the file is refused."""

from __future__ import annotations

import io
import os

from genaccel.errors import BitstreamError, LimitExceededError, UnsupportedImageError
from genaccel.eval.image_sets import ArchiveMember, ImageFile
from genaccel.files.images import LoadedImage, ReadPolicy, read_image

# Far above any photograph, and still a bound on what a hostile file can make us allocate.
_MAX_PIXELS = 1 << 28
_CONVERT = "--convert puts it on white and takes 8 bits"
_STRICT = ReadPolicy(max_pixels=_MAX_PIXELS, remedies={"transparency": _CONVERT, "depth": _CONVERT})
_CONVERTING = ReadPolicy(max_pixels=_MAX_PIXELS, transparency=(255, 255, 255), depth="reduce")

# Starting worker processes takes longer than decoding fewer images than this.
_MIN_IMAGES_FOR_WORKERS = 64
_MAX_WORKERS = 8

# What makes a single file unusable, and leaves the others of its folder alone.
UNUSABLE = (BitstreamError, LimitExceededError, UnsupportedImageError, OSError)


def load_image(path: ImageFile, *, convert: bool = False) -> LoadedImage:
    """Read an image as upright 8-bit sRGB ``[H, W, 3]``; grey images become three equal channels.

    Args:
        path: File of any format that :func:`genaccel.files.images.read_image` reads, or one inside of a .zip.
        convert: Put transparent images on white and reduce deep samples to 8 bits, instead of refusing.

    Raises:
        BitstreamError: If the file does not decode.
        LimitExceededError: If it has more than 2**28 pixels.
        UnsupportedImageError: If it is transparent or deep, and ``convert`` is off; or of a high dynamic range.
        OSError: If the file cannot be opened.
    """
    source = io.BytesIO(path.read_bytes()) if isinstance(path, ArchiveMember) else path
    return read_image(source, _CONVERTING if convert else _STRICT)


def decoding_workers(count: int) -> int:
    """Worker processes for decoding ``count`` images or pairs: none for a few."""
    if count < _MIN_IMAGES_FOR_WORKERS:
        return 0
    # What this process may use, which a container or taskset makes fewer than the machine has.
    affinity = getattr(os, "sched_getaffinity", None)
    return min(_MAX_WORKERS, len(affinity(0)) if affinity else os.cpu_count() or 1)
