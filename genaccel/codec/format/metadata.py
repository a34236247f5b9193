# SPDX-License-Identifier: Apache-2.0
"""What people miss of a photograph's metadata, as a section of ``.gac`` files; docs/format.md specifies it."""

from __future__ import annotations

import re
import zlib
from dataclasses import dataclass, fields

from genaccel.codec.format.limits import MAX_METADATA_BYTES
from genaccel.codec.format.varint import read_varint, write_varint
from genaccel.errors import BitstreamError

MAX_TEXT_BYTES = 4096  # of one field, in UTF-8
# Of all fields together, after inflation: a bomb would take a thousand times the section.
_MAX_FIELDS_BYTES = 4 * MAX_METADATA_BYTES
_PLAIN, _DEFLATED = 0, 1
# A number is never given to another field; the position's is far from the others, to be seen in a dump.
_NUMBERS = {
    1: "date",
    2: "author",
    3: "copyright",
    4: "description",
    5: "camera_make",
    6: "camera_model",
    7: "lens",
    8: "exposure_time",
    9: "f_number",
    10: "iso",
    11: "focal_length",
    64: "position",
}
# What XML cannot hold, and what would move a terminal's cursor.
CONTROL_CHARACTERS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")
_NUMBER = r"(?:0|[1-9]\d{0,8})"
_DECIMAL = rf"{_NUMBER}(?:\.\d{{1,6}})?"
_FORMS = {
    "date": r"\d{4}-(?:0[1-9]|1[0-2])-(?:0[1-9]|[12]\d|3[01])T(?:[01]\d|2[0-3]):[0-5]\d:[0-5]\d(?:[+-](?:0\d|1[0-4]):[0-5]\d)?",
    "exposure_time": rf"{_NUMBER}(?:/[1-9]\d{{0,8}})?",
    "f_number": _DECIMAL,
    "iso": r"[1-9]\d{0,8}",
    "focal_length": _DECIMAL,
    "position": rf"-?{_DECIMAL},-?{_DECIMAL}(?:,-?{_DECIMAL})?",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class PhotoMetadata:
    """What a file says about its photograph; None where it says nothing.

    Attributes:
        date: When it was taken, ``2026-11-30T07:40:37``, with the offset from UTC behind if that is known: ``+01:00``.
        author: Who made it; several are separated by semicolons.
        copyright: Notice of rights.
        description: Caption.
        camera_make: Manufacturer.
        camera_model: Model.
        lens: Model of the lens.
        exposure_time: Seconds, ``1/250`` or ``2``.
        f_number: Focal length over aperture, ``2.8``.
        iso: Sensitivity, ``100``.
        focal_length: Millimetres, ``50``.
        position: Degrees of latitude (north) and longitude (east), with six decimals at most, and metres above the sea
            where they are known: ``48.858222,2.2945,35``.

    Raises:
        ValueError: If a text is empty, longer than 4096 bytes of UTF-8 or has control characters other than tabs and
            line breaks; or if a value has another form.

    Example:
        >>> metadata = PhotoMetadata(date="2026-11-30T07:40:37", author="Ada")
        >>> PhotoMetadata.from_bytes(metadata.to_bytes()) == metadata
        True
    """

    date: str | None = None
    author: str | None = None
    copyright: str | None = None
    description: str | None = None
    camera_make: str | None = None
    camera_model: str | None = None
    lens: str | None = None
    exposure_time: str | None = None
    f_number: str | None = None
    iso: str | None = None
    focal_length: str | None = None
    position: str | None = None

    def __post_init__(self) -> None:
        for name, text in self.in_words().items():
            if not isinstance(text, str):
                raise ValueError(f"{name} must be text, got {type(text).__name__}")
            if not text or CONTROL_CHARACTERS.search(text):
                raise ValueError(
                    f"{name} must have characters, and none that control: {text!r:.60}"
                )
            size = len(text.encode())
            if size > MAX_TEXT_BYTES:
                raise ValueError(f"{name} must have at most {MAX_TEXT_BYTES} bytes, got {size}")
            if name in _FORMS and not re.fullmatch(_FORMS[name], text, re.ASCII):
                raise ValueError(f"{name} has another form: {text!r:.60}")
        if self.position is not None:
            latitude, longitude, *_ = map(float, self.position.split(","))
            if abs(latitude) > 90 or abs(longitude) > 180:
                raise ValueError(f"position is not on the earth: {self.position!r}")

    def in_words(self) -> dict[str, str]:
        """What there is, by the names of the attributes."""
        return {
            field.name: text
            for field in fields(self)
            if (text := getattr(self, field.name)) is not None
        }

    def to_bytes(self) -> bytes:
        """The section; empty if there is nothing.

        Raises:
            ValueError: If it would have more than 16 KiB.
        """
        there = self.in_words()
        texts = [(n, there[name].encode()) for n, name in _NUMBERS.items() if name in there]
        if not texts:
            return b""
        plain = b"".join(bytes([n]) + write_varint(len(text)) + text for n, text in texts)
        deflater = zlib.compressobj(9, wbits=-15)
        deflated = deflater.compress(plain) + deflater.flush()
        section = min(bytes([_PLAIN]) + plain, bytes([_DEFLATED]) + deflated, key=len)
        if len(section) > MAX_METADATA_BYTES or len(plain) > _MAX_FIELDS_BYTES:
            raise ValueError(
                f"metadata takes {len(section)} bytes, and a file holds {MAX_METADATA_BYTES}"
            )
        return section

    @classmethod
    def from_bytes(cls, section: bytes) -> PhotoMetadata:
        """Parse a section; fields whose numbers are not known here are left out.

        Raises:
            BitstreamError: If it does not follow the format.
        """
        if not 2 <= len(section) <= MAX_METADATA_BYTES:
            raise BitstreamError(f"metadata of {len(section)} bytes is not valid")
        plain = _fields_of(section)
        texts: dict[str, str] = {}
        position, former = 0, 0
        while position < len(plain):
            number = plain[position]
            if number <= former:
                raise BitstreamError("fields of the metadata are not in their order")
            former = number
            size, position = read_varint(plain, position + 1, "field of metadata")
            end = position + size
            if end > len(plain):
                raise BitstreamError("metadata ends inside a field")
            if number in _NUMBERS:
                try:
                    texts[_NUMBERS[number]] = plain[position:end].decode()
                except UnicodeDecodeError as error:
                    raise BitstreamError(f"field {number} of the metadata is no UTF-8") from error
            position = end
        try:
            return cls(**texts)
        except ValueError as error:
            raise BitstreamError(f"metadata is not valid: {error}") from error


def _fields_of(section: bytes) -> bytes:
    form, body = section[0], section[1:]
    if form == _PLAIN:
        return body
    if form != _DEFLATED:
        raise BitstreamError(f"metadata has form {form}, which is not known here")
    inflater = zlib.decompressobj(wbits=-15)
    try:
        plain = inflater.decompress(body, _MAX_FIELDS_BYTES)
    except zlib.error as error:
        raise BitstreamError(f"metadata does not inflate: {error}") from error
    if not inflater.eof or inflater.unused_data:
        raise BitstreamError("metadata does not end where its section does, or is too large")
    return plain
