# SPDX-License-Identifier: Apache-2.0
"""JPEG, WebP and AVIF at a given file size, through Pillow."""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from genaccel.files.image_writer import encode_image
from genaccel.files.images import AS_STORED, read_image

ClassicalFormat = Literal["jpeg", "webp", "avif"]

# The settings that give most for the bytes; for AVIF the default of avifenc, since its slower ones take
# seconds a file.
_OPTIONS: dict[str, dict[str, Any]] = {
    "jpeg": {"optimize": True, "progressive": True},
    "webp": {"method": 6},
    "avif": {"speed": 6},
}
# libjpeg's scale starts at 1 and above 95 only grows the file.
_QUALITIES: dict[str, tuple[int, int]] = {"jpeg": (1, 95), "webp": (0, 100), "avif": (0, 100)}


@dataclass(frozen=True, kw_only=True, slots=True)
class ClassicalFile:
    """An image in a classical format.

    Attributes:
        format: The format.
        data: The file.
        quality: The encoder's quality setting.
        is_floor: Whether even the lowest quality takes more bytes than asked for.
    """

    format: ClassicalFormat
    data: bytes
    quality: int
    is_floor: bool


def encode_classical(image: NDArray[np.uint8], format: ClassicalFormat, *, quality: int) -> bytes:
    """Encode ``[H, W, 3]`` at one quality setting.

    Raises:
        ValueError: If the format is unknown or the quality out of its range.
    """
    _require_format(format)
    low, high = _QUALITIES[format]
    if not low <= quality <= high:
        raise ValueError(f"quality of {format} must be within {low} to {high}, got {quality}")
    return encode_image(image, format.upper(), quality=quality, **_OPTIONS[format])


def decode_classical(data: bytes) -> NDArray[np.uint8]:
    """Decode such a file to ``[H, W, 3]``."""
    return read_image(io.BytesIO(data), AS_STORED).pixels


def encode_to_size(
    image: NDArray[np.uint8], format: ClassicalFormat, *, target_bytes: int
) -> ClassicalFile:
    """Encode ``[H, W, 3]`` at the quality whose file size is nearest to a target.

    The size grows with the quality, so a binary search finds the two settings around the target.

    Raises:
        ValueError: If the format is unknown or the target is not positive.
    """
    _require_format(format)
    if target_bytes < 1:
        raise ValueError(f"target_bytes must be at least 1, got {target_bytes}")
    low, high = _QUALITIES[format]
    files = {low: encode_classical(image, format, quality=low)}
    is_floor = len(files[low]) > target_bytes
    while not is_floor and low < high:
        middle = (low + high + 1) // 2
        files[middle] = encode_classical(image, format, quality=middle)
        if len(files[middle]) <= target_bytes:
            low = middle
        else:
            high = middle - 1
    quality = min(files, key=lambda tried: (abs(len(files[tried]) - target_bytes), tried))
    return ClassicalFile(format=format, data=files[quality], quality=quality, is_floor=is_floor)


def _require_format(format: str) -> None:
    if format not in get_args(ClassicalFormat):
        names = ", ".join(get_args(ClassicalFormat))
        raise ValueError(f"format must be one of {names}, got {format!r}")
