# SPDX-License-Identifier: Apache-2.0
import io
import struct

import pytest
from hand_made_images import LINEAR, icc

from genaccel.errors import BitstreamError, LimitExceededError, UnsupportedImageError
from genaccel.files.images import ReadPolicy, read_image, read_size

KEEP = ReadPolicy(transparency="keep")
# Bits of a pixel, masks of red, green, blue and alpha, and whether it takes a header that has the fourth.
LAYOUTS = {
    "X4R4G4B4": (16, (0xF00, 0xF0, 0xF, 0)),
    "A4R4G4B4": (16, (0xF00, 0xF0, 0xF, 0xF000)),
    "A1R5G5B5": (16, (0x7C00, 0x3E0, 0x1F, 0x8000)),
    "B5G6R5": (16, (0x1F, 0x7E0, 0xF800, 0)),
    "R3G3B2": (16, (0xE0, 0x1C, 0x3, 0)),
    "X8B8G8R8": (32, (0xFF, 0xFF00, 0xFF0000, 0)),
    "A8B8G8R8": (32, (0xFF, 0xFF00, 0xFF0000, 0xFF000000)),
    "R8G8B8": (32, (0xFF0000, 0xFF00, 0xFF, 0)),
    "R5G6B5": (16, (0xF800, 0x7E0, 0x1F, 0)),
}


def bmp(bits, masks, pixels, header=108, width=3, height=1, compression=3):
    """Rows of words, the lowest first."""
    row = struct.pack(f"<{width}{'H' if bits == 16 else 'I'}", *pixels)
    data = (row + bytes(-len(row) % 4)) * abs(height)
    sizes = (header, width, height, 1, bits, compression, len(data), 0, 0, 0, 0)
    head = struct.pack("<IiiHHIIiiII", *sizes) + struct.pack("<4I", *masks)
    head = head.ljust(header, b"\0") if header > 40 else head[: 52 if masks[3] == 0 else 56]
    start = 14 + len(head)
    return io.BytesIO(struct.pack("<2sIII", b"BM", start + len(data), 0, start) + head + data)


@pytest.mark.parametrize("header", [40, 56, 108, 124])
@pytest.mark.parametrize("name", sorted(LAYOUTS))
def test_bit_fields_of_every_layout(name, header):
    bits, masks = LAYOUTS[name]
    red, green, blue, alpha = masks
    compression = 6 if header == 40 and alpha else 3
    pixels = (red | alpha, green, blue | alpha)
    image = read_image(bmp(bits, masks, pixels, header, compression=compression), KEEP)
    assert image.pixels.tolist() == [[[255, 0, 0], [0, 255, 0], [0, 0, 255]]]
    assert (None if image.alpha is None else image.alpha.tolist()) == (
        [[255, 0, 255]] if alpha else None
    )
    assert image.notes == ()
    if alpha:
        with pytest.raises(UnsupportedImageError, match="transparent"):
            read_image(bmp(bits, masks, pixels, header, compression=compression))


@pytest.mark.parametrize("height", [2, -2])
def test_levels_are_spread_and_rows_are_in_order(height):
    file = bmp(16, (0xF00, 0xF0, 0xF, 0), (0x123, 0x8AB, 0xFFF), height=height)
    with file.getbuffer() as data:
        data[-8:-6] = b"\x00\x00"  # of the row that is stored last
    image = read_image(file)
    last = 1 if height < 0 else 0
    assert image.pixels[1 - last].tolist() == [[17, 34, 51], [136, 170, 187], [255, 255, 255]]
    assert image.pixels[last].tolist() == [[0, 0, 0], [136, 170, 187], [255, 255, 255]]


def test_hostile_headers():
    masks = (0xF00, 0xF0, 0xF, 0)
    whole = bmp(16, masks, (0, 0, 0)).getvalue()
    with pytest.raises(BitstreamError, match="cut off"):
        read_image(io.BytesIO(whole[:-4]))
    huge = whole[:18] + struct.pack("<ii", 2**31 - 1, 2**31 - 1) + whole[26:]
    with pytest.raises(LimitExceededError):
        read_image(io.BytesIO(huge))
    assert read_size(io.BytesIO(whole)) == (3, 1)
    for wrong in ((0xF00, 0xF00, 0xF, 0), (0xF05, 0xF0, 0xA, 0), (0, 0xF0, 0xF, 0)):
        with pytest.raises(BitstreamError):
            read_image(bmp(16, wrong, (0, 0, 0)))
    with pytest.raises(BitstreamError):
        read_image(bmp(32, (0x3FF00000, 0xFFC00, 0x3FF, 0), (0, 0, 0)))
    for length in range(70):
        with pytest.raises(BitstreamError):
            read_image(io.BytesIO(whole[:length]))


@pytest.mark.parametrize("name", ["R5G6B5", "X8B8G8R8"])
def test_an_embedded_profile_counts(name):
    bits, masks = LAYOUTS[name]
    half = sum((mask // 2) & mask for mask in masks[:3])
    plain = bmp(bits, masks, [half] * 3, 124)
    grey = int(read_image(plain).pixels[0, 0, 0])
    profile = icc("sRGB", curve=LINEAR)
    whole = bytearray(plain.getvalue())
    whole[70:74] = b"DEBM"
    whole[126:134] = struct.pack("<II", len(whole) - 14, len(profile))
    image = read_image(io.BytesIO(bytes(whole) + profile))
    assert image.pixels[0, 0, 0] > grey + 40
    assert image.notes == ("colours were converted from sRGB to sRGB",)
    cut_off = read_image(io.BytesIO(bytes(whole)))
    assert cut_off.pixels[0, 0, 0] == grey
