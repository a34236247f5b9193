# SPDX-License-Identifier: Apache-2.0
"""Numbers of ``.gac`` files: LEB128, in the shortest form that there is."""

from __future__ import annotations

from genaccel.errors import BitstreamError

_MOST_BYTES = 3  # 21 bits hold a side, and the length of whatever is not as large as an image


def write_varint(value: int) -> bytes:
    """Seven bits a byte, least significant first; the upper bit is set on all bytes but the last.

    Example:
        >>> write_varint(640).hex()
        '8005'
    """
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def read_varint(
    data: bytes, position: int, name: str, *, most_bytes: int = _MOST_BYTES
) -> tuple[int, int]:
    """Value of a number, and where it ends.

    Args:
        data: Where it stands.
        position: Of its first byte.
        name: Of what it says, for messages.
        most_bytes: That it may have.

    Raises:
        BitstreamError: If it does not end, or is not written in its shortest form.
    """
    value = 0
    for i in range(most_bytes):
        if position + i >= len(data):
            raise BitstreamError(f"file ends inside its {name}")
        byte = data[position + i]
        value |= (byte & 0x7F) << (7 * i)
        if byte < 0x80:
            if byte == 0 and i > 0:
                raise BitstreamError(f"{name} is not written in its shortest form")
            return value, position + i + 1
    raise BitstreamError(f"{name} is longer than {most_bytes} bytes")
