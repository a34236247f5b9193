# SPDX-License-Identifier: Apache-2.0
"""BMP files whose pixels are bit fields that Pillow refuses, or whose transparency it passes over."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from genaccel.errors import BitstreamError

# Compressions of BITMAPINFOHEADER: masks of three channels, and of four.
_BIT_FIELDS, _ALPHA_BIT_FIELDS = 3, 6
_RGB_OF_PILLOW = {
    16: {(0xF800, 0x7E0, 0x1F), (0x7C00, 0x3E0, 0x1F)},
    32: {(0xFF0000, 0xFF00, 0xFF), (0xFF000000, 0xFF0000, 0xFF00), (0xFF000000, 0xFF00, 0xFF)},
}


@dataclass(frozen=True, kw_only=True, slots=True)
class BitFields:
    """Layout of such a file.

    Attributes:
        width: Of the image.
        height: Likewise.
        is_top_down: Whether the first row is the upper one.
        start: Of the pixels in the file.
        bits: Of a pixel, 16 or 32.
        masks: Of red, green, blue and, if there is one, alpha.
    """

    width: int
    height: int
    is_top_down: bool
    start: int
    bits: int
    masks: tuple[int, ...]

    def read(self, stream: BinaryIO) -> Image.Image:
        """The image, of mode RGB or RGBA.

        Raises:
            BitstreamError: If the file is cut off.
        """
        row_bytes = (self.width * self.bits // 8 + 3) // 4 * 4
        stream.seek(self.start)
        data = stream.read(row_bytes * self.height)
        if len(data) < row_bytes * self.height:
            raise BitstreamError("BMP file is cut off")
        kind = np.dtype(f"<u{self.bits // 8}")
        rows = np.frombuffer(data, np.uint8).reshape(self.height, row_bytes)
        words = np.ascontiguousarray(rows[:, : self.width * kind.itemsize]).view(kind)
        words = words if self.is_top_down else words[::-1]
        image = Image.fromarray(np.stack([_channel(words, mask) for mask in self.masks], axis=2))
        image.format = "BMP"
        return image


def _channel(words: NDArray[np.unsignedinteger[Any]], mask: int) -> NDArray[np.uint8]:
    """The bits of a mask, of which there are at most 8, spread over [0, 255]."""
    lowest = mask & -mask
    largest = mask // lowest
    levels = (np.arange(largest + 1) * 255 + largest // 2) // largest
    return levels.astype(np.uint8)[(words & mask) // lowest]


def bit_fields(stream: BinaryIO) -> BitFields | None:
    """The layout of a BMP file that Pillow does not read in full; None of any other file.

    Fields that overlap, have holes, or more than 8 bits are left to Pillow, which refuses them.
    """
    stream.seek(0)
    head = stream.read(70)
    stream.seek(0)
    if len(head) < 66 or head[:2] != b"BM":
        return None
    start, size, width, height, _, bits, compression = struct.unpack_from("<IIiiHHI", head, 10)
    if bits not in _RGB_OF_PILLOW or compression not in (_BIT_FIELDS, _ALPHA_BIT_FIELDS):
        return None
    has_alpha = len(head) == 70 and (compression == _ALPHA_BIT_FIELDS or size >= 56)
    masks = struct.unpack_from("<4I" if has_alpha else "<3I", head, 54)
    masks = masks[:3] if masks[3:] == (0,) else masks
    if masks[:3] in _RGB_OF_PILLOW[bits] and (bits == 32 or len(masks) == 3):
        return None
    runs = [(mask // (mask & -mask)) if mask else 0 for mask in masks]
    are_runs = all(0 < run < 256 and run & (run + 1) == 0 for run in runs)
    is_in_pixel = sum(masks) < 1 << bits and sum(masks) == np.bitwise_or.reduce(masks)
    if size < 40 or width <= 0 or height == 0 or not (are_runs and is_in_pixel):
        return None
    return BitFields(
        width=width,
        height=abs(height),
        is_top_down=height < 0,
        start=start,
        bits=bits,
        masks=masks,
    )
