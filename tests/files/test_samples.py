# SPDX-License-Identifier: Apache-2.0
import io
import struct

import numpy as np
import pytest
from hand_made_images import png, stored, tiff
from PIL import Image

from genaccel.errors import UnsupportedImageError
from genaccel.files.images import ReadPolicy, read_image

REDUCE = ReadPolicy(depth="reduce")
KEEP = ReadPolicy(depth="reduce", transparency="keep")
LEVELS = np.array([[[0], [255], [10], [200]]], np.uint8)


@pytest.mark.parametrize("bits", [1, 2, 4, 8, 16])
@pytest.mark.parametrize("largest", [False, True])
def test_one_grey_of_every_depth_is_transparent(bits, largest):
    top = 2**bits - 1
    samples = np.array([[[0], [top], [1], [top // 2]]], np.uint16)
    key = top if largest else 1
    file = png(samples, bits, 0, [(b"tRNS", struct.pack(">H", key))])
    image = read_image(file, KEEP)
    np.testing.assert_array_equal(image.alpha, np.where(samples[..., 0] == key, 0, 255))
    np.testing.assert_array_equal(image.pixels[..., 0], samples[..., 0].astype(int) * 255 // top)
    with pytest.raises(UnsupportedImageError, match="transparent in places"):
        read_image(file, REDUCE)


@pytest.mark.parametrize("bits", [8, 16])
def test_one_colour_is_transparent_to_its_last_bit(bits):
    samples = np.array([[[0x34, 0x78, 0xBC], [0x35, 0x78, 0xBC], [0x34, 0x78, 0xBD]]], np.uint16)
    if bits == 16:
        samples += 0x1200  # so that upper bytes alone tell nothing
    file = png(samples, bits, 2, [(b"tRNS", struct.pack(">3H", *samples[0, 0]))])
    decoded = Image.open(file)
    decoded.load()
    assert read_image(decoded, KEEP).alpha[0, 0] == 0
    for source in (file, Image.open(file)):
        image = read_image(source, KEEP)
        assert image.alpha.tolist() == [[0, 255, 255]]
        np.testing.assert_array_equal(image.pixels, samples >> (bits - 8))
    with pytest.raises(UnsupportedImageError, match="transparent in places"):
        read_image(file, REDUCE)


def test_a_turned_image_keeps_its_transparent_colour_in_place():
    samples = np.array([[[0x1234] * 3, [0x1235] * 3]], np.uint16)
    orientation = b"MM\0*" + struct.pack(">IHHHIHH4x", 8, 1, 0x0112, 3, 1, 6, 0)
    chunks = [(b"tRNS", struct.pack(">3H", *samples[0, 0])), (b"eXIf", orientation)]
    image = read_image(png(samples, 16, 2, chunks), KEEP)
    assert image.alpha.tolist() == [[0], [255]]


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_palettes_of_every_depth_have_alpha(bits):
    chunks = [(b"PLTE", bytes([1, 2, 3, 4, 5, 6])), (b"tRNS", bytes([128, 255]))]
    image = read_image(png(np.array([[[0], [1], [0]]]), bits, 3, chunks), KEEP)
    assert image.alpha.tolist() == [[128, 255, 128]]
    assert image.pixels[0].tolist() == [[1, 2, 3], [4, 5, 6], [1, 2, 3]]


@pytest.mark.parametrize(("colour_type", "channels"), [(4, 2), (6, 4)])
def test_16_bit_alpha_channels_survive_the_reduction(colour_type, channels):
    samples = np.full((1, 2, channels), 0x8040, np.uint16)
    samples[0, :, -1] = (0xFFFF, 0x7F00)
    image = read_image(png(samples, 16, colour_type), KEEP)
    assert image.alpha.tolist() == [[255, 127]]
    np.testing.assert_array_equal(image.pixels, 0x80)
    with pytest.raises(UnsupportedImageError, match="transparent"):
        read_image(png(samples, 16, colour_type), REDUCE)


@pytest.mark.parametrize("bits", [8, 16])
def test_colours_multiplied_by_alpha_are_divided_by_it(bits):
    samples = np.array([[[100, 50, 0, 128], [0, 0, 0, 0]]], np.uint8)
    if bits == 16:
        samples = samples.astype(np.uint16) << 8
    image = read_image(tiff(samples, bits, 2, t338=1), KEEP)
    assert image.alpha.tolist() == [[128, 0]]
    np.testing.assert_allclose(image.pixels[0, 0], (199, 100, 0), atol=1)
    grey = np.array([[[64, 128], [0, 0]]], np.uint8)
    image = read_image(tiff(grey, 8, 1, t338=1), KEEP)
    assert image.alpha.tolist() == [[128, 0]]
    np.testing.assert_allclose(image.pixels[0, 0], 128, atol=1)


@pytest.mark.parametrize(  # of all that Pillow reads
    ("bits", "order"), [(8, "<"), (8, ">"), (12, "<"), (16, "<"), (16, ">"), (32, "<")]
)
def test_tiff_of_every_depth_is_reduced_to_its_upper_bits(bits, order):
    kind = {8: np.uint8, 12: np.uint16, 16: np.uint16, 32: np.uint32}[bits]
    samples = LEVELS.astype(kind) << (bits - 8)
    image = read_image(tiff(samples, bits, 1, order), REDUCE)
    np.testing.assert_array_equal(image.pixels[..., 0], LEVELS[..., 0])
    if bits > 8:
        with pytest.raises(UnsupportedImageError, match="more than 8 bits"):
            read_image(tiff(samples, bits, 1, order))


@pytest.mark.parametrize("bits", [1, 8, 16, 32])
def test_tiff_in_which_white_is_zero(bits):
    if bits == 1:
        file = stored(Image.new("1", (4, 1), 0), "TIFF", tiffinfo={262: 0})
        np.testing.assert_array_equal(read_image(file).pixels, 0)
        return
    samples = LEVELS if bits == 8 else LEVELS.astype(np.uint16) << 8
    options = {}
    if bits == 32:
        samples, options = (LEVELS / 255).astype(np.float32), {"t339": 3}
    image = read_image(tiff(samples, bits, 0, **options), REDUCE)
    np.testing.assert_array_equal(image.pixels[..., 0], 255 - LEVELS[..., 0])


def test_tiff_of_floats_is_deep_and_in_0_to_1():
    file = tiff((LEVELS / 255).astype(np.float32), 32, 1, t339=3)
    with pytest.raises(UnsupportedImageError, match="more than 8 bits"):
        read_image(file)
    np.testing.assert_array_equal(read_image(file, REDUCE).pixels[..., 0], LEVELS[..., 0])
    with pytest.raises(UnsupportedImageError, match="no fixed range"):
        read_image(tiff(LEVELS.astype(np.float32), 32, 1, t339=3), REDUCE)


@pytest.mark.parametrize("bits", [8, 16, 32])
def test_signed_samples_are_refused(bits):
    kind = {8: np.int8, 16: np.int16, 32: np.int32}[bits]
    with pytest.raises(UnsupportedImageError, match="signed"):
        read_image(tiff(np.ones((1, 2, 1), kind), bits, 1, t339=2), REDUCE)


def test_tiff_of_other_colour_models():
    lab = np.array(
        [[[255, 0, 0], [0, 0, 0], [136, 208, 195]]], np.uint8
    )  # white, black, Lab of red
    image = read_image(tiff(lab, 8, 8))
    np.testing.assert_allclose(image.pixels[0, :2], [[255] * 3, [0] * 3], atol=2)
    assert image.notes == ("CIE L*a*b* was converted to sRGB",)
    red = np.array([[[round(54.29 * 2.55), 81, 70]]], np.uint8)  # L*a*b* of sRGB's red under D50
    np.testing.assert_allclose(read_image(tiff(red, 8, 8)).pixels[0, 0], (255, 0, 0), atol=8)
    luma = np.array([[[76, 85, 255], [150, 44, 21], [29, 255, 107], [255, 128, 128]]], np.uint8)
    primaries = [[255, 0, 0], [0, 255, 0], [0, 0, 255], [255, 255, 255]]
    np.testing.assert_allclose(read_image(tiff(luma, 8, 6)).pixels[0], primaries, atol=3)
    cyan_and_red = np.array([[[255, 0, 0, 0], [0, 255, 255, 0]]], np.uint8)
    for bits, samples in ((8, cyan_and_red), (16, cyan_and_red.astype(np.uint16) * 257)):
        pixels = read_image(tiff(samples, bits, 5), REDUCE).pixels
        assert pixels[0].tolist() == [[0, 255, 255], [255, 0, 0]]


@pytest.mark.parametrize(
    ("file", "is_deep", "expected"),
    [
        (b"P1\n2 1\n0 1\n", False, [255, 0]),
        (b"P2\n2 1\n1000\n500 1000\n", True, [127, 255]),
        (b"P4\n2 1\n\x40", False, [255, 0]),
        (b"P5\n2 1\n100\n\x32\x64", False, [128, 255]),
        (b"P5\n2 1\n1023\n\x02\x00\x03\xff", True, [128, 255]),
        (b"P6\n2 1\n65535\n" + b"\x80\x00" * 3 + b"\xff\xff" * 3, True, [128, 255]),
        (b"Pf\n2 1\n-1.0\n" + struct.pack("<2f", 0.5, 1), True, [128, 255]),
    ],
    ids=["P1", "P2", "P4", "P5", "P5-10", "P6-16", "Pf"],
)
def test_pnm_of_every_kind(file, is_deep, expected):
    if is_deep:
        with pytest.raises(UnsupportedImageError, match="more than 8 bits"):
            read_image(io.BytesIO(file))
    pixels = read_image(io.BytesIO(file), REDUCE).pixels
    np.testing.assert_allclose(pixels[0, :, 0], expected, atol=1)


@pytest.mark.parametrize(
    ("masks", "words", "expected"),
    [
        ((0xF800, 0x07E0, 0x001F), (0xF800, 0x07E0), [[255, 0, 0], [0, 255, 0]]),
        ((0x7C00, 0x03E0, 0x001F), (0x7C00, 0x001F), [[255, 0, 0], [0, 0, 255]]),
    ],
    ids=["5-6-5", "5-5-5"],
)
def test_bitmaps_of_16_bits_a_pixel_are_not_deep(masks, words, expected):
    header = struct.pack("<IiiHHIIiiII", 40, 2, 1, 1, 16, 3, 4, 0, 0, 0, 0) + struct.pack(
        "<3I", *masks
    )
    file = b"BM" + struct.pack("<IHHI", 70, 0, 0, 66) + header + struct.pack("<2H", *words)
    image = read_image(io.BytesIO(file))
    assert image.pixels[0].tolist() == expected
    assert image.notes == ()
