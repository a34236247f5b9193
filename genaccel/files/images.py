# SPDX-License-Identifier: Apache-2.0
"""Pictures: image files and Pillow images to upright 8-bit sRGB arrays ``[H, W, 3]``, and back.

There is one reader. What an array of this kind cannot hold is refused, converted or dropped as a :class:`ReadPolicy`
says, and everything that was changed on the way is said in a note; docs/images.md tells it at length.
"""

from __future__ import annotations

import importlib
import io
import os
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import BinaryIO, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageColor, UnidentifiedImageError

from genaccel.errors import BitstreamError, LimitExceededError, UnsupportedImageError
from genaccel.files.colour import RgbEncoding, from_encoding, from_profile, without_profile
from genaccel.files.declared_colours import EXIF_FOLDER, INTEROPERABILITY_FOLDER, declared_colours
from genaccel.files.formats import IMAGE_FORMATS, ImageFormat, recognised
from genaccel.files.image_headers import HeaderFacts, JxlParts, jxl_parts
from genaccel.files.samples import facts_of, split_alpha, to_8_bits

Colour = tuple[int, int, int]
Source = str | os.PathLike[str] | BinaryIO | Image.Image
Result = TypeVar("Result")

READ_FORMATS = tuple(known.name for known in IMAGE_FORMATS)
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


@dataclass(frozen=True, kw_only=True, slots=True)
class ReadPolicy:
    """How to read a file that holds more than an upright 8-bit sRGB array does.

    Attributes:
        max_pixels: Largest width times height, checked before pixels are decoded; Pillow refuses more than
            178,956,970 in any case.
        max_side: Largest width or height.
        max_bytes: Most bytes of a source that can't be sought in, such as a pipe, which is read whole.
        transparency: ``"refuse"`` images that are transparent in places, ``"keep"`` their alpha channel beside the
            pixels, ``"drop"`` it, or put them on a colour (red, green, blue).
        depth: ``"refuse"`` samples of more than 8 bits, or ``"reduce"`` them to their upper 8.
        profile: ``"convert"`` colours to sRGB from what the file says that they are, or ``"ignore"`` that.
        formats: Pillow's names of the formats to take.
        remedies: What a message of refusal for ``transparency`` or ``depth`` adds, for the caller's users.
    """

    max_pixels: int = 2**27  # 134 megapixels: 403 MB as uint8 RGB
    max_side: int = 65_535  # more than most image formats can be given
    max_bytes: int = 2**30 + 2**27  # uncompressed 16-bit RGB of that many pixels is less
    transparency: Literal["refuse", "keep", "drop"] | Colour = "refuse"
    depth: Literal["refuse", "reduce"] = "refuse"
    profile: Literal["convert", "ignore"] = "convert"
    formats: tuple[str, ...] = READ_FORMATS
    remedies: Mapping[str, str] = field(default_factory=dict)

    def refusal(
        self, what: Literal["transparency", "depth"], message: str
    ) -> UnsupportedImageError:
        """The error of an image that is refused."""
        remedy = self.remedies.get(what)
        return UnsupportedImageError(f"{message}: {remedy}" if remedy else message)


STRICT = ReadPolicy()
# Samples as they are stored, of whatever is there: training sets, where a refused picture is a lost one.
AS_STORED = ReadPolicy(max_pixels=1 << 28, transparency="drop", depth="reduce", profile="ignore")


@dataclass(frozen=True, kw_only=True, slots=True)
class Metadata:
    """What a file says about its image, as it is stored there; empty where it says nothing.

    Attributes:
        exif: A TIFF structure that starts with its byte order, ``II`` or ``MM``. Its orientation and colour space are
            those of the file, not of pixels that were read.
        xmp: An XMP packet: XML in UTF-8.
    """

    exif: bytes = b""
    xmp: bytes = b""


@dataclass(frozen=True, kw_only=True, slots=True)
class LoadedImage:
    """An image that was read.

    Attributes:
        pixels: uint8 ``[H, W, 3]``, sRGB, upright; not multiplied by alpha.
        notes: One sentence for each thing that reading changed or dropped.
        alpha: uint8 ``[H, W]``, 255 is opaque, of an image that is transparent in places and was read with
            ``transparency="keep"``; else None.
        metadata: What the file says about the image.
    """

    pixels: NDArray[np.uint8]
    notes: tuple[str, ...]
    alpha: NDArray[np.uint8] | None = None
    metadata: Metadata = field(default_factory=Metadata)


def parse_colour(text: str) -> Colour:
    """``white``, ``#ff8000``, ``rgb(255, 128, 0)`` to red, green, blue.

    Raises:
        ValueError: If the text names no opaque colour.
    """
    colour = ImageColor.getrgb(text)
    if len(colour) != 3:
        raise ValueError(f"background must be an opaque colour, got {text!r}")
    return colour


def _is_upright_already(image: Image.Image) -> bool:
    """Whether the decoder itself has applied the orientation that EXIF repeats."""
    return image.format == "JXL" and not getattr(image, "jpeg", False)  # which is a JPEG's own


def _exif(image: Image.Image, notes: list[str]) -> Image.Exif:
    try:
        found = image.getexif()
        found.get_ifd(EXIF_FOLDER)
        found.get_ifd(INTEROPERABILITY_FOLDER)
        return found
    except Exception as error:  # a broken side note is no reason to refuse the photograph
        notes.append(f"EXIF data is damaged and was ignored ({error or type(error).__name__})")
        return Image.Exif()


def _to_srgb(
    colours: Image.Image, encoding: bytes | RgbEncoding | None, notes: list[str]
) -> Image.Image:
    """Convert any plain mode to RGB in sRGB."""
    if colours.mode not in ("L", "CMYK", "LAB"):
        colours = colours.convert("L" if colours.mode == "1" else "RGB")
    if isinstance(encoding, bytes):
        return from_profile(colours, encoding, notes)
    if encoding is None or colours.mode not in ("L", "RGB"):
        return without_profile(colours, notes)
    return from_encoding(colours.convert("RGB"), encoding, notes)


def _without_alpha(
    rgb: Image.Image, alpha: Image.Image | None, policy: ReadPolicy, notes: list[str]
) -> tuple[Image.Image, Image.Image | None]:
    """Do with an alpha channel as the policy says; it is given back where that keeps it."""
    if alpha is None or policy.transparency == "refuse":
        return rgb, None
    if policy.transparency == "keep":
        return rgb, alpha
    if policy.transparency == "drop":
        notes.append("alpha channel was dropped")
        return rgb, None
    notes.append(f"transparent image was put on the background colour {policy.transparency}")
    return Image.composite(rgb, Image.new("RGB", rgb.size, policy.transparency), alpha), None


def text_bytes(text: str) -> bytes:
    """Bytes of a text of EXIF, which Pillow reads as if they were Latin-1, and would write as ASCII."""
    try:
        return text.encode("latin-1")
    except UnicodeEncodeError:  # not read from a file
        return text.encode()


def _metadata(image: Image.Image, exif: Image.Exif) -> Metadata:
    """EXIF and XMP of an image that was loaded; what is damaged counts as nothing."""
    stored = image.info.get("exif", b"")
    if not stored:
        try:
            texts = {tag: text for tag, text in exif.items() if isinstance(text, str)}
            exif.update({tag: text_bytes(text) for tag, text in texts.items()})
            stored = exif.tobytes() if exif else b""
            exif.update(texts)
        except Exception:  # of whatever damage Pillow's writer trips over
            stored = b""
    xmp = image.info.get("xmp", b"")
    return Metadata(
        exif=bytes(stored).removeprefix(b"Exif\0\0"),
        xmp=xmp.encode() if isinstance(xmp, str) else bytes(xmp),
    )


def _check_size(size: tuple[int, int], policy: ReadPolicy) -> None:
    width, height = size
    if width * height > policy.max_pixels:
        raise LimitExceededError(
            f"image of {width}x{height} pixels exceeds the limit of {policy.max_pixels} pixels"
        )
    if max(width, height) > policy.max_side:
        raise LimitExceededError(
            f"image of {width}x{height} pixels has a side over {policy.max_side} pixels"
        )


def _add_to_pillow(known: ImageFormat) -> None:
    """Have Pillow read a format that needs a package.

    Raises:
        UnsupportedImageError: If the package is not installed.
    """
    if known.package is None or known.name in Image.OPEN:
        return
    package, module = known.package
    try:
        plugin = importlib.import_module(module)
    except ImportError as error:
        raise UnsupportedImageError(
            f"image is a {known.title} file, which needs the package {package}: run `pip install {package}`"
        ) from error
    if known.name == "HEIF":
        plugin.register_heif_opener()  # the other one does so as it is imported


def _open(stream: BinaryIO, policy: ReadPolicy) -> tuple[Image.Image, JxlParts | None]:
    """Open an image of one of the policy's formats and sizes; of JPEG XL, what its container holds besides."""
    stream.seek(0)
    head = stream.read(64)
    stream.seek(0)
    kind = recognised(head)
    parts = None
    if kind is not None and kind.package is not None and kind.name in policy.formats:
        _add_to_pillow(kind)
        formats = [kind.name]
        if kind.name == "JXL":  # whose plugin decodes at once
            parts = jxl_parts(stream)
            _check_size((parts.width, parts.height), policy)
            stream = io.BytesIO(parts.codestream)
    else:
        needing = {known.name for known in IMAGE_FORMATS if known.package is not None}
        formats = [name for name in policy.formats if name not in needing]
    try:
        image = Image.open(stream, formats=formats)
    except UnidentifiedImageError as error:
        if kind is not None and kind.name in policy.formats:
            raise BitstreamError(
                f"{kind.title} file does not decode: its header is damaged, or it is of a kind that is not read"
            ) from error
        titles = dict.fromkeys(
            known.title for known in IMAGE_FORMATS if known.name in policy.formats
        )
        raise BitstreamError(f"not an image of a known format ({', '.join(titles)})") from error
    _check_size(image.size, policy)
    return image, parts


def _pixels(
    image: Image.Image,
    policy: ReadPolicy,
    notes: list[str],
    *,
    stream: BinaryIO | None,
    parts: JxlParts | None = None,
) -> LoadedImage:
    """Read an image that was opened, whose file may be open still."""
    facts = facts_of(image, stream) if parts is None else HeaderFacts(bits=parts.bits)
    exif = _exif(image, notes)
    encoding = declared_colours(image, exif, facts, notes) if policy.profile == "convert" else None
    is_deep = facts.bits > 8
    if is_deep and policy.depth == "refuse":
        raise policy.refusal("depth", "image has more than 8 bits per sample")
    colours, alpha = split_alpha(image, facts, stream)
    colours = to_8_bits(colours, image, facts)
    if is_deep:
        notes.append("samples were reduced to 8 bits")
    if alpha is not None and alpha.getextrema()[0] == 255:
        notes.append("alpha channel is opaque everywhere and was dropped")
        alpha = None
    if alpha is not None and policy.transparency == "refuse":
        raise policy.refusal("transparency", "image is transparent in places")
    orientation = 1 if _is_upright_already(image) else exif.get(_ORIENTATION_TAG, 1)
    if orientation in _UPRIGHT:
        notes.append(f"EXIF orientation {orientation} was applied")
        colours = colours.transpose(_UPRIGHT[orientation])
        alpha = None if alpha is None else alpha.transpose(_UPRIGHT[orientation])
    rgb = _to_srgb(colours, encoding, notes)
    rgb, kept = _without_alpha(rgb, alpha, policy, notes)
    return LoadedImage(
        pixels=np.array(rgb),
        notes=(),
        alpha=None if kept is None else np.array(kept),
        metadata=_metadata(image, exif)
        if parts is None
        else Metadata(exif=parts.exif, xmp=parts.xmp),
    )


def _decode(stream: BinaryIO, policy: ReadPolicy, notes: list[str]) -> LoadedImage:
    image, parts = _open(stream, policy)
    with image:
        # The further images of a telephone's JPEG (MPO) are previews and depth maps.
        frames = 1 if image.format == "MPO" else getattr(image, "n_frames", 1)
        if frames > 1:
            which = "main one" if image.format == "HEIF" else "first"
            notes.append(f"only the {which} of {frames} images in the file was taken")
        return _pixels(image, policy, notes, stream=stream, parts=parts)


def _of_pillow(image: Image.Image, policy: ReadPolicy, notes: list[str]) -> LoadedImage:
    _check_size(image.size, policy)
    # A file that Pillow has opened and not decoded yet says more than the image does.
    stream = getattr(image, "fp", None) if getattr(image, "tile", None) else None
    return _pixels(image, policy, notes, stream=stream)


def _whole(stream: BinaryIO, max_bytes: int) -> BinaryIO:
    """A stream that can be sought in."""
    if stream.seekable():
        return stream
    data = stream.read(max_bytes + 1)
    if len(data) > max_bytes:
        raise LimitExceededError(f"input is larger than the limit of {max_bytes} bytes")
    return io.BytesIO(data)


def _guarded(work: Callable[[], Result], notes: list[str]) -> Result:
    """Let a reader of untrusted files raise only what :func:`read_image` says; its warnings become notes."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            result = work()
        except (BitstreamError, LimitExceededError, UnsupportedImageError):
            raise
        except Image.DecompressionBombError as error:
            raise LimitExceededError(str(error)) from error
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
    return result


def _of_stream(
    source: str | os.PathLike[str] | BinaryIO,
    policy: ReadPolicy,
    read: Callable[[BinaryIO], Result],
    notes: list[str],
) -> Result:
    if isinstance(source, str | os.PathLike):
        with Path(source).open("rb") as stream:
            return _of_stream(stream, policy, read, notes)
    return _guarded(lambda: read(_whole(source, policy.max_bytes)), notes)


def read_image(source: Source, policy: ReadPolicy = STRICT) -> LoadedImage:
    """Read an image: upright, in sRGB, 8 bits a sample.

    Files are PNG, JPEG, WebP, AVIF, TIFF, BMP, PNM and GIF, and with their packages (``genaccel[formats]``) HEIC and
    JPEG XL; of several images in one, the first is taken. A Pillow image is read by the same rules: it is turned as
    its EXIF data says, its profile is applied, and its transparency and depth are as the policy wants them.
    Floating-point samples (mode F) are in [0, 1].

    Args:
        source: A file; a binary stream, which is read whole if it can't be sought in; or a Pillow image.
        policy: What to do about what an array does not hold.

    Raises:
        BitstreamError: If the file is damaged or of another format.
        LimitExceededError: If the image is too large.
        UnsupportedImageError: If it has what the policy refuses, a high dynamic range, or a format whose package is
            not installed.
        OSError: If the file cannot be opened.

    Example:
        >>> read_image("photo.png").notes  # doctest: +SKIP
        ('EXIF orientation 6 was applied',)
    """
    notes: list[str] = []
    if isinstance(source, Image.Image):
        image = source
        loaded = _guarded(lambda: _of_pillow(image, policy, notes), notes)
    else:
        loaded = _of_stream(source, policy, lambda stream: _decode(stream, policy, notes), notes)
    return replace(loaded, notes=tuple(notes))


def read_size(
    source: str | os.PathLike[str] | BinaryIO, policy: ReadPolicy = STRICT
) -> tuple[int, int]:
    """Width and height that the header of an image file says, before it is turned upright.

    Raises:
        BitstreamError: If the header is damaged or of another format.
        LimitExceededError: If the image is too large.
        UnsupportedImageError: If its format's package is not installed.
        OSError: If the file cannot be opened.
    """

    def size(stream: BinaryIO) -> tuple[int, int]:
        image, _ = _open(stream, policy)
        with image:
            return image.size

    return _of_stream(source, policy, size, [])
