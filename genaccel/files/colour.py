# SPDX-License-Identifier: Apache-2.0
"""Colours of any description to sRGB: ICC profiles, code points of ITU-T H.273, gamma and chromaticities.

A description counts by what it holds, never by its name, and where it says sRGB, pixels stay as they are bit for bit.
"""

from __future__ import annotations

import functools
import io
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageCms

from genaccel.errors import UnsupportedImageError
from genaccel.files.image_headers import CodePoints

Chromaticity = tuple[float, float]
Samples = NDArray[np.float64]

# Descriptions that move no colour by more than this are sRGB, written with other roundings.
_SAME_COLOUR = 1
_D65: Chromaticity = (0.3127, 0.3290)
_C: Chromaticity = (0.310, 0.316)
_DCI: Chromaticity = (0.314, 0.351)
_E: Chromaticity = (1 / 3, 1 / 3)


@dataclass(frozen=True, slots=True)
class Primaries:
    """Chromaticities x, y of red, green, blue and white, and how people call them."""

    name: str
    red: Chromaticity
    green: Chromaticity
    blue: Chromaticity
    white: Chromaticity = _D65


@dataclass(frozen=True, slots=True)
class Curve:
    """A transfer characteristic: from samples in [0, 1] to light in [0, 1]."""

    name: str
    to_light: Callable[[Samples], Samples]


_SRGB_PRIMARIES = Primaries("sRGB primaries", (0.640, 0.330), (0.300, 0.600), (0.150, 0.060))
_NTSC = Primaries("SMPTE 170M primaries", (0.630, 0.340), (0.310, 0.595), (0.155, 0.070))
# ITU-T H.273 (07/2024), table 2.
_PRIMARIES = {
    1: _SRGB_PRIMARIES,
    4: Primaries("BT.470 System M primaries", (0.67, 0.33), (0.21, 0.71), (0.14, 0.08), _C),
    5: Primaries("BT.470 System B, G primaries", (0.64, 0.33), (0.29, 0.60), (0.15, 0.06)),
    6: _NTSC,
    7: _NTSC,
    8: Primaries("primaries of film", (0.681, 0.319), (0.243, 0.692), (0.145, 0.049), _C),
    9: Primaries("BT.2020 primaries", (0.708, 0.292), (0.170, 0.797), (0.131, 0.046)),
    10: Primaries("CIE XYZ", (1.0, 0.0), (0.0, 1.0), (0.0, 0.0), _E),
    11: Primaries("DCI-P3 primaries", (0.680, 0.320), (0.265, 0.690), (0.150, 0.060), _DCI),
    12: Primaries("Display P3 primaries", (0.680, 0.320), (0.265, 0.690), (0.150, 0.060)),
    22: Primaries("EBU 3213 primaries", (0.630, 0.340), (0.295, 0.605), (0.155, 0.077)),
}


def _power(exponent: float, name: str | None = None) -> Curve:
    return Curve(name or f"gamma {exponent:.4g}", lambda v: v**exponent)


def _with_toe(name: str, alpha: float, slope: float, end: float, exponent: float) -> Curve:
    """A straight toe up to the sample ``end``, and a shifted power from there on."""

    def to_light(v: Samples) -> Samples:
        return np.where(v < end, v / slope, ((v + alpha - 1) / alpha) ** exponent)

    return Curve(name, to_light)


_SRGB_CURVE = _with_toe("the sRGB curve", 1.055, 12.92, 0.04045, 2.4)
_BT709_CURVE = _with_toe(
    "the BT.709 curve", 1.09929682680944, 4.5, 4.5 * 0.018053968510807, 1 / 0.45
)
# ITU-T H.273 (07/2024), table 3; within [0, 1], 11 and 12 are 1.
_CURVES = {
    **dict.fromkeys((1, 6, 11, 12, 14, 15), _BT709_CURVE),
    4: _power(2.2),
    5: _power(2.8),
    7: _with_toe("the SMPTE 240M curve", 1.1115, 4.0, 4 * 0.0228, 1 / 0.45),
    8: _power(1.0, "linear light"),
    9: Curve("a logarithmic curve", lambda v: np.where(v > 0, 10.0 ** (2 * (v - 1)), 0.0)),
    10: Curve("a logarithmic curve", lambda v: np.where(v > 0, 10.0 ** (2.5 * (v - 1)), 0.0)),
    13: _SRGB_CURVE,
    17: Curve("the SMPTE ST 428-1 curve", lambda v: v**2.6 * (52.37 / 48)),
}
_HDR_CURVES = {16: "PQ", 18: "HLG"}
_UNSPECIFIED = 2


@dataclass(frozen=True, slots=True)
class RgbEncoding:
    """How samples of red, green and blue stand for colours."""

    primaries: Primaries = _SRGB_PRIMARIES
    curve: Curve = _SRGB_CURVE
    is_full_range: bool = True

    @property
    def name(self) -> str:
        """For people."""
        name = f"{self.primaries.name} with {self.curve.name}"
        return name if self.is_full_range else f"{name} in video range"


# Adobe RGB (1998) Color Image Encoding, 4.3; cameras name it by the interoperability index R03 (DCF 2.0).
ADOBE_RGB = RgbEncoding(
    Primaries("Adobe RGB primaries", (0.64, 0.33), (0.21, 0.71), (0.15, 0.06)), _power(563 / 256)
)


def _refuse_hdr(transfer: int) -> None:
    if transfer in _HDR_CURVES:
        raise UnsupportedImageError(
            f"image has a high dynamic range ({_HDR_CURVES[transfer]}), which has no fixed place in sRGB: "
            "tone-map it first, by exporting it for standard dynamic range (SDR)"
        )


def encoding_of_code_points(points: CodePoints, notes: list[str]) -> RgbEncoding | None:
    """The encoding that code points name; None where they leave all open.

    Raises:
        UnsupportedImageError: For PQ and HLG.
    """
    _refuse_hdr(points.transfer)
    for kind, code, known in (
        ("primaries", points.primaries, _PRIMARIES),
        ("a transfer curve", points.transfer, _CURVES),
    ):
        if code != _UNSPECIFIED and code not in known:
            notes.append(f"colours have {kind} of the unknown code {code}, sRGB is assumed")
    if points.primaries not in _PRIMARIES and points.transfer not in _CURVES:
        return None
    return RgbEncoding(
        _PRIMARIES.get(points.primaries, _SRGB_PRIMARIES),
        _CURVES.get(points.transfer, _SRGB_CURVE),
        points.is_full_range,
    )


def encoding_of_gamma(
    gamma: float | None, chromaticities: tuple[float, ...] | None, notes: list[str]
) -> RgbEncoding | None:
    """The encoding that PNG's gAMA and cHRM chunks name; None where they say nothing.

    Args:
        gamma: The exponent from light to samples, as 0.45455.
        chromaticities: x and y of white, red, green and blue.
        notes: Gets what made no sense.
    """
    if gamma is not None and not 0.1 <= gamma <= 10:
        notes.append(f"gamma of {gamma:g} makes no sense and was ignored")
        gamma = None
    primaries = _SRGB_PRIMARIES
    if chromaticities is not None and len(chromaticities) == 8:
        white, red, green, blue = zip(chromaticities[::2], chromaticities[1::2], strict=True)
        own = Primaries("their primaries", red, green, blue, white)
        # What sRGB's own rounds to in other people's arithmetic.
        if np.abs(np.subtract(chromaticities, _flat(_SRGB_PRIMARIES))).max() > 0.002:
            primaries = own
    # Writers of sRGB say 1 / 2.2 for its curve (PNG, 11.3.2.3); libpng takes 5 % for no difference.
    is_srgb_curve = gamma is None or abs(gamma * 2.2 - 1) <= 0.05
    if primaries is _SRGB_PRIMARIES and is_srgb_curve:
        return None
    return RgbEncoding(primaries, _SRGB_CURVE if gamma is None else _power(1 / gamma))


def _flat(primaries: Primaries) -> tuple[float, ...]:
    return (*primaries.white, *primaries.red, *primaries.green, *primaries.blue)


# ------------------------------------------------------------------------------------------------ conversion by numbers


def _xyz(point: Chromaticity) -> Samples:
    x, y = point
    return np.array([x, y, 1 - x - y])


def _to_xyz(primaries: Primaries) -> Samples:
    """Matrix from light of the primaries to XYZ relative to their white (SMPTE RP 177, 3.3).

    Raises:
        np.linalg.LinAlgError: If the primaries are in one line, or white is none.
    """
    if primaries.white[1] <= 0:
        raise np.linalg.LinAlgError
    columns = np.stack([_xyz(primaries.red), _xyz(primaries.green), _xyz(primaries.blue)], axis=1)
    return columns * np.linalg.solve(columns, _xyz(primaries.white) / primaries.white[1])


_BRADFORD = np.array(
    [[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]]
)


def _adapted_to_d65(white: Chromaticity) -> Samples:
    """Matrix of XYZ under a white to XYZ under D65 (linear Bradford, ICC.1:2022, annex E)."""
    cones = _BRADFORD @ (_xyz(_D65) / _D65[1]) / (_BRADFORD @ (_xyz(white) / white[1]))
    return np.linalg.inv(_BRADFORD) @ (cones[:, None] * _BRADFORD)


@functools.cache
def _srgb_of_light() -> NDArray[np.uint8]:
    """8-bit sRGB by light in 65536 steps, which are twenty to a level where it is steepest."""
    light = np.linspace(0, 1, 65536)
    encoded = np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)
    return np.rint(encoded * 255).astype(np.uint8)


def _tables(encoding: RgbEncoding) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Light by sample ``[256]``, and the matrix ``[3, 3]`` from light to that of sRGB's primaries.

    Raises:
        ValueError: If the primaries span no space.
    """
    samples = np.arange(256.0)
    if not encoding.is_full_range:
        samples = (samples - 16) * (255 / 219)
    light = encoding.curve.to_light((samples / 255).clip(0, 1))
    primaries = encoding.primaries
    try:
        to_xyz = _to_xyz(primaries)
        matrix = np.linalg.inv(_to_xyz(_SRGB_PRIMARIES)) @ _adapted_to_d65(primaries.white) @ to_xyz
    except np.linalg.LinAlgError as error:
        raise ValueError("primaries are in one line") from error
    if not np.isfinite(matrix).all() or np.abs(matrix).max() > 1000:
        raise ValueError("primaries are in one line")
    return light.astype(np.float32), matrix.astype(np.float32)


def _apply(
    pixels: NDArray[np.uint8], light: NDArray[np.float32], matrix: NDArray[np.float32]
) -> NDArray[np.uint8]:
    table = _srgb_of_light()
    out = np.empty_like(pixels)
    rows = max(1, 2**20 // max(1, pixels.shape[1]))
    for start in range(0, len(pixels), rows):  # so that few floats are in memory at a time
        block = light[pixels[start : start + rows]] @ matrix.T
        steps = block * np.float32(65535) + np.float32(0.5)
        out[start : start + rows] = table[steps.clip(0, 65535).astype(np.uint16)]
    return out


def _probe() -> NDArray[np.uint8]:
    """Colours all over the cube, and each grey: ``[1, N, 3]``."""
    levels = np.linspace(0, 255, 9).astype(np.uint8)
    cube = np.stack(np.meshgrid(levels, levels, levels), axis=-1).reshape(-1, 3)
    greys = np.arange(256, dtype=np.uint8)[:, None].repeat(3, axis=1)
    return np.concatenate([cube, greys])[None]


def _is_same(colours: NDArray[np.uint8], others: NDArray[np.uint8]) -> bool:
    return bool(np.abs(colours.astype(int) - others.astype(int)).max() <= _SAME_COLOUR)


def from_encoding(image: Image.Image, encoding: RgbEncoding, notes: list[str]) -> Image.Image:
    """Convert an image of mode RGB to sRGB; colours outside it are cut at its border."""
    try:
        light, matrix = _tables(encoding)
    except ValueError as error:
        notes.append(f"colours could not be interpreted, sRGB is assumed ({error})")
        return image
    probe = _probe()
    if _is_same(_apply(probe, light, matrix), probe):
        return image
    notes.append(f"colours were converted from {encoding.name} to sRGB")
    return Image.fromarray(_apply(np.asarray(image), light, matrix))


# --------------------------------------------------------------------------------------------------------- ICC profiles

# Device link, abstract and named colour profiles say nothing about an image (ICC.1:2022, 7.2.5).
_CLASSES_OF_IMAGES = ("scnr", "mntr", "prtr", "spac")
Mode = Literal["L", "RGB", "CMYK", "LAB"]
_SPACES: dict[str, Mode] = {"GRAY": "L", "RGB": "RGB", "CMYK": "CMYK", "Lab": "LAB"}
_NAMES = {"L": "grey", "LAB": "L*a*b*"}


def _for_display(text: str) -> str:
    """A name out of a file, fit for a line of text."""
    shown = "".join(c if c.isprintable() else " " for c in text[:200])
    return " ".join(shown.split())[:60]


def _refuse_hdr_profile(data: bytes) -> None:
    """Refuse a profile whose cicp tag (ICC.1:2022, 9.2.17) says that its curve is PQ or HLG."""
    count = int.from_bytes(data[128:132], "big")
    for i in range(min(count, 100)):
        entry = data[132 + 12 * i : 144 + 12 * i]
        if entry[:4] == b"cicp":
            offset = struct.unpack(">I", entry[4:8])[0]
            if len(data) > offset + 9:
                _refuse_hdr(data[offset + 9])


@dataclass(frozen=True, slots=True)
class _ProfileTransform:
    """How images of a profile become sRGB.

    Attributes:
        name: The profile's.
        mode: Of the images that it takes.
        transform: None if the profile is sRGB.
    """

    name: str
    mode: Mode
    transform: ImageCms.ImageCmsTransform | None


@functools.lru_cache(maxsize=16)
def _transform_of(data: bytes) -> _ProfileTransform:
    """Build it.

    Raises:
        ImageCms.PyCMSError: If the profile is broken.
        OSError: Likewise.
        ValueError: If it is none of an image.
    """
    profile = ImageCms.ImageCmsProfile(io.BytesIO(data))
    mode = _SPACES.get(profile.profile.xcolor_space.strip())
    kind = profile.profile.device_class
    if mode is None or kind not in _CLASSES_OF_IMAGES:
        raise ValueError(f"it is of class {kind} and for {profile.profile.xcolor_space.strip()}")
    transform = ImageCms.buildTransform(
        profile,
        ImageCms.createProfile("sRGB"),
        mode,
        "RGB",
        ImageCms.Intent.RELATIVE_COLORIMETRIC,
        ImageCms.Flags.BLACKPOINTCOMPENSATION,
    )
    try:
        name = _for_display(ImageCms.getProfileDescription(profile))
    except ImageCms.PyCMSError:  # a profile needs no name to be used
        name = ""
    if mode in ("RGB", "L"):
        probe = Image.fromarray(_probe())
        # Greys of a grey profile; a colour's red stands for it.
        source = probe if mode == "RGB" else probe.getchannel("R")
        converted = ImageCms.applyTransform(source, transform)
        if converted is not None and _is_same(
            np.asarray(converted), np.asarray(source.convert("RGB"))
        ):
            return _ProfileTransform(name, mode, None)
    return _ProfileTransform(name, mode, transform)


def _lab_transform() -> ImageCms.ImageCmsTransform:
    lab, srgb = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
    return ImageCms.buildTransform(lab, srgb, "LAB", "RGB", ImageCms.Intent.RELATIVE_COLORIMETRIC)


def without_profile(image: Image.Image, notes: list[str]) -> Image.Image:
    """Mode RGB of an image whose file doesn't say more about its colours than their mode does."""
    if image.mode == "LAB":
        notes.append("CIE L*a*b* was converted to sRGB")
        converted = ImageCms.applyTransform(image, _lab_transform())
        return image.convert("RGB") if converted is None else converted
    if image.mode == "CMYK":
        notes.append("CMYK was converted to RGB")
    return image.convert("RGB")


def _is_grey(image: Image.Image) -> bool:
    red, green, blue = (channel.tobytes() for channel in image.split())
    return red == green == blue


def from_profile(image: Image.Image, data: bytes, notes: list[str]) -> Image.Image:
    """Convert an image to mode RGB in sRGB, through an ICC profile.

    A profile that is broken, or for another kind of image, is passed over with a note.

    Args:
        image: Of mode L, RGB, CMYK or LAB.
        data: The profile.
        notes: Gets what was done.

    Raises:
        UnsupportedImageError: For a profile of PQ or HLG.
    """
    _refuse_hdr_profile(data)
    try:
        way = _transform_of(data)
        source = image
        if (image.mode, way.mode) == ("L", "RGB"):
            source = image.convert("RGB")
        elif (image.mode, way.mode) == ("RGB", "L") and _is_grey(image):
            source = image.getchannel("R")
        if source.mode != way.mode:
            own, other = (_NAMES.get(mode, mode) for mode in (image.mode, way.mode))
            raise ValueError(f"it is for {other} images, and this one is {own}")
        if way.transform is None:
            return source.convert("RGB")
        converted = ImageCms.applyTransform(source, way.transform)
    except (ImageCms.PyCMSError, OSError, ValueError) as error:
        reason = _for_display(str(error))
        notes.append(f"colour profile could not be used, sRGB is assumed ({reason})")
        return without_profile(image, notes)
    if converted is None:
        return without_profile(image, notes)
    if image.mode == "CMYK":
        notes.append("CMYK was converted to RGB")
    notes.append(f"colours were converted from {way.name or 'their profile'} to sRGB")
    return converted
