# SPDX-License-Identifier: Apache-2.0
"""The codec against JPEG, WebP and AVIF on held-out photographs: figures, and a sheet to look at."""

from __future__ import annotations

import json
import platform
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from statistics import fmean
from typing import ParamSpec, TypeVar, get_args

import numpy as np
import PIL
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

import genaccel
from genaccel.eval._rate.classical_codecs import (
    ClassicalFormat,
    decode_classical,
    encode_classical,
    encode_to_size,
)
from genaccel.eval._rate.operating_points import CLASSICAL_TITLES, Codec
from genaccel.eval.ms_ssim import ms_ssim_of_images
from genaccel.eval.psnr import psnr
from genaccel.eval.rate import bits_per_pixel

P = ParamSpec("P")
T = TypeVar("T")

CODEC_NAME = "genaccel"

# A tile shows the middle of a photograph, pixel for pixel.
_TILE_WIDTH, _TILE_HEIGHT = 384, 288
_LABEL_HEIGHT = 44
_GAP = 8
_FONT_SIZE = 15
_BACKGROUND, _INK = (255, 255, 255), (24, 24, 24)

# Figures that every measurement has.
_AVERAGED = ("num_bytes", "bits_per_pixel", "psnr", "ms_ssim", "encode_ms", "decode_ms")

Metric = Callable[[NDArray[np.uint8], NDArray[np.uint8]], float]


@dataclass(frozen=True, kw_only=True, slots=True)
class Measurement:
    """One codec on one photograph.

    Attributes:
        photograph: Name of the photograph.
        codec: ``"genaccel"``, ``"JPEG"``, ``"WebP"`` or ``"AVIF"``.
        width: In pixels.
        height: In pixels.
        num_bytes: Size of the whole file.
        psnr: In dB.
        ms_ssim: Multi-scale SSIM.
        st_lpips: ST-LPIPS, or None if it was not measured.
        encode_ms: Time of one encoding. For the classical formats: at the quality chosen.
        decode_ms: Time of one decoding.
        quality: Quality setting of a classical format.
        is_floor: Whether the format cannot make a file as small as the codec's.
    """

    photograph: str
    codec: str
    width: int
    height: int
    num_bytes: int
    psnr: float
    ms_ssim: float
    st_lpips: float | None
    encode_ms: float
    decode_ms: float
    quality: int | None = None
    is_floor: bool = False

    @property
    def bits_per_pixel(self) -> float:
        """Bits of the whole file for each pixel."""
        return bits_per_pixel(self.num_bytes, self.width, self.height)


@dataclass(frozen=True, kw_only=True, slots=True)
class PhotographResult:
    """All codecs on one photograph.

    Attributes:
        original: ``[H, W, 3]``.
        measurements: The codec first, then the classical formats.
        reconstructions: One ``[H, W, 3]`` for each measurement.
    """

    original: NDArray[np.uint8]
    measurements: tuple[Measurement, ...]
    reconstructions: tuple[NDArray[np.uint8], ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class CodecMean:
    """Means of one codec over the photographs."""

    codec: str
    num_bytes: float
    bits_per_pixel: float
    psnr: float
    ms_ssim: float
    st_lpips: float | None
    encode_ms: float
    decode_ms: float


def run_demo(
    codec: Codec, photographs: Mapping[str, NDArray[np.uint8]], *, st_lpips: Metric | None
) -> Iterator[PhotographResult]:
    """Compare the codec with the classical formats on each photograph, as soon as it is asked for.

    Args:
        codec: The codec; it runs once unmeasured first, since the first call allocates and compiles.
        photographs: ``[H, W, 3]`` images by name.
        st_lpips: The perceptual distance, or None to leave it out.
    """
    for warm_up in list(photographs.values())[:1]:
        codec.decode(codec.encode(warm_up))
    for name, original in photographs.items():
        yield compare_codecs(codec, name, original, st_lpips=st_lpips)


def compare_codecs(
    codec: Codec, name: str, original: NDArray[np.uint8], *, st_lpips: Metric | None
) -> PhotographResult:
    """Encode and decode one photograph, then with each classical format at the nearest file size."""
    height, width = original.shape[:2]

    def measure(
        codec_name: str,
        data: bytes,
        decode: Callable[[bytes], NDArray[np.uint8]],
        encode_ms: float,
        quality: int | None = None,
        is_floor: bool = False,
    ) -> tuple[Measurement, NDArray[np.uint8]]:
        decoded, decode_ms = _timed(decode, data)
        measurement = Measurement(
            photograph=name,
            codec=codec_name,
            width=width,
            height=height,
            num_bytes=len(data),
            psnr=psnr(original, decoded),
            ms_ssim=ms_ssim_of_images(original, decoded),
            st_lpips=None if st_lpips is None else st_lpips(original, decoded),
            encode_ms=encode_ms,
            decode_ms=decode_ms,
            quality=quality,
            is_floor=is_floor,
        )
        return measurement, decoded

    data, encode_ms = _timed(codec.encode, original)
    results = [measure(CODEC_NAME, data, codec.decode, encode_ms)]
    for format in get_args(ClassicalFormat):
        file = encode_to_size(original, format, target_bytes=len(data))
        again, encode_ms = _timed(partial(encode_classical, quality=file.quality), original, format)
        results.append(
            measure(
                CLASSICAL_TITLES[format],
                again,
                decode_classical,
                encode_ms,
                quality=file.quality,
                is_floor=file.is_floor,
            )
        )
    measurements, reconstructions = zip(*results, strict=True)
    return PhotographResult(
        original=original, measurements=measurements, reconstructions=reconstructions
    )


def _timed(function: Callable[P, T], *arguments: P.args, **options: P.kwargs) -> tuple[T, float]:
    """The result of a call, and its duration in milliseconds."""
    start = time.perf_counter()
    result = function(*arguments, **options)
    return result, (time.perf_counter() - start) * 1000.0


def codec_means(results: Sequence[PhotographResult]) -> list[CodecMean]:
    """Means over the photographs, in the order of the codecs.

    Raises:
        ValueError: If there are no results.
    """
    if not results:
        raise ValueError("results must hold at least one photograph, got none")
    means = []
    for rows in zip(*(result.measurements for result in results), strict=True):
        distances = [row.st_lpips for row in rows if row.st_lpips is not None]
        means.append(
            CodecMean(
                codec=rows[0].codec,
                st_lpips=fmean(distances) if distances else None,
                **{name: fmean(getattr(row, name) for row in rows) for name in _AVERAGED},
            )
        )
    return means


def contact_sheet(results: Sequence[PhotographResult]) -> Image.Image:
    """One row a photograph: the original, the codec, JPEG, WebP, AVIF, with size and distance.

    Each tile is the middle of the photograph at its own resolution.

    Raises:
        ValueError: If there are no results.
    """
    if not results:
        raise ValueError("results must hold at least one photograph, got none")
    columns = 1 + len(results[0].measurements)
    row_height = _TILE_HEIGHT + _LABEL_HEIGHT
    sheet = Image.new(
        "RGB",
        (columns * (_TILE_WIDTH + _GAP) + _GAP, len(results) * (row_height + _GAP) + _GAP),
        _BACKGROUND,
    )
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(_FONT_SIZE)
    for row, result in enumerate(results):
        height, width = result.original.shape[:2]
        name = result.measurements[0].photograph
        tiles = [(result.original, f"{name}\noriginal, {width}x{height}")]
        for measurement, image in zip(result.measurements, result.reconstructions, strict=True):
            tiles.append((image, _label(measurement)))
        top = _GAP + row * (row_height + _GAP)
        for column, (image, label) in enumerate(tiles):
            left = _GAP + column * (_TILE_WIDTH + _GAP)
            draw.multiline_text((left, top), label, fill=_INK, font=font, spacing=3)
            sheet.paste(Image.fromarray(_middle(image)), (left, top + _LABEL_HEIGHT))
    return sheet


def _label(measurement: Measurement) -> str:
    size = f"{measurement.num_bytes} bytes, {measurement.bits_per_pixel:.3f} bpp"
    if measurement.is_floor:
        size += " (its smallest)"
    quality = f"PSNR {measurement.psnr:.2f} dB"
    if measurement.st_lpips is not None:
        quality = f"ST-LPIPS {measurement.st_lpips:.3f}, {quality}"
    return f"{measurement.codec}: {size}\n{quality}"


def _middle(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The part of ``[H, W, 3]`` that a tile shows; smaller images are shown whole."""
    height, width = image.shape[:2]
    top, left = max(0, (height - _TILE_HEIGHT) // 2), max(0, (width - _TILE_WIDTH) // 2)
    return np.ascontiguousarray(image[top : top + _TILE_HEIGHT, left : left + _TILE_WIDTH])


def to_json(results: Sequence[PhotographResult]) -> str:
    """Every figure, the means, and the versions they were measured with, as one JSON object."""
    content = {
        "versions": {
            "genaccel": genaccel.__version__,
            "python": platform.python_version(),
            "torch": torch.__version__,
            "pillow": PIL.__version__,
        },
        "cpu_threads": torch.get_num_threads(),
        "measurements": [
            asdict(row) | {"bits_per_pixel": row.bits_per_pixel}
            for result in results
            for row in result.measurements
        ],
        "means": [asdict(mean) for mean in codec_means(results)],
    }
    return json.dumps(content, indent=1) + "\n"
