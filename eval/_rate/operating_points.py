# SPDX-License-Identifier: Apache-2.0
"""Codecs of a rate-distortion sweep: from what is typed (``jpeg:5,10,20``) to points that code an image.

A point always gives real bytes: a file that was just made and decoded, or one that lies in a folder.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Protocol, get_args

import numpy as np
from numpy.typing import NDArray

from genaccel.eval._pairs.folder_pairs import by_stem
from genaccel.eval._rate.classical_codecs import ClassicalFormat, decode_classical, encode_classical
from genaccel.eval.images import load_image
from genaccel.files.folders import find_files, find_images

CLASSICAL_TITLES: dict[str, str] = {"jpeg": "JPEG", "webp": "WebP", "avif": "AVIF"}
KINDS = (*get_args(ClassicalFormat), "genaccel", "compressai", "folder")


class Codec(Protocol):
    """:class:`genaccel.codec.ImageCodec`, or anything with its two methods on uint8 ``[H, W, 3]``."""

    def encode(self, image: NDArray[np.uint8]) -> bytes: ...

    def decode(self, data: bytes) -> NDArray[np.uint8]: ...


@dataclass(frozen=True, kw_only=True, slots=True)
class CodedImage:
    """An image after one codec.

    Attributes:
        num_bytes: Size of the whole file.
        decoded: uint8 ``[H, W, 3]``.
        encode_seconds: None where somebody else encoded it.
        decode_seconds: None where somebody else decoded it.
    """

    num_bytes: int
    decoded: NDArray[np.uint8]
    encode_seconds: float | None = None
    decode_seconds: float | None = None


# From the name of an image and its pixels; raises ValueError or OSError for one that it cannot code.
Coder = Callable[[str, NDArray[np.uint8]], CodedImage]


@dataclass(frozen=True, kw_only=True, slots=True)
class OperatingPoint:
    """One codec at one setting.

    Attributes:
        codec: Title; points of one title make a curve.
        setting: What tells it from the others of the curve.
        load: Makes the coder: models are loaded one at a time.
        source: Whatever else the results depend on, to tell whether earlier ones still hold.
        packages: Distributions whose versions matter.
    """

    codec: str
    setting: str
    load: Callable[[], Coder]
    source: str = ""
    packages: Sequence[str] = field(default_factory=tuple)

    @property
    def title(self) -> str:
        """For messages: ``JPEG at quality 10``."""
        return f"{self.codec} at {self.setting}"


def code_with(codec: Codec) -> Coder:
    """Encode and decode with a codec, and take the time of each."""

    def code(_name: str, image: NDArray[np.uint8]) -> CodedImage:
        start = time.perf_counter()
        data = codec.encode(image)
        middle = time.perf_counter()
        decoded = codec.decode(data)
        return CodedImage(
            num_bytes=len(data),
            decoded=decoded,
            encode_seconds=middle - start,
            decode_seconds=time.perf_counter() - middle,
        )

    return code


@dataclass(frozen=True, kw_only=True, slots=True)
class ClassicalCodec:
    """JPEG, WebP or AVIF at one quality setting.

    Attributes:
        format: The format.
        quality: As for :func:`genaccel.eval._rate.classical_codecs.encode_classical`.
    """

    format: ClassicalFormat
    quality: int

    def encode(self, image: NDArray[np.uint8]) -> bytes:
        """The file of ``[H, W, 3]``."""
        return encode_classical(image, self.format, quality=self.quality)

    def decode(self, data: bytes) -> NDArray[np.uint8]:
        """``[H, W, 3]`` of a file."""
        return decode_classical(data)


class FolderCoder:
    """A codec of somebody else, by the files it left and the images decoded from them.

    Args:
        decoded: Folder of decoded images, named as the originals.
        files: Folder of compressed files of any extension, named as the originals.
        convert: As for :func:`genaccel.eval.images.load_image`.

    Raises:
        NotADirectoryError: If one is not a folder.
        ValueError: If two files of a folder share a stem.
    """

    def __init__(self, decoded: Path, files: Path, *, convert: bool = False) -> None:
        self._folders = decoded, files
        self._decoded = by_stem(decoded, find_images(decoded))
        self._files = by_stem(files, find_files(files))
        self._convert = convert

    def __call__(self, name: str, _image: NDArray[np.uint8]) -> CodedImage:
        """Raises ValueError if either folder lacks the image."""
        for folder, found in zip(self._folders, (self._decoded, self._files), strict=True):
            if name not in found:
                raise ValueError(f"{folder} has no file of that name")
        return CodedImage(
            num_bytes=self._files[name].stat().st_size,
            decoded=load_image(self._decoded[name], convert=self._convert).pixels,
        )


def parse_codec(text: str, *, device: str = "cpu", convert: bool = False) -> list[OperatingPoint]:
    """Points of one ``--codec``.

    Args:
        text: ``jpeg:5,10``, ``webp:5,10``, ``avif:5,10``, ``genaccel``, ``genaccel:MODEL,MODEL``,
            ``compressai:ARCH:QUALITY,QUALITY``, the same with ``:CHECKPOINT`` (in which ``{quality}`` stands
            for the quality), or ``folder:TITLE:SETTING=DECODED:FILES``.
        device: Where networks run.
        convert: For images of ``folder``, as for :func:`genaccel.eval.images.load_image`.

    Raises:
        ValueError: If it is none of these, or names a quality or a file that there is not.
        OSError: If a folder is missing.
    """
    kind, _, rest = text.partition(":")
    if kind in get_args(ClassicalFormat):
        return [_classical_point(kind, quality) for quality in _integers(rest, text)]
    if kind == "genaccel":
        from genaccel.codec.image_codec import DEFAULT_MODEL

        return [_genaccel_point(model, device) for model in (rest or DEFAULT_MODEL).split(",")]
    if kind == "compressai":
        return _compressai_points(rest, text, device)
    if kind == "folder":
        return [_folder_point(rest, text, convert)]
    raise ValueError(f"codec must begin with one of {', '.join(KINDS)}, got {text!r}")


def _integers(values: str, text: str) -> list[int]:
    try:
        return [int(value) for value in values.split(",")]
    except ValueError:
        raise ValueError(
            f"codec needs whole numbers with commas between, as in jpeg:10,20,40, got {text!r}"
        ) from None


def _classical_point(format: Any, quality: int) -> OperatingPoint:
    codec = ClassicalCodec(format=format, quality=quality)
    # Refuses a quality out of range, or a Pillow without the format, before the sweep and not within it.
    codec.encode(np.zeros((8, 8, 3), np.uint8))
    return OperatingPoint(
        codec=CLASSICAL_TITLES[format],
        setting=f"quality {quality}",
        load=partial(code_with, codec),
        packages=("pillow",),
    )


def _genaccel_point(model: str, device: str) -> OperatingPoint:
    from genaccel import zoo
    from genaccel.codec.image_codec import ImageCodec
    from genaccel.errors import UnknownModelError

    try:
        found = zoo.resolve(model, "codec")
    except UnknownModelError as error:
        raise ValueError(str(error)) from error

    def load() -> Coder:
        return code_with(ImageCodec.from_pretrained(found.name, device))

    return OperatingPoint(
        codec="genaccel", setting=f"model {found.name}", load=load, source=_stamp(found.folder)
    )


def _compressai_points(rest: str, text: str, device: str) -> list[OperatingPoint]:
    from genaccel.eval._rate.compressai_models import (
        CompressAiCodec,
        load_compressai,
        require_architecture,
    )

    architecture, _, rest = rest.partition(":")
    numbers, _, pattern = rest.partition(":")
    qualities = _integers(numbers, text)
    if pattern and len(qualities) > 1 and "{quality}" not in pattern:
        raise ValueError(
            f"one checkpoint is of one quality: put {{quality}} into its name, got {text!r}"
        )

    require_architecture(architecture)

    def load(quality: int, checkpoint: Path | None) -> Coder:
        model = load_compressai(architecture, quality, checkpoint=checkpoint)
        return code_with(CompressAiCodec(model.to(device)))

    points = []
    for quality in qualities:
        checkpoint = Path(pattern.replace("{quality}", str(quality))) if pattern else None
        if checkpoint and not checkpoint.is_file():
            raise FileNotFoundError(f"checkpoint {checkpoint} is not a file")
        points.append(
            OperatingPoint(
                codec=architecture,
                setting=f"quality {quality}",
                load=partial(load, quality, checkpoint),
                source=_stamp(checkpoint) if checkpoint else "pretrained",
                packages=("compressai",),
            )
        )
    return points


def _folder_point(rest: str, text: str, convert: bool) -> OperatingPoint:
    head, equals, folders = rest.partition("=")
    title, _, setting = head.partition(":")
    decoded, _, files = folders.partition(":")
    if not (title and setting and equals and decoded and files):
        raise ValueError(
            f"codec needs folder:TITLE:SETTING=DECODED_FOLDER:FILES_FOLDER, got {text!r}"
        )
    coder = FolderCoder(Path(decoded), Path(files), convert=convert)
    return OperatingPoint(
        codec=title,
        setting=setting,
        load=lambda: coder,
        source=f"{_stamp(Path(decoded))} {_stamp(Path(files))}",
    )


def _stamp(path: Path) -> str:
    """Name, size and time of a file, or of every file in a folder, in brief."""
    import hashlib

    digest = hashlib.sha256()
    files = find_files(path) if path.is_dir() else [path]
    for file in files:
        status = file.stat()
        digest.update(f"{file}\0{status.st_size}\0{status.st_mtime_ns}\0".encode())
    return f"{path.resolve()} {digest.hexdigest()[:16]}"
