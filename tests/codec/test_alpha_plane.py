# SPDX-License-Identifier: Apache-2.0
import io
import json
import random
import re
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFilter

from genaccel import _coder
from genaccel.codec.coding.alpha_plane import decode_alpha, encode_alpha
from genaccel.errors import BitstreamError

FORMAT_PAGE = Path(__file__).parents[2] / "docs" / "format.md"


def blob(side=512):
    """A mask with a hard edge that waves."""
    y, x = np.mgrid[:side, :side] * (512 / side) - 256
    angle = np.arctan2(y, x)
    edge = 150 + 40 * np.sin(3 * angle) + 25 * np.sin(7 * angle + 1) + 8 * np.sin(19 * angle)
    return (np.hypot(y, x) < edge).astype(np.uint8) * 255


def smooth_edge():
    """A disc as a painting program draws it."""
    large = Image.new("L", (2048, 2048))
    ImageDraw.Draw(large).ellipse((200, 400, 1800, 1600), fill=255)
    return np.asarray(large.resize((512, 512), Image.Resampling.BOX))


def feathered():
    return np.asarray(Image.fromarray(blob()).filter(ImageFilter.GaussianBlur(3)))


def stripes():
    return (np.mgrid[:512, :512][0] % 2 * 255).astype(np.uint8)


def noise(*shape):
    return np.random.default_rng(0).integers(0, 256, shape, np.uint8)


PLANES = {
    "blob": blob,
    "a corner of it": lambda: blob()[:301, :217],
    "smooth edge": smooth_edge,
    "feathered": feathered,
    "stripes": stripes,
    "noise": lambda: noise(70, 45),
    "noise of two values": lambda: noise(70, 45) // 128 * 255,
    "two other values": lambda: np.where(blob() > 0, 200, 77).astype(np.uint8),
    "half seen": lambda: np.full((512, 512), 128, np.uint8),
    "transparent": lambda: np.zeros((33, 65), np.uint8),
    "one pixel": lambda: np.full((1, 1), 9, np.uint8),
    "one row": lambda: blob()[250:251],
    "one column": lambda: noise(97, 1),
    "whole blocks": lambda: noise(64, 32),
    "edges of the range": lambda: noise(40, 40) % 3 + 254,
}


@pytest.mark.parametrize("name", sorted(PLANES))
def test_planes_come_back_without_loss(name):
    plane = PLANES[name]()
    decoded = decode_alpha(encode_alpha(plane), *plane.shape)
    assert decoded.dtype == np.uint8
    np.testing.assert_array_equal(decoded, plane)


def smallest_elsewhere(plane):
    """Bytes of the same plane as PNG, of one bit where that is enough, and as lossless WebP."""
    picture = Image.fromarray(plane)
    bits = picture.convert("1") if set(np.unique(plane)) <= {0, 255} else picture
    sizes = []
    for image, options in (
        (bits, {"format": "PNG", "optimize": True}),
        (picture, {"format": "WEBP", "lossless": True, "method": 6}),
    ):
        stream = io.BytesIO()
        image.save(stream, **options)
        sizes.append(len(stream.getvalue()))
    return min(sizes)


@pytest.mark.parametrize(
    ("name", "most", "share"),
    [
        ("blob", 270, 0.3),
        ("smooth edge", 1300, 0.8),
        ("feathered", 6500, 0.7),
        ("two other values", 270, 0.3),
        ("half seen", 7, 0.2),
        ("stripes", 300, None),
        ("transparent", 7, 0.3),
    ],
)
def test_masks_are_smaller_than_as_png_or_webp(name, most, share):
    plane = PLANES[name]()
    size = len(encode_alpha(plane))
    assert size <= most
    if share is not None:
        assert size <= share * smallest_elsewhere(plane)


def test_noise_costs_little_more_than_its_values():
    plane = noise(256, 256)
    assert len(encode_alpha(plane)) < 1.03 * plane.size


def test_worked_example_of_the_format_page():
    blocks = re.findall(r"```json\n(.*?)```", FORMAT_PAGE.read_text(encoding="utf-8"), re.DOTALL)
    example = next(found for found in map(json.loads, blocks) if "alpha" in found)
    plane = np.array(example["alpha"], np.uint8)
    assert encode_alpha(plane).hex(" ") == example["section"]
    np.testing.assert_array_equal(
        decode_alpha(bytes.fromhex(example["section"]), *plane.shape), plane
    )


def test_sections_stay_byte_for_byte():
    """What files hold may never change its meaning, so that the encoder's bytes are pinned too."""
    sums = {name: f"{_coder.crc32c(encode_alpha(PLANES[name]())):08x}" for name in sorted(PINNED)}
    assert sums == PINNED


PINNED = {
    "blob": "f790d34c",
    "edges of the range": "fb477238",
    "feathered": "62e92928",
    "noise": "6104bfd6",
    "one column": "21e0d785",
    "smooth edge": "cf3c8569",
    "stripes": "7403b475",
}


def test_cut_planes_are_refused():
    plane = feathered()[200:300, 100:220]
    data = encode_alpha(plane)
    for length in range(0, len(data), 23):
        with pytest.raises(BitstreamError, match="alpha plane"):
            decode_alpha(data[:length], *plane.shape)


@pytest.mark.parametrize("name", ["blob", "feathered"])
def test_damaged_planes_are_refused_or_other_planes(name):
    plane = PLANES[name]()[150:230, 90:170]
    data = encode_alpha(plane)
    rng = random.Random(0)
    refused = 0
    for _ in range(60):
        damaged = bytearray(data)
        damaged[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        sides = plane.shape if rng.random() < 0.5 else (rng.randint(1, 200), rng.randint(1, 200))
        try:
            decoded = decode_alpha(bytes(damaged), *sides)
        except BitstreamError:
            refused += 1
        else:
            assert decoded.shape == tuple(sides)
    assert refused > 45  # the final state and the length tell most


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "at least 7"),
        (b"\0\0\xff\0\0\1", "at least 7"),
        (b"\3\0\xff\0\0\1\0", "of kind 3"),
        (b"\0\7\7\0\0\1\0", "one value"),
        (b"\0\0\xff\0\0\0\0", "does not decode"),
        (b"\0\0\xff\0\0\1\0\0\0", "does not decode"),
    ],
)
def test_forged_heads_are_refused(data, message):
    with pytest.raises(BitstreamError, match=message):
        decode_alpha(data, 8, 8)


def test_a_few_bytes_cannot_ask_for_much_work():
    data = encode_alpha(np.full((64, 64), 7, np.uint8))
    with pytest.raises(BitstreamError, match="cannot hold"):
        decode_alpha(data, 65_535, 2730)  # more blocks than 7 bytes can tell of
    rng = random.Random(0)
    start = time.process_time()
    for _ in range(4):  # random states: some of the blocks are said to be coded
        with pytest.raises(BitstreamError):
            decode_alpha(b"\1\0\xff" + rng.randbytes(30), 8192, 8192)
    assert time.process_time() - start < 4
