# SPDX-License-Identifier: Apache-2.0
"""The operating points that ``bench/rdvq.py`` compares, of genaccel's codecs and of the classical formats.

An operating point codes an image to bytes and the bytes to pixels, and knows nothing else of the original.
Points of one title make a curve.
"""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from genaccel import zoo
from genaccel.codec.encoder.encode_options import EncodeOptions
from genaccel.codec.format.half_size import halved, resized
from genaccel.codec.image_codec import ImageCodec
from genaccel.eval._rate.operating_points import (
    ClassicalCodec,
    Codec,
    Coder,
    OperatingPoint,
    code_with,
    parse_codec,
)
from genaccel.files.image_writer import encode_image
from genaccel.files.images import AS_STORED, read_image

HALF = ", half size"
STATIC = ", static tables"
WITH_RDO = ", RDO"
REFINED = ", refined"
# Weights of the rate in refinement, and multiples of its steps. It takes minutes a picture on a CPU: a few points, from
# high rates to low ones, and one that takes longer.
REFINED_SETTINGS = {
    "photo-codec-high": ((0.005, 1.0), (0.005, 2.4), (0.035, 1.0)),
    "photo-codec-medium": ((0.005, 1.0), (0.005, 1.2), (0.04, 1.0)),
    "photo-codec-low": ((0.02, 1.0), (0.1, 1.0), (0.16, 1.0)),
}
# Weights of the rate in refinement at half size.
HALF_REFINED_SETTINGS = {"photo-codec-high": (0.005,), "photo-codec-medium": (0.005,)}
# Of rate-distortion optimised quantisation at half size.
HALF_RDO_WEIGHTS = {"photo-codec-low": (0.04, 0.08)}
# Of rate-distortion optimised quantisation.
RDO_WEIGHTS = (0.005, 0.01, 0.02, 0.04, 0.08, 0.16)
ANCHORS = ("JPEG", "WebP", "AVIF", "JPEG XL")
# From the least that each format can do at 640x427 to 0.3 bits per pixel. Whole pictures end near 0.08 (AVIF),
# 0.11 (JPEG, WebP) and 0.17 bits per pixel (JPEG XL); below that, people send a smaller picture.
_QUALITIES: dict[str, tuple[int, ...]] = {
    "JPEG": (1, 4, 7, 10),
    "WebP": (0, 2, 5, 11),
    "AVIF": (0, 10, 20, 28, 36),
    "JPEG XL": (0, 4, 10, 20),
}
_HALF_QUALITIES: dict[str, tuple[int, ...]] = {
    "JPEG": (1, 6, 12),
    "WebP": (0, 3, 15),
    "AVIF": (0, 12, 24, 36),
    "JPEG XL": (0, 8, 25),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class JpegXlCodec:
    """JPEG XL through ``pillow-jxl-plugin``, at the default effort of cjxl.

    Raises:
        ImportError: On coding, if the plugin is missing.
    """

    quality: int

    def encode(self, image: NDArray[np.uint8]) -> bytes:
        """The file of ``[H, W, 3]``."""
        import pillow_jxl  # noqa: F401  # registers the format

        return encode_image(image, "JXL", quality=self.quality, effort=7)

    def decode(self, data: bytes) -> NDArray[np.uint8]:
        """``[H, W, 3]`` of a file."""
        import pillow_jxl  # noqa: F401

        policy = replace(AS_STORED, formats=("JXL",))
        return read_image(io.BytesIO(data), policy).pixels


@dataclass(frozen=True, kw_only=True, slots=True)
class HalfSize:
    """A codec on the picture at half its width and height; decoded, it is enlarged by Lanczos.

    As ``EncodeOptions(half_size=True)``. The bytes are the codec's and one more, which says whether the sides were odd.
    """

    codec: Codec

    def encode(self, image: NDArray[np.uint8]) -> bytes:
        """The bytes of ``[H, W, 3]``."""
        height, width = image.shape[:2]
        odd = height % 2 | width % 2 << 1
        return bytes([odd]) + self.codec.encode(halved(image))

    def decode(self, data: bytes) -> NDArray[np.uint8]:
        """``[H, W, 3]`` of the bytes."""
        small = self.codec.decode(data[1:])
        height, width = small.shape[:2]
        return resized(small, 2 * height - (data[0] & 1), 2 * width - (data[0] >> 1))


def classical_codec(title: str, quality: int) -> Codec:
    """A classical format by its title, at one quality setting of its encoder."""
    if title == "JPEG XL":
        return JpegXlCodec(quality=quality)
    format: Any = title.lower()
    return ClassicalCodec(format=format, quality=quality)


def anchor_points(*, quick: bool) -> list[OperatingPoint]:
    """The classical formats, in full and at half size; of a quick run, every other quality.

    JPEG XL is left out, and said so, where its plugin is missing.
    """
    points = []
    for title in ANCHORS:
        if title == "JPEG XL" and not _has_jpeg_xl():
            print("JPEG XL is left out: pip install 'genaccel[bench]'")
            continue
        packages = ("pillow", "pillow-jxl-plugin") if title == "JPEG XL" else ("pillow",)
        for qualities, half in ((_QUALITIES[title], False), (_HALF_QUALITIES[title], True)):
            for quality in qualities[:: 2 if quick else 1]:
                codec = classical_codec(title, quality)
                points.append(
                    OperatingPoint(
                        codec=title + HALF if half else title,
                        setting=f"quality {quality}",
                        load=partial(code_with, HalfSize(codec=codec) if half else codec),
                        packages=packages,
                    )
                )
    return points


def _has_jpeg_xl() -> bool:
    try:
        import pillow_jxl  # noqa: F401
    except ImportError:
        return False
    return True


def family(name: str) -> str:
    """Name that a family of models of several rates shares: ``photo-codec`` for ``photo-codec-0.1``."""
    return re.sub(r"-\d[\d.]*(bpp)?$", "", name)


@dataclass(frozen=True, kw_only=True, slots=True)
class WithOptions:
    """A codec of ours at one setting of its encoder."""

    codec: ImageCodec
    options: EncodeOptions

    def encode(self, image: NDArray[np.uint8]) -> bytes:
        """The file of ``[H, W, 3]``."""
        return self.codec.encode(image, self.options)

    def decode(self, data: bytes) -> NDArray[np.uint8]:
        """``[H, W, 3]`` of a file."""
        return self.codec.decode(data)


def _settings(
    name: str, codec: ImageCodec, *, refine: int, quick: bool
) -> dict[str, tuple[str, EncodeOptions]]:
    """Settings of a model: what is behind its name, and the end of the curve's title."""
    settings = {
        "": ("", EncodeOptions()),
        HALF: (HALF, EncodeOptions(half_size=True)),
    }
    if codec.entropy_model is not None:
        settings[", static tables"] = (STATIC, EncodeOptions(static_tables=True))
        for rdo in RDO_WEIGHTS[1:2] if quick else RDO_WEIGHTS:
            settings[f", rdo {rdo:g}"] = (WITH_RDO, EncodeOptions(rdo=rdo))
        for rdo, multiple in REFINED_SETTINGS.get(name, ()) if refine else ():
            steps = round(multiple * refine)
            settings[f", {steps} steps, rdo {rdo:g}"] = (
                REFINED,
                EncodeOptions(rdo=rdo, refine=steps),
            )
        for rdo in () if quick else HALF_RDO_WEIGHTS.get(name, ()):
            settings[f"{HALF}, rdo {rdo:g}"] = HALF, EncodeOptions(rdo=rdo, half_size=True)
        for rdo in HALF_REFINED_SETTINGS.get(name, ()) if refine else ():
            settings[f"{HALF}, {refine} steps, rdo {rdo:g}"] = (
                REFINED + HALF,
                EncodeOptions(rdo=rdo, refine=refine, half_size=True),
            )
    return settings


def our_points(
    models: Sequence[str], *, refine: int = 0, quick: bool = False
) -> list[OperatingPoint]:
    """Every codec of the zoo, and the given ones; with entropy models also at several weights of the rate.

    Args:
        models: Folders, or ``FAMILY=FOLDER`` for models that shall make one curve.
        refine: Steps of refinement, of some models of the zoo; 0 leaves it out.
        quick: Fewer weights.

    Raises:
        ValueError: If one is no folder.
    """
    named = [("genaccel", name) for name in zoo.names("codec")]
    for text in models:
        title, _, folder = text.rpartition("=")
        named.append((title or family(Path(folder).resolve().name), folder))
    points = []
    for title, model in named:
        (plain,) = parse_codec(f"genaccel:{model}")
        # Loaded once, though every photograph is a sweep of its own.
        codec = cache(partial(ImageCodec.from_pretrained, model))
        for ending, (curve, options) in _settings(
            model, codec(), refine=refine, quick=quick
        ).items():

            def load(options: EncodeOptions = options, codec: Any = codec) -> Coder:
                return code_with(WithOptions(codec=codec(), options=options))

            points.append(
                replace(
                    plain, codec=title + curve, setting=f"model {model}{ending}", load=cache(load)
                )
            )
    return points


def models_of(points: Sequence[OperatingPoint]) -> list[str]:
    """Names or folders of the models of :func:`our_points`."""
    settings = [point.setting.removeprefix("model ") for point in points]
    return [setting for setting in settings if ", " not in setting]
