# SPDX-License-Identifier: Apache-2.0
"""Encodes and decodes single files, as the command line does for each of its arguments."""

from __future__ import annotations

import io
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from genaccel.codec.coding.missing_slices import DEFAULT_SEED
from genaccel.codec.encoder.encode_options import EncodeOptions
from genaccel.codec.format.bitstream import BitstreamInfo, describe
from genaccel.codec.format.bounded_files import MAX_FILE_BYTES, read_bounded
from genaccel.codec.format.limits import MAX_SIDE, timed
from genaccel.files.atomic import refuse_existing, write_atomically
from genaccel.files.images import WRITE_FORMATS, ReadPolicy, encode_image, read_image

if TYPE_CHECKING:
    from genaccel.codec.batch.codec_pool import CodecPool
    from genaccel.codec.encoder.latent_refinement import StepReport

# Uncompressed 16-bit RGB at the pixel limit takes 1.07e9 bytes.
_MAX_IMAGE_BYTES = 2**30 + 2**27
_REMEDIES = {
    "transparency": "give a background colour to put it on (--background white)",
    "depth": "--reduce-depth keeps the upper 8 bits",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class FileReport:
    """Report on one coded file: sizes in bytes and pixels, model and time.

    Attributes:
        bits_per_pixel: Bits of the whole ``.gac`` file over the image's pixels.
        model: Name or folder of the model.
        coding_seconds: Seconds of encoding or decoding, the range coder included, without loading the model, reading
            and writing.
        notes: Changes to the image on the way, a sentence each.
    """

    input: str
    output: str
    width: int
    height: int
    file_bytes: int
    payload_bytes: int
    bits_per_pixel: float
    model: str
    model_digest: str
    coding_seconds: float
    notes: tuple[str, ...]


def _write(target: Path | BinaryIO, data: bytes, overwrite: bool) -> None:
    if isinstance(target, Path):
        write_atomically(target, data, overwrite=overwrite)
    else:
        target.write(data)
        target.flush()


def _name(end: Path | BinaryIO) -> str:
    return str(end) if isinstance(end, Path) else "-"


def _report(
    source: Path | BinaryIO,
    target: Path | BinaryIO,
    info: BitstreamInfo,
    model: str,
    seconds: float,
    notes: tuple[str, ...],
) -> FileReport:
    return FileReport(
        input=_name(source),
        output=_name(target),
        width=info.width,
        height=info.height,
        file_bytes=info.file_bytes,
        payload_bytes=info.payload_bytes,
        bits_per_pixel=info.bits_per_pixel,
        model=model,
        model_digest=info.model_digest,
        coding_seconds=seconds,
        notes=notes,
    )


@timed
def encode_file(
    codecs: CodecPool,
    source: Path | BinaryIO,
    target: Path | BinaryIO,
    *,
    overwrite: bool = False,
    background: tuple[int, int, int] | None = None,
    reduce_depth: bool = False,
    options: EncodeOptions = EncodeOptions(),  # noqa: B008 - frozen
    on_step: StepReport | None = None,
) -> FileReport:
    """Compress an image file.

    Args:
        codecs: Where the model comes from.
        source: Image file, or a binary stream of one.
        target: ``.gac`` file to write, or a binary stream.
        overwrite: Replace a file that is there already.
        background: Red, green, blue to put transparent images on; without it they are refused.
        reduce_depth: Take images of more than 8 bits per sample, at 8 bits; else they are refused.
        options: Rate control.
        on_step: As for :meth:`ImageCodec.encode`.

    Raises:
        BitstreamError: If the image is damaged or of an unknown format.
        UnsupportedImageError: If it is transparent or deep and that was not allowed for.
        UnknownModelError: If the model is not at hand.
        LimitExceededError: If the image is larger than the limits allow, or takes longer (TimeLimitError).
        TargetSizeError: If it does not fit the size that the options give.
        OSError: If a file cannot be read or written, or exists already.
    """
    if isinstance(target, Path) and not overwrite:
        refuse_existing(target)  # before the work, not after
    seekable = (
        source if isinstance(source, Path) else io.BytesIO(read_bounded(source, _MAX_IMAGE_BYTES))
    )
    policy = ReadPolicy(
        max_pixels=codecs.limits.max_pixels,
        max_side=MAX_SIDE,
        transparency="refuse" if background is None else background,
        depth="reduce" if reduce_depth else "refuse",
        remedies=_REMEDIES,
    )
    image = read_image(seekable, policy)
    start = time.perf_counter()
    data, codec = codecs.encode(image.pixels, options, on_step=on_step)
    seconds = time.perf_counter() - start
    _write(target, data, overwrite)
    return _report(source, target, codec.info(data), codec.model_name, seconds, image.notes)


@timed
def decode_file(
    codecs: CodecPool,
    source: Path | BinaryIO,
    target: Path | BinaryIO,
    *,
    file_format: str | None = None,
    overwrite: bool = False,
    prefix: int | None = None,
    truncated: bool = False,
    seed: int | None = DEFAULT_SEED,
) -> FileReport:
    """Restore an image file.

    Args:
        codecs: Where the model comes from.
        source: ``.gac`` file, or a binary stream of one.
        target: Image file to write, or a binary stream.
        file_format: As :func:`genaccel.files.images.encode_image` takes it; by default that of the target's suffix.
        overwrite: Replace a file that is there already.
        prefix: Number of slices to use, as in :meth:`ImageCodec.decode`.
        truncated: Whether the file may have lost its end, as in :meth:`ImageCodec.decode`.
        seed: Seed of made-up indices, as in :meth:`ImageCodec.decode`.

    Raises:
        BitstreamError: If the file is damaged, truncated, of another version, or no ``.gac`` file.
        UnknownModelError: If the model that wrote it is not at hand.
        LimitExceededError: If the image is larger than the limits or the image format allow, or takes longer
            (TimeLimitError).
        ValueError: If there are not so many slices, if the format is not given and cannot be told from the target.
        OSError: If a file cannot be read or written, or exists already.
    """
    if file_format is None:
        suffix = target.suffix.lower() if isinstance(target, Path) else ""
        if suffix not in WRITE_FORMATS:
            raise ValueError(
                f"file_format must be given for {_name(target)!r}: known suffixes are {', '.join(WRITE_FORMATS)}"
            )
        file_format = WRITE_FORMATS[suffix]
    if isinstance(target, Path) and not overwrite:
        refuse_existing(target)
    data = read_bounded(source, MAX_FILE_BYTES)
    codec = codecs.for_file(data, truncated=truncated)
    start = time.perf_counter()
    pixels = codec.decode(data, prefix=prefix, truncated=truncated, seed=seed)
    seconds = time.perf_counter() - start
    _write(target, encode_image(pixels, file_format), overwrite)
    info = describe(data, codecs.limits.max_pixels, truncated=truncated)
    return _report(source, target, info, codec.model_name, seconds, ())
