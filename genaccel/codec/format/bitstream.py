# SPDX-License-Identifier: Apache-2.0
"""The ``.gac`` container: at most 21 bytes around the range coder's output. docs/format.md is its specification.

    magic 4 | version and flags 1 | width 1..3 | height 1..3 | model number 1 | model digest 4 | [slices 1] |
    [alpha plane] | [metadata] | payload | CRC32C 4

Version 1 holds indices coded with static tables, version 2 those coded with an entropy model. The parser is strict:
one image has one header, and whatever does not follow the format to the bit is refused.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

from genaccel import _coder, zoo
from genaccel.codec.format.limits import DEFAULT_MAX_PIXELS, MAX_METADATA_BYTES, MAX_SIDE
from genaccel.codec.format.metadata import PhotoMetadata
from genaccel.codec.format.varint import read_varint, write_varint
from genaccel.errors import BitstreamError, LimitExceededError

EXTENSION = ".gac"
MAGIC = b"\xc1GAC"  # 0xC1 occurs nowhere in UTF-8, so no text file starts like this
STATIC_VERSION = 1
ENTROPY_VERSION = 2
DIGEST_BYTES = 4
CUSTOM_MODEL_NUMBER = 0

_CRC_BYTES = 4
_ALPHA_LENGTH_BYTES = 4  # 28 bits hold two bytes for each pixel that may be
_MIN_FILE_BYTES = len(MAGIC) + 1 + 1 + 1 + 1 + DIGEST_BYTES + _CRC_BYTES
_PREFIX_FLAG = 1  # a byte with the number of slices follows the digest
_HALF_FLAG = 2  # the indices are those of the image at half its width and height
_ALPHA_FLAG = 4  # sections, each a length and so many bytes, stand before the payload
_METADATA_FLAG = 8
_FLAGS = {
    STATIC_VERSION: _HALF_FLAG | _ALPHA_FLAG | _METADATA_FLAG,
    ENTROPY_VERSION: _PREFIX_FLAG | _HALF_FLAG | _ALPHA_FLAG | _METADATA_FLAG,
}
# A file that claims more than this is a bomb: photographs take some 50 pixels a byte, one flat colour a few thousand.
# The tables of entropy models give no token less than 0.0014 bits: 277,000 pixels a byte.
_MAX_PIXELS_PER_BYTE = {STATIC_VERSION: 2**16, ENTROPY_VERSION: 2**20}


def half_sides(height: int, width: int) -> tuple[int, int]:
    """Height and width of the image whose indices a file at half size holds, rounded up."""
    return -(-height // 2), -(-width // 2)


def _most_alpha_bytes(width: int, height: int) -> int:
    """Of a plane of noise, with some to spare."""
    return min(2 * width * height + 64, 2 ** (7 * _ALPHA_LENGTH_BYTES) - 1)


def _read_section(data: bytes, position: int, end: int, name: str, most: int) -> tuple[bytes, int]:
    """Contents of a section, and where it ends."""
    head = data[position : min(position + _ALPHA_LENGTH_BYTES, end)]
    size, length_bytes = read_varint(head, 0, name, most_bytes=_ALPHA_LENGTH_BYTES)
    if not 1 <= size <= most:
        raise BitstreamError(f"{name} must have 1 to {most} bytes, and the file says {size}")
    start = position + length_bytes
    if end - start < size:
        raise BitstreamError(f"file ends inside its {name}")
    return data[start : start + size], start + size


@dataclass(frozen=True, kw_only=True, slots=True)
class Bitstream:
    """Contents of one ``.gac`` file.

    Attributes:
        width: Width of the image in pixels, before padding.
        height: Height of the image in pixels, before padding.
        model_number: Number of the zoo model that decodes it; 0 for a model outside the zoo.
        model_digest: First four bytes of the model's SHA-256.
        payload: Range-coded indices.
        version: 1 for static tables, 2 for an entropy model.
        num_slices: Slices of the entropy model's order in the payload; None for all of them.
        half_size: Whether the indices are those of the image at half its width and height.
        alpha: What :func:`genaccel.codec.coding.alpha_plane.encode_alpha` made; empty for an opaque image.
        metadata: What :meth:`PhotoMetadata.to_bytes` made; empty for none.

    Raises:
        ValueError: If a field cannot be written.

    Example:
        >>> stream = Bitstream(width=3, height=2, model_number=1, model_digest=b"abcd", payload=b"xyz")
        >>> len(stream.to_bytes())
        19
        >>> Bitstream.from_bytes(stream.to_bytes()) == stream
        True
    """

    width: int
    height: int
    model_number: int
    model_digest: bytes
    payload: bytes
    version: int = STATIC_VERSION
    num_slices: int | None = None
    half_size: bool = False
    alpha: bytes = b""
    metadata: bytes = b""

    def __post_init__(self) -> None:
        for name, side in (("width", self.width), ("height", self.height)):
            if not 1 <= side <= MAX_SIDE:
                raise ValueError(f"{name} must be in [1, {MAX_SIDE}], got {side}")
        if not 0 <= self.model_number <= 255:
            raise ValueError(f"model_number must be in [0, 255], got {self.model_number}")
        if len(self.model_digest) != DIGEST_BYTES:
            raise ValueError(
                f"model_digest must have {DIGEST_BYTES} bytes, got {len(self.model_digest)}"
            )
        if self.version not in _MAX_PIXELS_PER_BYTE:
            raise ValueError(f"version must be 1 or 2, got {self.version}")
        if self.num_slices is not None:
            if self.version != ENTROPY_VERSION:
                raise ValueError("num_slices needs format version 2")
            if not 1 <= self.num_slices <= 255:
                raise ValueError(f"num_slices must be in [1, 255], got {self.num_slices}")
        if len(self.alpha) > _most_alpha_bytes(self.width, self.height):
            raise ValueError(f"alpha plane of {len(self.alpha)} bytes is too large for the image")
        if len(self.metadata) > MAX_METADATA_BYTES:
            raise ValueError(
                f"metadata must have at most {MAX_METADATA_BYTES} bytes, got {len(self.metadata)}"
            )
        # One byte, that an empty payload be no special case.
        most = _MAX_PIXELS_PER_BYTE[self.version]
        height, width = self.coded_sides
        if width * height > most * (len(self.payload) + 1):
            raise ValueError(
                f"payload of {len(self.payload)} bytes cannot hold {width}x{height} pixels: "
                f"the format allows {most} pixels per byte"
            )

    @property
    def coded_sides(self) -> tuple[int, int]:
        """Height and width of the picture that the indices are of."""
        return half_sides(self.height, self.width) if self.half_size else (self.height, self.width)

    @property
    def header_bytes(self) -> int:
        """Bytes of all that comes before the payload."""
        return len(self._header())

    def _header(self) -> bytes:
        prefix = b"" if self.num_slices is None else bytes([self.num_slices])
        flags = (
            (_PREFIX_FLAG if prefix else 0)
            | (_HALF_FLAG if self.half_size else 0)
            | (_ALPHA_FLAG if self.alpha else 0)
            | (_METADATA_FLAG if self.metadata else 0)
        )
        return b"".join(
            (
                MAGIC,
                bytes([self.version << 4 | flags]),
                write_varint(self.width),
                write_varint(self.height),
                bytes([self.model_number]),
                self.model_digest,
                prefix,
                *(write_varint(len(s)) + s for s in (self.alpha, self.metadata) if s),
            )
        )

    def to_bytes(self) -> bytes:
        """The file."""
        body = self._header() + self.payload
        return body + int(_coder.crc32c(body)).to_bytes(_CRC_BYTES, "little")

    @classmethod
    def from_bytes(
        cls, data: bytes, max_pixels: int = DEFAULT_MAX_PIXELS, *, truncated: bool = False
    ) -> Bitstream:
        """Parse a file; allocates nothing but copies of what is in it. What its sections hold is not looked at.

        Args:
            data: The file.
            max_pixels: Largest width times height to accept.
            truncated: The file may have lost its end: everything behind the header is taken for payload, and no
                checksum is looked at. For version 2 only.

        Raises:
            BitstreamError: If the file is damaged, truncated, of another version, or no ``.gac`` file.
            LimitExceededError: If the image has more than ``max_pixels``.
            TypeError: If ``data`` is something else than bytes, such as a file's name.
        """
        if not isinstance(data, bytes | bytearray | memoryview):
            raise TypeError(
                f"data must be the bytes of a {EXTENSION} file, got {type(data).__name__}"
                + (": read the file first" if isinstance(data, str | os.PathLike) else "")
            )
        data = bytes(data)
        if not data:
            raise BitstreamError("file is empty")
        if data[: len(MAGIC)] != MAGIC[: len(data)]:
            raise BitstreamError(f"not a {EXTENSION} file: it starts with {data[:4].hex(' ')}")
        if len(data) < _MIN_FILE_BYTES:
            raise BitstreamError(
                f"file is truncated: {len(data)} bytes, at least {_MIN_FILE_BYTES} expected"
            )
        version, flags = data[len(MAGIC)] >> 4, data[len(MAGIC)] & 0xF
        # Before the checksum, whose place another version may have moved.
        if version not in _MAX_PIXELS_PER_BYTE:
            raise BitstreamError(
                f"format version {version} is not known here (only 1 and 2 are); a newer genaccel may read it"
            )
        if flags & ~_FLAGS[version]:
            raise BitstreamError(f"flags {flags:#x} are not known in format version {version}")
        if truncated:
            if version != ENTROPY_VERSION:
                raise BitstreamError(
                    "a file coded with static tables cannot be decoded in part: it has no slices"
                )
            end = len(data)
        else:
            end = len(data) - _CRC_BYTES
            stored = int.from_bytes(data[end:], "little")
            if _coder.crc32c(memoryview(data)[:end]) != stored:
                raise BitstreamError("checksum does not match: the file is damaged or truncated")

        width, position = read_varint(data[:end], len(MAGIC) + 1, "width")
        height, position = read_varint(data[:end], position, "height")
        number, digest = position, position + 1
        position = digest + DIGEST_BYTES
        has_prefix = bool(flags & _PREFIX_FLAG)
        if end < position + has_prefix:
            raise BitstreamError("file ends inside its model number or digest")
        if width <= MAX_SIDE and height <= MAX_SIDE and width * height > max_pixels:
            raise LimitExceededError(
                f"image of {width}x{height} pixels exceeds the limit of {max_pixels} pixels"
            )
        num_slices = data[position] if has_prefix else None
        position += has_prefix
        alpha = metadata = b""
        if flags & _ALPHA_FLAG:
            most = _most_alpha_bytes(width, height)
            alpha, position = _read_section(data, position, end, "alpha plane", most)
        if flags & _METADATA_FLAG:
            metadata, position = _read_section(data, position, end, "metadata", MAX_METADATA_BYTES)
        try:
            return cls(
                width=width,
                height=height,
                model_number=data[number],
                model_digest=data[digest : digest + DIGEST_BYTES],
                payload=data[position:end],
                version=version,
                num_slices=num_slices,
                half_size=bool(flags & _HALF_FLAG),
                alpha=alpha,
                metadata=metadata,
            )
        except ValueError as error:
            raise BitstreamError(f"header is not valid: {error}") from error


def model_in_words(stream: Bitstream) -> str:
    """The model that a file needs, in words for messages."""
    digest = f"digest {stream.model_digest.hex()}"
    if stream.model_number == CUSTOM_MODEL_NUMBER:
        return f"a model outside the zoo with {digest}"
    name = zoo.codec_name(stream.model_number)
    return (
        f"model {name!r} with {digest}"
        if name
        else f"model number {stream.model_number} ({digest})"
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class BitstreamInfo:
    """Contents of the header of a ``.gac`` file; nothing is decoded for it.

    Attributes:
        model: Name in the zoo; None for a model outside the zoo or one that this version does not have.
        model_digest: First four bytes of the model's SHA-256, hexadecimal.
        bits_per_pixel: Bits of the whole file, header and checksum included, over the image's pixels.
        entropy_model: Whether the model's entropy model coded it; otherwise its static tables did.
        num_slices: Slices that were sent; None for all, or where there are none.
        half_size: Whether it holds the image at half its width and height, to be enlarged.
        alpha_bytes: Of the plane of a transparent image; 0 for an opaque one.
        metadata_bytes: Of the section; 0 if there is none.
        metadata: What it says, as :class:`PhotoMetadata` names it.
    """

    width: int
    height: int
    format_version: int
    model: str | None
    model_number: int
    model_digest: str
    file_bytes: int
    payload_bytes: int
    bits_per_pixel: float
    entropy_model: bool
    num_slices: int | None
    half_size: bool
    alpha_bytes: int
    metadata_bytes: int
    metadata: dict[str, str]


def describe(
    data: bytes, max_pixels: int = DEFAULT_MAX_PIXELS, *, truncated: bool = False
) -> BitstreamInfo:
    """Header of a ``.gac`` file in readable form; the model needs not be at hand.

    Args:
        data: The file.
        max_pixels: Largest width times height to accept.
        truncated: The file may have lost its end.

    Raises:
        BitstreamError: If the file is damaged, truncated, of another version, or no ``.gac`` file.
        LimitExceededError: If the image has more than ``max_pixels``.
    """
    stream = Bitstream.from_bytes(data, max_pixels, truncated=truncated)
    return BitstreamInfo(
        width=stream.width,
        height=stream.height,
        format_version=stream.version,
        model=zoo.codec_name(stream.model_number),
        model_number=stream.model_number,
        model_digest=stream.model_digest.hex(),
        file_bytes=len(data),
        payload_bytes=len(stream.payload),
        bits_per_pixel=8 * len(data) / (stream.width * stream.height),
        entropy_model=stream.version == ENTROPY_VERSION,
        num_slices=stream.num_slices,
        half_size=stream.half_size,
        alpha_bytes=len(stream.alpha),
        metadata_bytes=len(stream.metadata),
        metadata=PhotoMetadata.from_bytes(stream.metadata).in_words() if stream.metadata else {},
    )
