# SPDX-License-Identifier: Apache-2.0
"""Samples of any depth, and transparency of any kind, as 8-bit planes."""

from __future__ import annotations

from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from genaccel.errors import UnsupportedImageError
from genaccel.files.image_headers import HeaderFacts, isobmff_facts, png_facts

# Error that interpolation and half precision leave of [0, 1]; more is another range, as [-1, 1].
RANGE_TOLERANCE = 0.02

_TIFF_BITS, _TIFF_PHOTOMETRIC, _TIFF_SAMPLE_FORMAT = 258, 262, 339
_PLAIN_MODES = frozenset({"1", "L", "P", "RGB", "RGBX", "YCbCr", "CMYK", "HSV", "LAB"})


def facts_of(image: Image.Image, stream: BinaryIO | None) -> HeaderFacts:
    """What the file of an image says about its samples and colours.

    Args:
        image: Its pixels need not be decoded yet.
        stream: The file, which is left where it was; None if it is closed by now, or there never was one.
    """
    facts = HeaderFacts()
    if stream is not None and image.format in ("PNG", "AVIF", "HEIF"):
        position = stream.tell()
        facts = png_facts(stream) if image.format == "PNG" else isobmff_facts(stream)
        stream.seek(position)
    elif image.format == "TIFF":
        facts = HeaderFacts(bits=max((8, *_tiff_values(image, _TIFF_BITS))))
    elif image.format == "PPM":
        tile = next(iter(getattr(image, "tile", ())), None)
        # Of Pillow's own decoders, the arguments end with the largest sample.
        largest = tile[3][-1] if tile is not None and isinstance(tile[3], tuple) else 0
        is_deep = image.mode in ("I", "F") or (isinstance(largest, int) and largest > 255)
        facts = HeaderFacts(bits=16 if is_deep else 8)
    if facts.bits <= 8 and image.mode.startswith("I;16"):
        facts = HeaderFacts(bits=16, code_points=facts.code_points)
    return facts


def _tiff_values(image: Image.Image, tag: int) -> tuple[int, ...]:
    tags = getattr(image, "tag_v2", {})
    value = tags.get(tag, ())
    return tuple(value) if isinstance(value, tuple) else (value,)


def split_alpha(
    image: Image.Image, facts: HeaderFacts, stream: BinaryIO | None
) -> tuple[Image.Image, Image.Image | None]:
    """Decode an image, and part its colours from its alpha channel, if it has one.

    Args:
        image: Of any mode.
        facts: Of its file.
        stream: The file, if it is open.

    Returns:
        Colours that are not multiplied by alpha, and alpha of mode L, where 255 is opaque.
    """
    key = image.info.get("transparency")
    if image.format == "PNG" and facts.bits == 16 and image.mode == "RGB" and key is not None:
        # Before the image is decoded, which may close its file.
        alpha = None if stream is None else _mask_of_48_bits(stream, key)
        image.load()
        return image, alpha
    image.load()
    if not image.has_transparency_data:
        return image, None
    if image.mode in ("La", "RGBa"):
        image = image.convert(image.mode.upper())
    if image.mode == "LA":
        return image.getchannel("L"), image.getchannel("A")
    if image.mode == "RGBA":
        return image.convert("RGB"), image.getchannel("A")
    mask = _mask(image, key, facts) if image.mode in ("1", "L", "RGB") or _is_16(image) else None
    if mask is not None:
        return image, mask
    rgba = image.convert("RGBA")
    return rgba.convert("RGB"), rgba.getchannel("A")


def _is_16(image: Image.Image) -> bool:
    return image.mode.startswith("I;16")


def _mask(image: Image.Image, key: object, facts: HeaderFacts) -> Image.Image | None:
    """Alpha of an image in which one grey or colour is transparent."""
    if image.mode == "RGB":
        if not isinstance(key, tuple) or len(key) != 3:
            return None
        # Of a 16-bit file that is closed by now, upper bytes are all that is left.
        shift = 8 if max(key) > 255 else 0
        equal = (np.asarray(image) == np.array(key) >> shift).all(axis=2)
    else:
        if not isinstance(key, int):
            return None
        samples = np.asarray(image if _is_16(image) else image.convert("L"))
        if image.format == "PNG" and image.mode == "L" and facts.bits < 8:
            largest = 2**facts.bits - 1  # the key is a sample of the file, and Pillow spreads those
            key = (key & largest) * (255 // largest)
        equal = samples == key
    return _opaque_but(equal)


def _opaque_but(transparent: NDArray[np.bool_]) -> Image.Image:
    return Image.fromarray(np.where(transparent, 0, 255).astype(np.uint8))


def _mask_of_48_bits(stream: BinaryIO, key: tuple[int, int, int]) -> Image.Image:
    """Alpha of a PNG file in which one 16-bit colour is transparent; Pillow reads the upper bytes alone."""
    position = stream.tell()
    equal: NDArray[np.bool_] | None = None
    # Read as if it were little-endian, the upper byte of a sample is its lower one.
    for layout, shift in (("RGB;16B", 8), ("RGB;16L", 0)):
        stream.seek(0)
        half = Image.open(stream, formats=["PNG"])
        half.tile = [tile._replace(args=layout) for tile in half.tile]
        same = (np.asarray(half) == (np.array(key) >> shift) % 256).all(axis=2)
        equal = same if equal is None else equal & same
    stream.seek(position)
    assert equal is not None
    return _opaque_but(equal)


def to_8_bits(colours: Image.Image, source: Image.Image, facts: HeaderFacts) -> Image.Image:
    """Colours with samples of 8 bits: the upper ones of integers, and floating-point [0, 1] spread over [0, 255].

    Args:
        colours: Without an alpha channel.
        source: The image that they are of.
        facts: Of its file.

    Raises:
        UnsupportedImageError: If the samples have no fixed range, or leave it.
    """
    if 2 in _tiff_values(source, _TIFF_SAMPLE_FORMAT):
        raise UnsupportedImageError("image has signed samples: convert it to 8-bit RGB first")
    is_white_zero = _tiff_values(source, _TIFF_PHOTOMETRIC) == (0,)
    if colours.mode in _PLAIN_MODES:
        return colours
    samples = np.asarray(colours)
    if colours.mode == "F":
        return Image.fromarray(_of_floats(samples, is_white_zero))
    bits = facts.bits
    if source.format == "TIFF" and bits == 32:
        samples = samples.view(np.uint32)  # which Pillow keeps in signed integers
    elif not (_is_16(colours) or (source.format == "PPM" and colours.mode == "I")):
        raise UnsupportedImageError(
            "image has samples of a kind that has no fixed range "
            f"(Pillow mode {colours.mode}): convert it to 8-bit RGB first"
        )
    if source.format != "TIFF":
        bits = 16  # to which Pillow spreads all others
    upper = (samples >> (bits - 8)).astype(np.uint8)
    # Pillow turns them over where samples have 8 bits, and not where they have more.
    return Image.fromarray(255 - upper if is_white_zero else upper)


def _of_floats(samples: NDArray[np.float32], is_white_zero: bool) -> NDArray[np.uint8]:
    if samples.size and not (
        samples.min() >= -RANGE_TOLERANCE and samples.max() <= 1 + RANGE_TOLERANCE
    ):
        raise UnsupportedImageError(
            "floating-point samples must be in [0, 1], "
            f"got {samples.min():g} to {samples.max():g}: they have no fixed range"
        )
    light = samples.clip(0, 1)
    return np.rint((1 - light if is_white_zero else light) * 255).astype(np.uint8)
