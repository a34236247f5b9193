# SPDX-License-Identifier: Apache-2.0
"""The file of the authors' RDVQ codec (arXiv 2604.10546) for one image: 21 bytes in front of two streams.

    magic 8 | slices sent u8 | height u32 | width u32 | length of the top stream u32 | top stream | residual stream

Numbers are little endian. The file says nothing of its model and has no checksum: our own format is ``.gac``.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from genaccel.codec.format.limits import MAX_SIDE
from genaccel.errors import BitstreamError

MAGIC = b"RDVQBN3\0"

_HEADER = struct.Struct("<8sBIII")


@dataclass(frozen=True, kw_only=True, slots=True)
class RdvqFile:
    """Contents of one file.

    Attributes:
        num_slices: Slices sent, the first ones of each window; the decoder makes up the others.
        height: Height of the image in pixels, before padding.
        width: Width of the image in pixels, before padding.
        top: Stream of ranks and escapes (:class:`genaccel.codec.coding.escape_coding.EscapeEncoder`).
        residual: Stream of escaped indices.

    Raises:
        ValueError: If a field cannot be written.

    Example:
        >>> file = RdvqFile(num_slices=28, height=2, width=3, top=b"abcd", residual=b"efgh")
        >>> len(file.to_bytes())
        29
        >>> RdvqFile.from_bytes(file.to_bytes()) == file
        True
    """

    num_slices: int
    height: int
    width: int
    top: bytes
    residual: bytes

    def __post_init__(self) -> None:
        if not 0 <= self.num_slices <= 255:
            raise ValueError(f"num_slices must be in [0, 255], got {self.num_slices}")
        for name, side in (("height", self.height), ("width", self.width)):
            if not 1 <= side <= MAX_SIDE:
                raise ValueError(f"{name} must be in [1, {MAX_SIDE}], got {side}")

    def to_bytes(self) -> bytes:
        """The file."""
        header = _HEADER.pack(MAGIC, self.num_slices, self.height, self.width, len(self.top))
        return header + self.top + self.residual

    @classmethod
    def from_bytes(cls, data: bytes) -> RdvqFile:
        """Parse a whole file.

        Raises:
            BitstreamError: If it is truncated or of another format.
        """
        if data[: len(MAGIC)] != MAGIC:
            raise BitstreamError(f"not an RDVQ file: it starts with {data[:8].hex(' ')}")
        if len(data) < _HEADER.size:
            raise BitstreamError("file ends inside its header")
        _, num_slices, height, width, top_bytes = _HEADER.unpack_from(data)
        payload = data[_HEADER.size :]
        if top_bytes > len(payload):
            raise BitstreamError(
                f"file is truncated: {len(payload)} bytes of payload, a stream of {top_bytes} expected"
            )
        try:
            return cls(
                num_slices=num_slices,
                height=height,
                width=width,
                top=payload[:top_bytes],
                residual=payload[top_bytes:],
            )
        except ValueError as error:
            raise BitstreamError(f"header is not valid: {error}") from error
