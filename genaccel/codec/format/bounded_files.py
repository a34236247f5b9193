# SPDX-License-Identifier: Apache-2.0
"""Reads files and streams up to a bound, and what a ``.gac`` file says about itself. It needs no torch."""

from __future__ import annotations

from pathlib import Path
from typing import BinaryIO

from genaccel.codec.format.bitstream import BitstreamInfo, describe
from genaccel.errors import LimitExceededError

# No file within the pixel limit needs more: 1.5 bytes a pixel, ten times the rate of the finest model.
MAX_FILE_BYTES = 2**28
_PART_BYTES = 2**20


def read_bounded(source: Path | BinaryIO, max_bytes: int) -> bytes:
    """All of a file or stream.

    Raises:
        LimitExceededError: If there is more than ``max_bytes``.
        OSError: If it cannot be read.
    """
    if isinstance(source, Path):
        with source.open("rb") as stream:
            return read_bounded(stream, max_bytes)
    parts: list[bytes] = []
    left = max_bytes
    # In parts: one read of that many bytes would allocate them, whatever there is to read.
    while part := source.read(min(_PART_BYTES, left + 1)):
        left -= len(part)
        if left < 0:
            raise LimitExceededError(f"input is larger than the limit of {max_bytes} bytes")
        parts.append(part)
    return b"".join(parts)


def describe_file(source: Path | BinaryIO, max_pixels: int) -> BitstreamInfo:
    """Header of a ``.gac`` file.

    Raises:
        BitstreamError: If the file is damaged, truncated, of another version, or no ``.gac`` file.
        LimitExceededError: If the image has more than ``max_pixels``.
        OSError: If the file cannot be read.
    """
    return describe(read_bounded(source, MAX_FILE_BYTES), max_pixels)
