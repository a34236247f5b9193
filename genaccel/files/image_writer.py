# SPDX-License-Identifier: Apache-2.0
"""Pictures written: arrays and Pillow images to image files, with what they carry."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from genaccel.errors import LimitExceededError
from genaccel.files.atomic import write_atomically
from genaccel.files.images import Colour, Metadata, text_bytes

WRITE_FORMATS = {
    ".png": "png",
    ".jpg": "jpeg",
    ".jpeg": "jpeg",
    ".webp": "webp",
    ".tif": "tiff",
    ".tiff": "tiff",
    ".ppm": "ppm",
}
OPAQUE_FORMATS = ("jpeg", "ppm")  # of those
# Lossless where the format can, else the least loss.
_SAVE_OPTIONS: dict[str, dict[str, Any]] = {
    "png": {},
    "jpeg": {"quality": 95, "subsampling": 0},
    "webp": {"lossless": True},
    "tiff": {"compression": "tiff_adobe_deflate"},
    "ppm": {},
}

_XMP_TAG = 700  # of TIFF


def encode_image(
    image: NDArray[np.uint8] | Image.Image,
    file_format: str,
    *,
    metadata: Metadata | None = None,
    **options: Any,
) -> bytes:
    """Image file of pixels.

    Args:
        image: uint8 ``[H, W, 3]``, where the format can ``[H, W, 4]``, or a Pillow image.
        file_format: ``png``, ``webp``, ``tiff``, ``ppm`` (all lossless) or ``jpeg`` (quality 95, 4:4:4); or with
            ``options`` any that Pillow writes.
        metadata: EXIF and XMP to write into the file, of any format but ``ppm``; of EXIF, ``tiff`` takes texts alone.
        options: Of Pillow's ``save``, instead of these.

    Raises:
        ValueError: For another format.
        LimitExceededError: If the format cannot hold an image of this size.
    """
    if not options and file_format not in _SAVE_OPTIONS:
        raise ValueError(
            f"file_format must be one of {', '.join(_SAVE_OPTIONS)}, got {file_format!r}"
        )
    picture = image if isinstance(image, Image.Image) else Image.fromarray(image)
    stream = io.BytesIO()
    settings = {
        **(options or _SAVE_OPTIONS[file_format]),
        **_metadata_options(metadata, file_format),
    }
    try:
        picture.save(stream, file_format, **settings)
    except (OSError, ValueError) as error:
        raise LimitExceededError(
            f"{file_format} cannot hold an image of {picture.width}x{picture.height} pixels: {error}"
        ) from error
    return stream.getvalue()


def on_background(
    pixels: NDArray[np.uint8], alpha: NDArray[np.uint8], colour: Colour
) -> NDArray[np.uint8]:
    """Pixels ``[H, W, 3]`` of a transparent image on a colour.

    Args:
        pixels: uint8 ``[H, W, 3]``, not multiplied by alpha.
        alpha: uint8 ``[H, W]``.
        colour: Red, green, blue.
    """
    rgb = Image.fromarray(pixels)
    under = Image.new("RGB", rgb.size, colour)
    return np.array(Image.composite(rgb, under, Image.fromarray(alpha)))


def _metadata_options(metadata: Metadata | None, file_format: str) -> dict[str, Any]:
    """Of Pillow's ``save``: each format has its own place for XMP."""
    if metadata is None or file_format == "ppm":
        return {}
    options: dict[str, Any] = {}
    if file_format == "tiff":
        return {"tiffinfo": _tiff_tags(metadata)}
    if metadata.exif:
        options["exif"] = b"Exif\0\0" + metadata.exif
    if metadata.xmp and file_format == "png":
        options["pnginfo"] = PngInfo()
        options["pnginfo"].add_itxt("XML:com.adobe.xmp", metadata.xmp.decode())
    elif metadata.xmp:
        options["xmp"] = metadata.xmp
    return options


def _tiff_tags(metadata: Metadata) -> dict[int, bytes]:
    """Texts of EXIF that are TIFF's own tags, and XMP: libtiff takes no tags in folders, such as the date's."""
    exif = Image.Exif()
    if metadata.exif:
        exif.load(b"Exif\0\0" + metadata.exif)
    tags = {tag: text_bytes(text) for tag, text in exif.items() if isinstance(text, str)}
    return {**tags, _XMP_TAG: metadata.xmp} if metadata.xmp else tags


def write_image(
    path: Path,
    image: NDArray[np.uint8] | Image.Image,
    *,
    overwrite: bool = False,
    parents: bool = False,
) -> None:
    """Write an image file of the format that its suffix names.

    Args:
        path: Ends in a key of :data:`WRITE_FORMATS`.
        image: As :func:`encode_image` takes it.
        overwrite: As :func:`genaccel.files.atomic.write_atomically` takes it, which says what else is raised.
        parents: As that takes it.

    Raises:
        ValueError: For another suffix.
        LimitExceededError: If the format cannot hold an image of this size.
    """
    suffix = path.suffix.lower()
    if suffix not in WRITE_FORMATS:
        raise ValueError(f"known suffixes are {', '.join(WRITE_FORMATS)}, got {str(path)!r}")
    data = encode_image(image, WRITE_FORMATS[suffix])
    write_atomically(path, data, overwrite=overwrite, parents=parents)
