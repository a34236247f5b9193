# SPDX-License-Identifier: Apache-2.0
"""Image files to upright 8-bit sRGB arrays and back; whatever is lost on the way is said."""

from __future__ import annotations

import io
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageCms, ImageColor, UnidentifiedImageError

from genaccel.codec.format.limits import DEFAULT_MAX_PIXELS, MAX_SIDE
from genaccel.errors import BitstreamError, LimitExceededError, UnsupportedImageError

# Named one by one: Pillow knows dozens of formats, and each is code that a hostile file can reach.
_READ_FORMATS = ("PNG", "JPEG", "WEBP", "AVIF", "TIFF", "BMP", "PPM")
READ_SUFFIXES = frozenset(
    {".avif", ".bmp", ".jpeg", ".jpg", ".pgm", ".png", ".pnm", ".ppm", ".tif", ".tiff", ".webp"}
)
WRITE_FORMATS = {
    ".png": "png",
    ".jpg": "jpeg",
    ".jpeg": "jpeg",
    ".webp": "webp",
    ".tif": "tiff",
    ".tiff": "tiff",
    ".ppm": "ppm",
}
# The codec's own loss is enough: lossless where the format can, else the least loss.
_SAVE_OPTIONS: dict[str, dict[str, object]] = {
    "png": {},
    "jpeg": {"quality": 95, "subsampling": 0},
    "webp": {"lossless": True},
    "tiff": {"compression": "tiff_adobe_deflate"},
    "ppm": {},
}

_ORIENTATION_TAG = 0x0112
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_PLAIN_MODES = frozenset({"1", "L", "P", "RGB", "RGBX", "YCbCr", "CMYK"})


@dataclass(frozen=True, kw_only=True, slots=True)
class LoadedImage:
    """An image as the codec takes it.

    Attributes:
        pixels: uint8 ``[H, W, 3]``, sRGB, upright.
        notes: One sentence for each thing that reading changed or dropped.
    """

    pixels: NDArray[np.uint8]
    notes: tuple[str, ...]


def parse_colour(text: str) -> tuple[int, int, int]:
    """``white``, ``#ff8000``, ``rgb(255, 128, 0)`` to red, green, blue.

    Raises:
        ValueError: If the text names no opaque colour.
    """
    colour = ImageColor.getrgb(text)
    if len(colour) != 3:
        raise ValueError(f"background must be an opaque colour, got {text!r}")
    return colour


def _is_deep(image: Image.Image, head: bytes) -> bool:
    """Whether samples have more than 8 bits; Pillow would cut them in silence. Only valid before ``load``."""
    for tile in getattr(image, "tile", ()):
        codec, arguments = tile[0], tile[3]
        if ";16" in str(arguments):
            return True
        if codec in ("ppm", "ppm_plain") and isinstance(arguments, tuple) and arguments[-1] > 255:
            return True
    if image.format == "AVIF":
        box = head.find(b"av1C")  # AV1-ISOBMFF 2.3.3: third byte is tier 1, high_bitdepth 1, ...
        return box >= 0 and len(head) > box + 6 and bool(head[box + 6] & 0x40)
    return False


def _upright(image: Image.Image, notes: list[str]) -> Image.Image:
    try:
        orientation = image.getexif().get(_ORIENTATION_TAG, 1)
    except Exception as error:  # a broken side note is no reason to refuse the photograph
        notes.append(f"EXIF data is damaged and was ignored ({error})")
        return image
    if orientation not in _UPRIGHT:
        return image
    notes.append(f"EXIF orientation {orientation} was applied")
    return image.transpose(_UPRIGHT[orientation])


def _flatten_alpha(
    image: Image.Image, background: tuple[int, int, int] | None, notes: list[str]
) -> tuple[Image.Image, Image.Image | None]:
    """Split an image with transparency into colours and a mask to composite with."""
    if not image.has_transparency_data:
        return image, None
    rgba = image.convert("RGBA")
    alpha = rgba.getchannel("A")
    if alpha.getextrema()[0] == 255:
        notes.append("alpha channel is opaque everywhere and was dropped")
        return rgba.convert("RGB"), None
    if background is None:
        raise UnsupportedImageError(
            "image is transparent in places, which the codec does not carry: "
            "give a background colour to put it on (--background white)"
        )
    notes.append(f"transparent image was put on the background colour {background}")
    return rgba.convert("RGB"), alpha


def _to_srgb(image: Image.Image, notes: list[str]) -> Image.Image:
    """Convert any plain mode to sRGB, through the embedded profile if there is one."""
    if image.mode == "CMYK":
        notes.append("CMYK was converted to RGB")
    profile_bytes = image.info.get("icc_profile")
    source = image if image.mode in ("L", "CMYK") else image.convert("RGB")
    if profile_bytes:
        try:
            profile = ImageCms.ImageCmsProfile(io.BytesIO(profile_bytes))
            name = ImageCms.getProfileDescription(profile).strip()
            if "sRGB" not in name:
                converted = ImageCms.profileToProfile(
                    source, profile, ImageCms.createProfile("sRGB"), outputMode="RGB"
                )
                if converted is not None:
                    notes.append(f"colours were converted from {name or 'their profile'} to sRGB")
                    return converted
        except (ImageCms.PyCMSError, OSError, ValueError) as error:
            notes.append(f"colour profile could not be used, sRGB is assumed ({error})")
    return source.convert("RGB")


def _decode(
    stream: BinaryIO,
    max_pixels: int,
    background: tuple[int, int, int] | None,
    reduce_depth: bool,
    notes: list[str],
) -> NDArray[np.uint8]:
    with Image.open(stream, formats=_READ_FORMATS) as image:
        width, height = image.size
        if width * height > max_pixels:
            raise LimitExceededError(
                f"image of {width}x{height} pixels exceeds the limit of {max_pixels} pixels"
            )
        if max(width, height) > MAX_SIDE:
            raise LimitExceededError(
                f"image of {width}x{height} pixels has a side over {MAX_SIDE} pixels"
            )
        position = stream.tell()
        stream.seek(0)
        head = stream.read(4096) if image.format == "AVIF" else b""
        stream.seek(position)
        deep = _is_deep(image, head)
        if deep and not reduce_depth:
            raise UnsupportedImageError(
                "image has more than 8 bits per sample, which the codec does not carry: "
                "--reduce-depth keeps the upper 8 bits"
            )
        # The further images of a telephone's JPEG (MPO) are previews and depth maps.
        frames = 1 if image.format == "MPO" else getattr(image, "n_frames", 1)
        if frames > 1:
            notes.append(f"only the first of {frames} images in the file was taken")
        image.load()
        upright = _upright(image, notes)
        if deep:
            notes.append("samples were reduced to 8 bits")
        if upright.mode.startswith("I;16") or (upright.mode == "I" and deep):
            profile = upright.info.get("icc_profile")
            upright = Image.fromarray((np.asarray(upright) >> 8).clip(0, 255).astype(np.uint8))
            upright.info["icc_profile"] = profile
        colours, alpha = _flatten_alpha(upright, background, notes)
        if colours.mode not in _PLAIN_MODES:
            raise UnsupportedImageError(
                f"image has samples of a kind that has no fixed range (Pillow mode {colours.mode}): "
                "convert it to 8-bit RGB first"
            )
        rgb = _to_srgb(colours, notes)
        if alpha is not None and background is not None:
            rgb = Image.composite(rgb, Image.new("RGB", rgb.size, background), alpha)
        return np.array(rgb)


def read_image(
    source: Path | BinaryIO,
    *,
    max_pixels: int = DEFAULT_MAX_PIXELS,
    background: tuple[int, int, int] | None = None,
    reduce_depth: bool = False,
) -> LoadedImage:
    """Read a PNG, JPEG, WebP, AVIF, TIFF, BMP or PPM file; of several images in it, the first.

    Args:
        source: A file, or a seekable binary stream.
        max_pixels: Largest width times height, checked before pixels are decoded.
        background: Red, green, blue to put transparent images on; without it they are refused.
        reduce_depth: Take images of more than 8 bits per sample, at 8 bits; else they are refused.

    Raises:
        BitstreamError: If the file is damaged or of another format.
        LimitExceededError: If the image is too large.
        UnsupportedImageError: If it is transparent or deep and the caller did not allow for it.
        OSError: If the file cannot be opened.
    """
    if isinstance(source, Path):
        with source.open("rb") as stream:
            return read_image(
                stream, max_pixels=max_pixels, background=background, reduce_depth=reduce_depth
            )
    notes: list[str] = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            pixels = _decode(source, max_pixels, background, reduce_depth, notes)
        except (LimitExceededError, UnsupportedImageError):
            raise
        except Image.DecompressionBombError as error:
            raise LimitExceededError(str(error)) from error
        except UnidentifiedImageError as error:
            raise BitstreamError(
                "not an image of a known format (PNG, JPEG, WebP, AVIF, TIFF, BMP, PPM)"
            ) from error
        except Exception as error:
            # Pillow's decoders raise whatever a damaged file trips: OSError, SyntaxError, struct.error, KeyError...
            raise BitstreamError(
                f"image does not decode: {error or type(error).__name__}"
            ) from error
    notes += [
        f"{w.message}"
        for w in caught
        if issubclass(w.category, UserWarning | RuntimeWarning)
        and not issubclass(w.category, Image.DecompressionBombWarning)
    ]
    return LoadedImage(pixels=pixels, notes=tuple(notes))


def encode_image(pixels: NDArray[np.uint8], file_format: str) -> bytes:
    """Image file of an array.

    Args:
        pixels: uint8 ``[H, W, 3]``.
        file_format: ``png``, ``webp``, ``tiff``, ``ppm`` (all lossless) or ``jpeg`` (quality 95, 4:4:4).

    Raises:
        ValueError: For another format.
        LimitExceededError: If the format cannot hold an image of this size.
    """
    if file_format not in _SAVE_OPTIONS:
        raise ValueError(
            f"file_format must be one of {', '.join(_SAVE_OPTIONS)}, got {file_format!r}"
        )
    stream = io.BytesIO()
    try:
        Image.fromarray(pixels).save(stream, file_format, **_SAVE_OPTIONS[file_format])
    except (OSError, ValueError) as error:
        height, width = pixels.shape[:2]
        raise LimitExceededError(
            f"{file_format} cannot hold an image of {width}x{height} pixels: {error}"
        ) from error
    return stream.getvalue()
