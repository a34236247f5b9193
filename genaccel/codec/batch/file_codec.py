# SPDX-License-Identifier: Apache-2.0
"""Encodes and decodes single files, as the command line does for each of its arguments."""

from __future__ import annotations

import io
import os
import stat
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from genaccel.codec.carried import DecodedImage
from genaccel.codec.coding.missing_slices import DEFAULT_SEED
from genaccel.codec.encoder.encode_options import EncodeOptions
from genaccel.codec.exif_xmp import groups_in, kept, read_metadata, write_metadata
from genaccel.codec.format.bitstream import BitstreamInfo, describe
from genaccel.codec.format.bounded_files import MAX_FILE_BYTES, read_bounded
from genaccel.codec.format.limits import MAX_SIDE, timed
from genaccel.codec.format.metadata import PhotoMetadata
from genaccel.files.atomic import check_target, write_atomically
from genaccel.files.image_writer import OPAQUE_FORMATS, WRITE_FORMATS, encode_image, on_background
from genaccel.files.images import Colour, ReadPolicy, read_image

if TYPE_CHECKING:
    from genaccel.codec.batch.codec_pool import CodecPool
    from genaccel.codec.encoder.latent_refinement import StepReport

# Uncompressed 16-bit RGB at the pixel limit takes 1.07e9 bytes.
_MAX_IMAGE_BYTES = 2**30 + 2**27
_REMEDIES = {"depth": "--reduce-depth keeps the upper 8 bits"}
_WHITE = (255, 255, 255)


@dataclass(frozen=True, kw_only=True, slots=True)
class FileReport:
    """Report on one coded file: sizes in bytes and pixels, model and time.

    Attributes:
        bits_per_pixel: Bits of the whole ``.gac`` file over the image's pixels.
        model: Name or folder of the model.
        coding_seconds: Seconds of encoding or decoding, the range coder included, without loading the model, reading
            and writing.
        alpha_bytes: Of the ``.gac`` file's alpha plane, which is no part of the payload.
        metadata_bytes: Of its metadata.
        notes: Changes to the image on the way, and what was left out, a sentence each.
    """

    input: str
    output: str
    width: int
    height: int
    file_bytes: int
    payload_bytes: int
    alpha_bytes: int
    metadata_bytes: int
    bits_per_pixel: float
    model: str
    model_digest: str
    coding_seconds: float
    notes: tuple[str, ...]


def _status(source: Path | BinaryIO) -> os.stat_result | None:
    """Permissions and times of a file, before it is read; None for streams and pipes, whose are not the file's."""
    if isinstance(source, Path):
        status = source.stat()
        if stat.S_ISREG(status.st_mode):
            return status
    return None


def _write(
    target: Path | BinaryIO,
    data: bytes,
    overwrite: bool,
    source: os.stat_result | None,
    preserve_times: bool,
) -> None:
    if not isinstance(target, Path):
        target.write(data)
        target.flush()
        return
    # As cp does: a picture for its owner's eyes stays one.
    mode = 0o666 if source is None else source.st_mode & 0o777
    write_atomically(target, data, overwrite=overwrite, mode=mode)
    if preserve_times and source is not None and target.is_file():
        os.utime(target, ns=(source.st_atime_ns, source.st_mtime_ns))


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
        alpha_bytes=info.alpha_bytes,
        metadata_bytes=info.metadata_bytes,
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
    background: Colour | None = None,
    drop_alpha: bool = False,
    reduce_depth: bool = False,
    keep_metadata: bool = False,
    keep_gps: bool = False,
    preserve_times: bool = False,
    options: EncodeOptions = EncodeOptions(),  # noqa: B008 - frozen
    on_step: StepReport | None = None,
) -> FileReport:
    """Compress an image file.

    Args:
        codecs: Where the model comes from.
        source: Image file, or a binary stream of one.
        target: ``.gac`` file to write, or a binary stream.
        overwrite: Replace a file that is there already.
        background: Red, green, blue to put transparent images on; without it their alpha plane is kept.
        drop_alpha: Take the colours of transparent images alone.
        reduce_depth: Take images of more than 8 bits per sample, at 8 bits; else they are refused.
        keep_metadata: Carry date, author, copyright, description and camera; else the report says what is left out.
        keep_gps: Carry the GPS position.
        preserve_times: Give the file the times of the image.
        options: Rate control, for the file with all that it carries.
        on_step: As for :meth:`ImageCodec.encode`.

    Raises:
        BitstreamError: If the image is damaged or of an unknown format.
        UnsupportedImageError: If it is deep and that was not allowed for.
        UnknownModelError: If the model is not at hand.
        LimitExceededError: If the image is larger than the limits allow, or takes longer (TimeLimitError).
        TargetSizeError: If it does not fit the size that the options give.
        OSError: If a file cannot be read or written, or exists already.
    """
    if isinstance(target, Path):
        check_target(target, source=source, overwrite=overwrite)  # before the work, not after
    # Pipes, also those that have a name, can be read once and forwards.
    seekable = (
        source
        if isinstance(source, Path) and source.is_file()
        else io.BytesIO(read_bounded(source, _MAX_IMAGE_BYTES))
    )
    policy = ReadPolicy(
        max_pixels=codecs.limits.max_pixels,
        max_side=MAX_SIDE,
        transparency=background or ("drop" if drop_alpha else "keep"),
        depth="reduce" if reduce_depth else "refuse",
        remedies=_REMEDIES,
    )
    status = _status(source)
    image = read_image(seekable, policy)
    notes = list(image.notes)
    metadata = read_metadata(image.metadata, notes)
    carried = kept(metadata, keep_metadata=keep_metadata, keep_gps=keep_gps)
    notes += _left_out(metadata, keep_metadata=keep_metadata, keep_gps=keep_gps)
    start = time.perf_counter()
    data, codec = codecs.encode(
        image.pixels, options, alpha=image.alpha, metadata=carried, on_step=on_step
    )
    seconds = time.perf_counter() - start
    _write(target, data, overwrite, status, preserve_times)
    return _report(source, target, codec.info(data), codec.model_name, seconds, tuple(notes))


def _left_out(metadata: PhotoMetadata, *, keep_metadata: bool, keep_gps: bool) -> list[str]:
    groups = groups_in(metadata)
    position = [group for group in groups if group == "GPS position" and not keep_gps]
    others = [group for group in groups if group != "GPS position" and not keep_metadata]
    switches = ["--keep-metadata"] * bool(others) + ["--keep-gps"] * bool(position)
    if not switches:
        return []
    verb = "keep" if len(switches) > 1 else "keeps"
    which = "it" if len(others + position) == 1 else "them"
    return [f"left out: {', '.join(others + position)}; {' and '.join(switches)} {verb} {which}"]


@timed
def decode_file(
    codecs: CodecPool,
    source: Path | BinaryIO,
    target: Path | BinaryIO,
    *,
    file_format: str | None = None,
    overwrite: bool = False,
    background: Colour | None = None,
    preserve_times: bool = False,
    prefix: int | None = None,
    truncated: bool = False,
    seed: int | None = DEFAULT_SEED,
) -> FileReport:
    """Restore an image file.

    Args:
        codecs: Where the model comes from.
        source: ``.gac`` file, or a binary stream of one.
        target: Image file to write, or a binary stream.
        file_format: As :func:`genaccel.files.image_writer.encode_image` takes it; by default that of the target's suffix.
        overwrite: Replace a file that is there already.
        background: Red, green, blue to put transparent images on; without it they stay so, or come on white in a
            format that has no transparency.
        preserve_times: Give the image the times of the file.
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
    if isinstance(target, Path):
        check_target(target, source=source, overwrite=overwrite)
    status = _status(source)
    data = read_bounded(source, MAX_FILE_BYTES)
    codec = codecs.for_file(data, truncated=truncated)
    start = time.perf_counter()
    image = codec.decode_file(data, prefix=prefix, truncated=truncated, seed=seed)
    seconds = time.perf_counter() - start
    made, notes = _image_file(image, file_format, background)
    _write(target, made, overwrite, status, preserve_times)
    info = describe(data, codecs.limits.max_pixels, truncated=truncated)
    return _report(source, target, info, codec.model_name, seconds, notes)


def _image_file(
    image: DecodedImage, file_format: str, background: Colour | None
) -> tuple[bytes, tuple[str, ...]]:
    """An image file, and what it does not hold."""
    notes = []
    pixels = image.rgba
    if image.alpha is not None and (background or file_format in OPAQUE_FORMATS):
        pixels = on_background(image.pixels, image.alpha, background or _WHITE)
        if not background:
            notes.append(f"transparent image was put on white: {file_format} holds no transparency")
    metadata = None
    if image.metadata is not None and file_format == "ppm":
        notes.append(f"left out: {', '.join(groups_in(image.metadata))}; ppm holds no metadata")
    elif image.metadata is not None:
        metadata = write_metadata(image.metadata)
    return encode_image(pixels, file_format, metadata=metadata), tuple(notes)
