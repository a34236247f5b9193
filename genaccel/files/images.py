# SPDX-License-Identifier: Apache-2.0
"""Pictures: image files and Pillow images to upright 8-bit sRGB arrays ``[H, W, 3]``, and back.

There is one reader. What an array of this kind cannot hold is refused, converted or dropped as a :class:`ReadPolicy`
says, and everything that was changed on the way is said in a note.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, BinaryIO, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageCms, ImageColor, UnidentifiedImageError
from PIL.PngImagePlugin import PngInfo

from genaccel.errors import BitstreamError, LimitExceededError, UnsupportedImageError
from genaccel.files.atomic import write_atomically

Colour = tuple[int, int, int]
Result = TypeVar("Result")

# Named one by one: Pillow knows dozens of formats, and each is code that a hostile file can reach.
READ_FORMATS = ("PNG", "JPEG", "WEBP", "AVIF", "TIFF", "BMP", "PPM")
WRITE_FORMATS = {
    ".png": "png",
    ".jpg": "jpeg",
    ".jpeg": "jpeg",
    ".webp": "webp",
    ".tif": "tiff",
    ".tiff": "tiff",
    ".ppm": "ppm",
}
OPAQUE_FORMATS = ("jpeg", "ppm")  # of those
# Lossless where the format can, else the least loss.
_SAVE_OPTIONS: dict[str, dict[str, Any]] = {
    "png": {},
    "jpeg": {"quality": 95, "subsampling": 0},
    "webp": {"lossless": True},
    "tiff": {"compression": "tiff_adobe_deflate"},
    "ppm": {},
}

_ORIENTATION_TAG = 0x0112
_XMP_TAG = 700  # of TIFF
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_PLAIN_MODES = frozenset({"1", "L", "P", "RGB", "RGBX", "YCbCr", "CMYK", "HSV"})


@dataclass(frozen=True, kw_only=True, slots=True)
class ReadPolicy:
    """How to read a file that holds more than an upright 8-bit sRGB array does.

    Attributes:
        max_pixels: Largest width times height, checked before pixels are decoded; Pillow refuses more than
            178,956,970 in any case.
        max_side: Largest width or height.
        transparency: ``"refuse"`` images that are transparent in places, ``"keep"`` their alpha channel beside the
            pixels, ``"drop"`` it, or put them on a colour (red, green, blue).
        depth: ``"refuse"`` samples of more than 8 bits, or ``"reduce"`` them to their upper 8.
        profile: ``"convert"`` colours to sRGB through an embedded profile, or ``"ignore"`` it.
        formats: Pillow's names of the formats to take.
        remedies: What a message of refusal for ``transparency`` or ``depth`` adds, for the caller's users.
    """

    max_pixels: int = 2**27  # 134 megapixels: 403 MB as uint8 RGB
    max_side: int = 65_535  # more than most image formats can be given
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


def _without_alpha(
    image: Image.Image, policy: ReadPolicy, notes: list[str]
) -> tuple[Image.Image, Image.Image | None]:
    """Split an image with transparency into colours and a mask to composite with."""
    if not image.has_transparency_data:
        return image, None
    rgba = image.convert("RGBA")
    alpha = rgba.getchannel("A")
    if alpha.getextrema()[0] == 255:
        notes.append("alpha channel is opaque everywhere and was dropped")
        return rgba.convert("RGB"), None
    if policy.transparency == "refuse":
        raise policy.refusal("transparency", "image is transparent in places")
    if policy.transparency == "drop":
        notes.append("alpha channel was dropped")
        return rgba.convert("RGB"), None
    if policy.transparency == "keep":
        return rgba.convert("RGB"), alpha
    notes.append(f"transparent image was put on the background colour {policy.transparency}")
    return rgba.convert("RGB"), alpha


def _to_srgb(image: Image.Image, policy: ReadPolicy, notes: list[str]) -> Image.Image:
    """Convert any plain mode to RGB, through the embedded profile if there is one and the policy asks for it."""
    if image.mode == "CMYK":
        notes.append("CMYK was converted to RGB")
    profile_bytes = image.info.get("icc_profile")
    source = image if image.mode in ("L", "CMYK") else image.convert("RGB")
    if profile_bytes and policy.profile == "convert":
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


def _to_pixels(
    image: Image.Image, policy: ReadPolicy, notes: list[str], *, is_deep: bool
) -> tuple[NDArray[np.uint8], NDArray[np.uint8] | None]:
    """Pixels of an upright image, and its alpha channel where the policy keeps that."""
    if is_deep:
        notes.append("samples were reduced to 8 bits")
        if image.mode.startswith("I"):  # which Pillow would clip
            profile = image.info.get("icc_profile")
            image = Image.fromarray((np.asarray(image) >> 8).clip(0, 255).astype(np.uint8))
            image.info["icc_profile"] = profile
    colours, alpha = _without_alpha(image, policy, notes)
    if colours.mode not in _PLAIN_MODES:
        raise UnsupportedImageError(
            f"image has samples of a kind that has no fixed range (Pillow mode {colours.mode}): "
            "convert it to 8-bit RGB first"
        )
    rgb = _to_srgb(colours, policy, notes)
    if alpha is not None and isinstance(policy.transparency, str):
        return np.array(rgb), np.array(alpha)
    if alpha is not None and not isinstance(policy.transparency, str):
        rgb = Image.composite(rgb, Image.new("RGB", rgb.size, policy.transparency), alpha)
    return np.array(rgb), None


def pixels_of(image: Image.Image, policy: ReadPolicy = STRICT) -> NDArray[np.uint8]:
    """Pixels ``[H, W, 3]`` of a Pillow image as it is: it is not turned.

    Args:
        image: Of any mode.
        policy: What to do about what an array does not hold; its limits are not looked at.

    Raises:
        UnsupportedImageError: If the image has what the policy refuses.

    Example:
        >>> pixels_of(Image.new("L", (3, 2), 7)).shape
        (2, 3, 3)
    """
    is_deep = image.mode.startswith("I;16")
    if is_deep and policy.depth == "refuse":
        raise policy.refusal("depth", "image has more than 8 bits per sample")
    return _to_pixels(image, policy, [], is_deep=is_deep)[0]


def _stored(text: str) -> bytes:
    """Bytes of a text of EXIF, which Pillow reads as if they were Latin-1, and would write as ASCII."""
    try:
        return text.encode("latin-1")
    except UnicodeEncodeError:  # not read from a file
        return text.encode()


def _metadata(image: Image.Image) -> Metadata:
    """EXIF and XMP of an image that was loaded; what is damaged counts as nothing."""
    exif = image.info.get("exif", b"")
    if not exif:
        try:
            found = image.getexif()
            texts = {tag: text for tag, text in found.items() if isinstance(text, str)}
            found.update({tag: _stored(text) for tag, text in texts.items()})
            exif = found.tobytes() if found else b""
            found.update(texts)
        except Exception:  # of whatever damage Pillow's parser and writer trip over
            exif = b""
    xmp = image.info.get("xmp", b"")
    return Metadata(
        exif=bytes(exif).removeprefix(b"Exif\0\0"),
        xmp=xmp.encode() if isinstance(xmp, str) else bytes(xmp),
    )


def _open(stream: BinaryIO, policy: ReadPolicy) -> Image.Image:
    image = Image.open(stream, formats=policy.formats)
    width, height = image.size
    if width * height > policy.max_pixels:
        raise LimitExceededError(
            f"image of {width}x{height} pixels exceeds the limit of {policy.max_pixels} pixels"
        )
    if max(width, height) > policy.max_side:
        raise LimitExceededError(
            f"image of {width}x{height} pixels has a side over {policy.max_side} pixels"
        )
    return image


def _decode(stream: BinaryIO, policy: ReadPolicy, notes: list[str]) -> LoadedImage:
    with _open(stream, policy) as image:
        position = stream.tell()
        stream.seek(0)
        head = stream.read(4096) if image.format == "AVIF" else b""
        stream.seek(position)
        is_deep = _is_deep(image, head)
        if is_deep and policy.depth == "refuse":
            raise policy.refusal("depth", "image has more than 8 bits per sample")
        # The further images of a telephone's JPEG (MPO) are previews and depth maps.
        frames = 1 if image.format == "MPO" else getattr(image, "n_frames", 1)
        if frames > 1:
            notes.append(f"only the first of {frames} images in the file was taken")
        image.load()
        pixels, alpha = _to_pixels(_upright(image, notes), policy, notes, is_deep=is_deep)
        return LoadedImage(pixels=pixels, notes=(), alpha=alpha, metadata=_metadata(image))


def _guarded(
    source: Path | BinaryIO, read: Callable[[BinaryIO], Result], notes: list[str]
) -> Result:
    """Let a reader of untrusted files raise only what :func:`read_image` says; its warnings become notes."""
    if isinstance(source, Path):
        with source.open("rb") as stream:
            return _guarded(stream, read, notes)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            result = read(source)
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
    return result


def read_image(source: Path | BinaryIO, policy: ReadPolicy = STRICT) -> LoadedImage:
    """Read a PNG, JPEG, WebP, AVIF, TIFF, BMP or PPM file; of several images in it, the first.

    Args:
        source: A file, or a seekable binary stream.
        policy: What to do about what an array does not hold.

    Raises:
        BitstreamError: If the file is damaged or of another format.
        LimitExceededError: If the image is too large.
        UnsupportedImageError: If it has what the policy refuses.
        OSError: If the file cannot be opened.

    Example:
        >>> read_image(Path("photo.png"), AS_STORED).notes  # doctest: +SKIP
        ('EXIF orientation 6 was applied',)
    """
    notes: list[str] = []
    image = _guarded(source, lambda stream: _decode(stream, policy, notes), notes)
    return replace(image, notes=tuple(notes))


def read_size(source: Path | BinaryIO, policy: ReadPolicy = STRICT) -> tuple[int, int]:
    """Width and height that the header of an image file says, before it is turned upright.

    Raises:
        BitstreamError: If the header is damaged or of another format.
        LimitExceededError: If the image is too large.
        OSError: If the file cannot be opened.
    """

    def size(stream: BinaryIO) -> tuple[int, int]:
        with _open(stream, policy) as image:
            return image.size

    return _guarded(source, size, [])


def encode_image(
    image: NDArray[np.uint8] | Image.Image,
    file_format: str,
    *,
    metadata: Metadata | None = None,
    **options: Any,
) -> bytes:
    """Image file of pixels.

    Args:
        image: uint8 ``[H, W, 3]``, where the format can ``[H, W, 4]``, or a Pillow image.
        file_format: ``png``, ``webp``, ``tiff``, ``ppm`` (all lossless) or ``jpeg`` (quality 95, 4:4:4); or with
            ``options`` any that Pillow writes.
        metadata: EXIF and XMP to write into the file, of any format but ``ppm``; of EXIF, ``tiff`` takes texts alone.
        options: Of Pillow's ``save``, instead of these.

    Raises:
        ValueError: For another format.
        LimitExceededError: If the format cannot hold an image of this size.
    """
    if not options and file_format not in _SAVE_OPTIONS:
        raise ValueError(
            f"file_format must be one of {', '.join(_SAVE_OPTIONS)}, got {file_format!r}"
        )
    picture = image if isinstance(image, Image.Image) else Image.fromarray(image)
    stream = io.BytesIO()
    settings = {
        **(options or _SAVE_OPTIONS[file_format]),
        **_metadata_options(metadata, file_format),
    }
    try:
        picture.save(stream, file_format, **settings)
    except (OSError, ValueError) as error:
        raise LimitExceededError(
            f"{file_format} cannot hold an image of {picture.width}x{picture.height} pixels: {error}"
        ) from error
    return stream.getvalue()


def on_background(
    pixels: NDArray[np.uint8], alpha: NDArray[np.uint8], colour: Colour
) -> NDArray[np.uint8]:
    """Pixels ``[H, W, 3]`` of a transparent image on a colour.

    Args:
        pixels: uint8 ``[H, W, 3]``, not multiplied by alpha.
        alpha: uint8 ``[H, W]``.
        colour: Red, green, blue.
    """
    rgb = Image.fromarray(pixels)
    under = Image.new("RGB", rgb.size, colour)
    return np.array(Image.composite(rgb, under, Image.fromarray(alpha)))


def _metadata_options(metadata: Metadata | None, file_format: str) -> dict[str, Any]:
    """Of Pillow's ``save``: each format has its own place for XMP."""
    if metadata is None or file_format == "ppm":
        return {}
    options: dict[str, Any] = {}
    if file_format == "tiff":
        return {"tiffinfo": _tiff_tags(metadata)}
    if metadata.exif:
        options["exif"] = b"Exif\0\0" + metadata.exif
    if metadata.xmp and file_format == "png":
        options["pnginfo"] = PngInfo()
        options["pnginfo"].add_itxt("XML:com.adobe.xmp", metadata.xmp.decode())
    elif metadata.xmp:
        options["xmp"] = metadata.xmp
    return options


def _tiff_tags(metadata: Metadata) -> dict[int, bytes]:
    """Texts of EXIF that are TIFF's own tags, and XMP: libtiff takes no tags in folders, such as the date's."""
    exif = Image.Exif()
    if metadata.exif:
        exif.load(b"Exif\0\0" + metadata.exif)
    tags = {tag: _stored(text) for tag, text in exif.items() if isinstance(text, str)}
    return {**tags, _XMP_TAG: metadata.xmp} if metadata.xmp else tags


def write_image(
    path: Path,
    image: NDArray[np.uint8] | Image.Image,
    *,
    overwrite: bool = False,
    parents: bool = False,
) -> None:
    """Write an image file of the format that its suffix names.

    Args:
        path: Ends in a key of :data:`WRITE_FORMATS`.
        image: As :func:`encode_image` takes it.
        overwrite: As :func:`genaccel.files.atomic.write_atomically` takes it, which says what else is raised.
        parents: As that takes it.

    Raises:
        ValueError: For another suffix.
        LimitExceededError: If the format cannot hold an image of this size.
    """
    suffix = path.suffix.lower()
    if suffix not in WRITE_FORMATS:
        raise ValueError(f"known suffixes are {', '.join(WRITE_FORMATS)}, got {str(path)!r}")
    data = encode_image(image, WRITE_FORMATS[suffix])
    write_atomically(path, data, overwrite=overwrite, parents=parents)
