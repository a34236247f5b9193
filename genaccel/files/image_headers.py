# SPDX-License-Identifier: Apache-2.0
"""What the headers of image files say and Pillow does not: sizes of samples, and colours by code points.

Nothing here decodes a pixel. Lengths in a file are never trusted: what is read is bounded by what is there.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

from genaccel.errors import BitstreamError

# Of what describes images in AVIF and HEIC files; a few kilobytes in practice.
_MAX_META_BYTES = 2**24


@dataclass(frozen=True, slots=True)
class CodePoints:
    """Coding-independent code points (ITU-T H.273), as PNG's cICP chunk and the colr box of AVIF and HEIC give them.

    Attributes:
        primaries: Of the colours (8.1); 2 is unspecified.
        transfer: The transfer characteristics (8.2); 2 is unspecified.
        is_full_range: Whether samples of RGB go from 0 to their largest value, not from 16 to 235 of 255.
    """

    primaries: int
    transfer: int
    is_full_range: bool = True


@dataclass(frozen=True, kw_only=True, slots=True)
class HeaderFacts:
    """What a header says.

    Attributes:
        bits: Of a sample; 32 for floating-point ones.
        code_points: The colours, if they are given in this way.
    """

    bits: int = 8
    code_points: CodePoints | None = None


def png_facts(stream: BinaryIO) -> HeaderFacts:
    """Facts of a PNG file (W3C PNG, third edition, 11.2.1 and 11.3.2.6)."""
    bits, code_points = 8, None
    stream.seek(8)
    while len(start := stream.read(8)) == 8:
        length, name = struct.unpack(">I4s", start)
        if name in (b"IDAT", b"IEND"):
            break
        body = stream.read(min(length, 13))
        if name == b"IHDR" and len(body) == 13:
            bits = body[8]
        if name == b"cICP" and length == 4 and len(body) == 4:
            code_points = CodePoints(body[0], body[1], is_full_range=body[3] != 0)
        stream.seek(length - len(body) + 4, 1)
    return HeaderFacts(bits=bits, code_points=code_points)


def _boxes(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Boxes of ISO/IEC 14496-12, 4.2, by name, up to the first that is cut off."""
    position = 0
    while position + 8 <= len(data):
        size, name = struct.unpack_from(">I4s", data, position)
        start = position + 8
        if size == 1 and start + 8 <= len(data):
            size = struct.unpack_from(">Q", data, start)[0]
            start += 8
        end = len(data) if size == 0 else position + size
        if end < start or end > len(data):
            return
        yield name, data[start:end]
        position = end


def _top_boxes(stream: BinaryIO) -> Iterator[tuple[bytes, int, int]]:
    """Name, start of the content and its length, of each box of a file."""
    file_end = stream.seek(0, 2)
    position = 0
    while position + 8 <= file_end:
        stream.seek(position)
        size, name = struct.unpack(">I4s", stream.read(8))
        start = position + 8
        if size == 1 and start + 8 <= file_end:
            size = struct.unpack(">Q", stream.read(8))[0]
            start += 8
        end = file_end if size == 0 else position + size
        if end < start:
            return
        yield name, start, min(end, file_end) - start
        position = end


def _find(data: bytes, *names: bytes) -> bytes:
    """The content of the first box along a path of names; nothing if there is none."""
    for name in names:
        data = next((body for found, body in _boxes(data) if found == name), b"")
    return data


def _numbers(data: bytes, layout: str) -> tuple[int, ...]:
    size = struct.calcsize(layout)
    return struct.unpack(layout, data[:size]) if len(data) >= size else ()


def _properties_of(meta: bytes) -> list[list[tuple[bytes, bytes]]]:
    """Properties of the primary item, then those of each item that it is put together from (ISO/IEC 23008-12, 9.3).

    Args:
        meta: The boxes in the meta box.
    """
    version_wide = _find(meta, b"pitm")
    primary = _numbers(version_wide[4:], ">H" if version_wide[:1] == b"\0" else ">I")
    available = list(_boxes(_find(meta, b"iprp", b"ipco")))
    indices: dict[int, list[int]] = {}
    for name, box in _boxes(_find(meta, b"iprp")):
        if name != b"ipma" or len(box) < 8:
            continue
        item_size, index_size = (4 if box[0] else 2), (2 if box[3] & 1 else 1)
        position = 8
        for _ in range(struct.unpack_from(">I", box, 4)[0]):
            if position + item_size >= len(box):
                break
            item = int.from_bytes(box[position : position + item_size], "big")
            count = box[position + item_size]
            position += item_size + 1
            listed = box[position : position + count * index_size]
            position += count * index_size
            mask = 0x7FFF if index_size == 2 else 0x7F  # the highest bit says "essential"
            indices.setdefault(item, []).extend(
                int.from_bytes(listed[i : i + index_size], "big") & mask
                for i in range(0, len(listed), index_size)
            )
    items = list(primary)
    references = _find(meta, b"iref")
    width = 4 if references[:1] == b"\1" else 2
    for name, box in _boxes(references[4:]):
        if name == b"dimg" and primary == (int.from_bytes(box[:width], "big"),):
            items += [
                int.from_bytes(box[i : i + width], "big")
                for i in range(width + 2, len(box) - width + 1, width)
            ][:1]  # all tiles of a grid are coded alike
    return [
        [available[i - 1] for i in indices.get(item, []) if 0 < i <= len(available)]
        for item in items
    ]


def isobmff_facts(stream: BinaryIO) -> HeaderFacts:
    """Facts of an AVIF or HEIC file: of its primary image, or else of its first track."""
    found: list[tuple[bytes, bytes]] = []
    for name, start, length in _top_boxes(stream):
        if name not in (b"meta", b"moov"):
            continue
        stream.seek(start)
        box = stream.read(min(length, _MAX_META_BYTES))
        if name == b"meta":
            found = [entry for item in _properties_of(box[4:]) for entry in item] + found
        else:
            entries = _find(box, b"trak", b"mdia", b"minf", b"stbl", b"stsd")[8:]
            for _, entry in _boxes(entries):
                found += _boxes(entry[78:])  # after the fields of a VisualSampleEntry
                break
    bits, code_points = 8, None
    for name, body in found:
        if name == b"pixi" and len(body) > 5:  # after version and flags: channels, bits of each
            bits = max(bits, *body[5 : 5 + body[4]], 0)
        elif name == b"av1C" and len(body) > 2 and body[2] & 0x40:
            bits = max(bits, 12 if body[2] & 0x20 else 10)
        elif name == b"hvcC" and len(body) > 17:
            bits = max(bits, 8 + (body[17] & 7))
        elif name == b"colr" and body[:4] == b"nclx" and code_points is None:
            numbers = _numbers(body[4:], ">HHHB")
            if numbers:
                code_points = CodePoints(numbers[0], numbers[1])
    return HeaderFacts(bits=bits, code_points=code_points)


@dataclass(frozen=True, kw_only=True, slots=True)
class JxlParts:
    """A JPEG XL file taken apart.

    Attributes:
        codestream: What is decoded.
        exif: As :class:`genaccel.files.images.Metadata` has it.
        xmp: As that has it.
        width: Of the image, before it is turned.
        height: Likewise.
        bits: Of a sample.
    """

    codestream: bytes
    exif: bytes
    xmp: bytes
    width: int
    height: int
    bits: int


class _Bits:
    """Reads little-endian bit fields (ISO/IEC 18181-1, annex B)."""

    def __init__(self, data: bytes) -> None:
        self._value = int.from_bytes(data, "little")
        self._left = 8 * len(data)

    def take(self, count: int) -> int:
        if count > self._left:
            raise BitstreamError("JPEG XL header is cut off")
        self._left -= count
        value = self._value & ((1 << count) - 1)
        self._value >>= count
        return value

    def choice(self, *choices: tuple[int, int]) -> int:
        """A U32 field: offset and number of bits of each choice."""
        offset, count = choices[self.take(2)]
        return offset + self.take(count)


_JXL_RATIOS = ((1, 1), (12, 10), (4, 3), (3, 2), (16, 9), (5, 4), (2, 1))


def _jxl_size(bits: _Bits) -> tuple[int, int]:
    def side(is_small: int) -> int:
        return (
            8 * (bits.take(5) + 1) if is_small else bits.choice((1, 9), (1, 13), (1, 18), (1, 30))
        )

    is_small = bits.take(1)
    height = side(is_small)
    ratio = bits.take(3)
    if ratio == 0:
        return side(is_small), height
    numerator, denominator = _JXL_RATIOS[ratio - 1]
    return height * numerator // denominator, height


def _jxl_sample_bits(bits: _Bits) -> int:
    if bits.take(1):  # all fields are at their defaults
        return 8
    if bits.take(1):
        bits.take(3)  # orientation
        if bits.take(1):
            _jxl_size(bits)  # the size that it is meant to be shown in
        if bits.take(1):  # a preview
            sides = ((16, 0), (32, 0), (1, 5), (33, 9))
            if not bits.take(1):
                sides = ((1, 6), (65, 8), (321, 10), (1345, 12))
            bits.choice(*sides)
            if bits.take(3) == 0:
                bits.choice(*sides)
        if bits.take(1):  # an animation
            bits.choice((100, 0), (1000, 0), (1, 10), (1, 30))
            bits.choice((1, 0), (1001, 0), (1, 8), (1, 10))
            bits.choice((0, 0), (0, 3), (0, 16), (0, 32))
            bits.take(1)
    if bits.take(1):  # floating point
        return 32
    return bits.choice((8, 0), (10, 0), (12, 0), (1, 6))


def jxl_parts(stream: BinaryIO) -> JxlParts:
    """Take a JPEG XL file apart (ISO/IEC 18181-1, annex D; 18181-2, clause 9).

    Compressed boxes of metadata are passed over: nothing bounds what comes out of them.

    Raises:
        BitstreamError: If the header is cut off.
    """
    stream.seek(0)
    data = stream.read()
    exif = xmp = b""
    if data[:2] != b"\xff\x0a":
        pieces = []
        for name, body in _boxes(data):
            if name == b"jxlc":
                pieces.append(body)
            elif name == b"jxlp":
                pieces.append(body[4:])  # after its number
            elif name == b"Exif" and not exif:
                # The box begins with the offset of the structure, which some writers leave out.
                is_bare = body[:4] in (b"II*\0", b"MM\0*")
                exif = body if is_bare else body[4 + int.from_bytes(body[:4], "big") :]
            elif name == b"xml " and not xmp:
                xmp = body
        data = b"".join(pieces)
    if data[:2] != b"\xff\x0a":
        raise BitstreamError("JPEG XL file has no codestream, or is cut off")
    bits = _Bits(data[2:64])
    width, height = _jxl_size(bits)
    return JxlParts(
        codestream=data,
        exif=exif,
        xmp=xmp,
        width=width,
        height=height,
        bits=_jxl_sample_bits(bits),
    )
