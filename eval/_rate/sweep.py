# SPDX-License-Identifier: Apache-2.0
"""Every codec at every setting on every image: bytes, times, metrics and decoded pictures.

What a finished setting gave is kept on disk, so that an interrupted sweep goes on where it stopped.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm

import genaccel
from genaccel.eval._pairs.folder_pairs import by_stem
from genaccel.eval._pairs.pair_metrics import PairedMetric, value_of
from genaccel.eval._rate.operating_points import Coder, OperatingPoint
from genaccel.eval.held_out import held_out_photographs
from genaccel.eval.images import UNUSABLE, load_image
from genaccel.eval.rate import bits_per_pixel
from genaccel.files.atomic import write_atomically
from genaccel.files.folders import find_images
from genaccel.files.image_writer import write_image

HELD_OUT = "held-out"
_PARTIAL = "partial.json"
# A codec may fail on one image with any of these (out of memory is a RuntimeError).
_FAILURES = (ValueError, RuntimeError, *UNUSABLE)


@dataclass(frozen=True, kw_only=True, slots=True)
class Originals:
    """Images to code.

    Attributes:
        read: Reads the uint8 ``[H, W, 3]`` of each name.
        digest: Of names and contents.
    """

    read: Mapping[str, Callable[[], NDArray[np.uint8]]]
    digest: str


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageResult:
    """One image at one operating point.

    Attributes:
        bits_per_pixel: Of the whole file.
        num_bytes: Of the whole file.
        encode_seconds: None where it was not measured.
        decode_seconds: None where it was not measured.
        metrics: Value by key of the metric.
        picture: Path of the decoded picture, relative to the folder of the run, if it was kept.
    """

    bits_per_pixel: float
    num_bytes: int
    encode_seconds: float | None
    decode_seconds: float | None
    metrics: dict[str, float]
    picture: str | None


@dataclass(frozen=True, kw_only=True, slots=True)
class PointResult:
    """One operating point on all images.

    Attributes:
        codec: Title of the codec.
        setting: Its setting.
        images: Results by name.
        failures: Reason by name of the images that could not be coded or judged.
    """

    codec: str
    setting: str
    images: dict[str, ImageResult]
    failures: dict[str, str]

    @property
    def title(self) -> str:
        """For messages: ``JPEG at quality 10``."""
        return f"{self.codec} at {self.setting}"


def load_originals(source: str, *, convert: bool = False) -> Originals:
    """Images of a folder, or the package's held-out photographs.

    Args:
        source: Folder, or ``held-out``.
        convert: As for :func:`genaccel.eval.images.load_image`.

    Raises:
        ValueError: If the folder holds no image, or two share a stem.
        OSError: If it is not there.
    """
    digest = hashlib.sha256(f"convert={convert}".encode())
    read: dict[str, Callable[[], NDArray[np.uint8]]] = {}
    if source == HELD_OUT:
        for name, image in held_out_photographs().items():
            digest.update(f"\0{name}\0{image.shape}\0".encode() + image.tobytes())
            read[name] = partial(np.copy, image)
        return Originals(read=read, digest=digest.hexdigest())
    files = by_stem(source, find_images(source))
    if not files:
        raise ValueError(f"{source} holds no image")
    for name, path in files.items():
        contents = hashlib.sha256(path.read_bytes()).digest()
        digest.update(f"\0{name}\0{path.suffix}\0".encode() + contents)
        read[name] = partial(_read_file, path, convert)
    return Originals(read=read, digest=digest.hexdigest())


def _read_file(path: Path, convert: bool) -> NDArray[np.uint8]:
    return load_image(path, convert=convert).pixels


def sweep(
    points: Sequence[OperatingPoint],
    originals: Originals,
    metrics: Sequence[PairedMetric],
    folder: Path,
    *,
    num_pictures: int = 0,
    strict: bool = False,
) -> list[PointResult]:
    """Run every operating point on every image.

    Args:
        points: From :func:`genaccel.eval._rate.operating_points.parse_codec`.
        originals: From :func:`load_originals`.
        metrics: What decoded images are judged by.
        folder: Of the run. Pictures go below it, and so do the results of finished points, which an
            interrupted call with the same arguments takes up again; :func:`finish` removes them.
        num_pictures: Images, from the first one on, whose originals and decoded versions are kept.
        strict: Raise for the first image that cannot be coded or judged, instead of noting it.

    Raises:
        ValueError: If two points or metrics cannot be told apart, a number is negative, a point fails on
            every image, or on any and ``strict`` is on.
        OSError: If a file cannot be written.
    """
    _require_distinct([slug(point) for point in points], "operating points")
    _require_distinct([paired.metric.key for paired in metrics], "metrics")
    if num_pictures < 0:
        raise ValueError(f"num_pictures must not be negative, got {num_pictures}")
    folder.mkdir(parents=True, exist_ok=True)
    pictured = list(originals.read)[:num_pictures]
    finished = _Finished(folder, _fingerprint(originals, metrics, num_pictures))
    results = []
    total = len(points) * len(originals.read)
    with tqdm(total=total, unit="image", leave=False, disable=None) as progress:
        for point in points:
            progress.set_description(point.title)
            result = finished.get(point)
            if result is None:
                result = _measure(point, originals, metrics, folder, pictured, strict, progress)
                finished.add(point, result)
            else:
                progress.update(len(originals.read))
            results.append(result)
    return results


def finish(folder: Path) -> None:
    """Remove what :func:`sweep` keeps for an interruption, once its results are safe elsewhere."""
    (folder / _PARTIAL).unlink(missing_ok=True)


def slug(point: OperatingPoint | PointResult) -> str:
    """Name of a point that can be part of a file name: ``jpeg-quality-10``."""
    return re.sub(r"[^\w.+-]+", "-", f"{point.codec}-{point.setting}").strip("-.").lower()


def _require_distinct(names: Sequence[str], what: str) -> None:
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"{what} must have distinct names, got {', '.join(twice)} twice")


def _measure(
    point: OperatingPoint,
    originals: Originals,
    metrics: Sequence[PairedMetric],
    folder: Path,
    pictured: Sequence[str],
    strict: bool,
    progress: Any,
) -> PointResult:
    coder = point.load()
    images: dict[str, ImageResult] = {}
    failures: dict[str, str] = {}
    for name, read in originals.read.items():
        kept = folder / "pictures" / name if name in pictured else None
        try:
            images[name] = _measure_image(coder, name, read(), metrics, kept, slug(point), folder)
        except _FAILURES as error:
            if strict:
                raise ValueError(f"{point.title} on {name}: {error}") from error
            failures[name] = str(error)
        progress.update()
    if not images:  # now, and not after hours of the other points
        name, reason = next(iter(failures.items()))
        raise ValueError(f"{point.title} failed on every image; {name}: {reason}")
    return PointResult(codec=point.codec, setting=point.setting, images=images, failures=failures)


def _measure_image(
    coder: Coder,
    name: str,
    original: NDArray[np.uint8],
    metrics: Sequence[PairedMetric],
    kept: Path | None,
    file_name: str,
    folder: Path,
) -> ImageResult:
    coded = coder(name, original)
    if coded.decoded.shape != original.shape or coded.decoded.dtype != np.uint8:
        raise ValueError(
            f"the original has shape {original.shape}, "
            f"it was decoded to {coded.decoded.dtype} {coded.decoded.shape}"
        )
    values = {m.metric.key: value_of(m, original, coded.decoded) for m in metrics}
    height, width = original.shape[:2]
    picture = None
    if kept is not None:
        write_image(kept / "original.png", original, overwrite=True, parents=True)
        write_image(kept / f"{file_name}.png", coded.decoded, overwrite=True)
        picture = (kept / f"{file_name}.png").relative_to(folder).as_posix()
    return ImageResult(
        bits_per_pixel=bits_per_pixel(coded.num_bytes, width, height),
        num_bytes=coded.num_bytes,
        encode_seconds=coded.encode_seconds,
        decode_seconds=coded.decode_seconds,
        metrics=values,
        picture=picture,
    )


def _fingerprint(
    originals: Originals, metrics: Sequence[PairedMetric], num_pictures: int
) -> dict[str, Any]:
    """All that must be the same for results of an earlier call to hold."""
    return {
        "originals": originals.digest,
        "metrics": [[m.metric.to_dict(), repr(dict(m.settings))] for m in metrics],
        "num_pictures": num_pictures,
        "versions": [genaccel.__version__, str(torch.__version__)],
    }


class _Finished:
    """Results of finished points, in a file of the run's folder."""

    def __init__(self, folder: Path, fingerprint: dict[str, Any]) -> None:
        self._folder, self._fingerprint = folder, fingerprint
        self._points: dict[str, Any] = {}
        try:
            content = json.loads((folder / _PARTIAL).read_text(encoding="utf-8"))
        except (FileNotFoundError, ValueError, RecursionError):
            return
        if isinstance(content, dict) and content.get("fingerprint") == fingerprint:
            points = content.get("points")
            self._points = points if isinstance(points, dict) else {}

    def get(self, point: OperatingPoint) -> PointResult | None:
        """The result of a point, if it is known and its pictures are still there."""
        known = self._points.get(_key(point))
        if known is None:
            return None
        try:
            images = {name: ImageResult(**values) for name, values in known["images"].items()}
            pictures = [self._folder / image.picture for image in images.values() if image.picture]
            if not all(picture.is_file() for picture in pictures):
                return None
            return PointResult(**{**known, "images": images})
        except (AttributeError, KeyError, TypeError):
            return None  # damaged: measured again

    def add(self, point: OperatingPoint, result: PointResult) -> None:
        """Keep the result of a point."""
        self._points[_key(point)] = asdict(result)
        content = {"fingerprint": self._fingerprint, "points": self._points}
        # Infinite values stay what they are: this file is read by nobody else.
        data = json.dumps(content).encode()
        write_atomically(self._folder / _PARTIAL, data, overwrite=True)


def _key(point: OperatingPoint) -> str:
    return json.dumps([point.codec, point.setting, point.source])
