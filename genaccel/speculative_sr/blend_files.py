# SPDX-License-Identifier: Apache-2.0
"""Image files blended, as the command line does for each of its arguments."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from genaccel.errors import UnsupportedImageError, listing
from genaccel.files.atomic import check_target, write_atomically
from genaccel.files.folders import walk_folder
from genaccel.files.formats import IMAGE_SUFFIXES
from genaccel.files.image_writer import OPAQUE_FORMATS, WRITE_FORMATS, encode_image, on_background
from genaccel.files.images import Colour, ReadPolicy, read_image
from genaccel.speculative_sr.blending import Layers, blend, check_sizes, split_layers

LAYERS_SUFFIX = ".layers"
_REMEDIES = {"depth": "--reduce-depth keeps the upper 8 bits"}
_WHITE = (255, 255, 255)


@dataclass(frozen=True, kw_only=True, slots=True)
class BlendReport:
    """Report on one blended picture.

    Attributes:
        input: The faithful picture, or the layers.
        sharp: The sharp one, or None.
        output: The result.
        layers: File of layers that was written, or None.
        width: In pixels.
        height: In pixels.
        strength: The ``alpha`` of the blend.
        seconds: Of the blend itself, without reading and writing.
        notes: Changes to the pictures on the way, a sentence each.
    """

    input: str
    sharp: str | None
    output: str
    layers: str | None
    width: int
    height: int
    strength: float
    seconds: float
    notes: tuple[str, ...]

    @property
    def summary(self) -> str:
        """Size and time in words."""
        return f"{self.width}x{self.height}, {1000 * self.seconds:.0f} ms"


@dataclass(frozen=True, kw_only=True, slots=True)
class Pairs:
    """Pictures of two folders that belong together.

    Attributes:
        sharp_of: Sharp picture by faithful one.
        unpaired: Reason by path of a faithful picture that has no sharp one.
        left_out: Sentences on sharp pictures that have no faithful one.
    """

    sharp_of: dict[str, str]
    unpaired: dict[str, str] = field(default_factory=dict)
    left_out: tuple[str, ...] = ()


def pair_folders(faithful: list[str], faithful_folder: Path, sharp_folder: Path) -> Pairs:
    """Find the sharp picture of each faithful one: the same name in the same subfolder, with any suffix.

    Args:
        faithful: Pictures below ``faithful_folder``.
        faithful_folder: Where they are.
        sharp_folder: Where to look.

    Raises:
        NotADirectoryError: If ``sharp_folder`` is none.
        OSError: If it cannot be read.
    """
    candidates: dict[Path, list[Path]] = {}
    for path in walk_folder(sharp_folder, IMAGE_SUFFIXES).files:
        candidates.setdefault(path.relative_to(sharp_folder).with_suffix(""), []).append(path)
    sharp_of: dict[str, str] = {}
    unpaired: dict[str, str] = {}
    for name in faithful:
        relative = Path(name).relative_to(faithful_folder)
        found = candidates.pop(relative.with_suffix(""), [])
        same = [path for path in found if path.suffix == relative.suffix]
        if len(found) == 1 or same:
            sharp_of[name] = str((same or found)[0])
        elif found:
            names = listing([path.name for path in found])
            unpaired[name] = f"several pictures of {sharp_folder} may be its sharp one: {names}"
        else:
            unpaired[name] = f"{sharp_folder} has no picture of this name"
    over = [str(path) for paths in candidates.values() for path in paths]
    left_out = (f"left out, since {faithful_folder} has none of their names: {listing(over)}",)
    return Pairs(sharp_of=sharp_of, unpaired=unpaired, left_out=left_out if over else ())


def blend_file(
    faithful: Path,
    sharp: Path,
    target: Path,
    *,
    alpha: float = 1.0,
    keep_layers: bool = False,
    overwrite: bool = False,
    file_format: str | None = None,
    background: Colour | None = None,
    reduce_depth: bool = False,
    max_pixels: int = ReadPolicy().max_pixels,
    device: str = "cpu",
) -> BlendReport:
    """Blend two image files.

    Both are read upright and in sRGB, and what that changes is noted; docs/images.md tells it at length. The
    transparency of the faithful one stays.

    Args:
        faithful: Image file whose colours and structure stay.
        sharp: Image file of the same size, whose detail is taken.
        target: Image file to write.
        alpha: As for :func:`genaccel.speculative_sr.blend`.
        keep_layers: Write the layers too, beside the target with the suffix ``.layers``.
        overwrite: Replace files that are there already.
        file_format: As :func:`genaccel.files.image_writer.encode_image` takes it; by default that of the target's suffix.
        background: Red, green, blue to put a transparent result on; without it, it stays so, or comes on white in a
            format that has no transparency.
        reduce_depth: Take images of more than 8 bits per sample, at 8 bits; else they are refused.
        max_pixels: Largest width times height.
        device: Where to compute.

    Raises:
        BitstreamError: If an image is damaged or of an unknown format.
        UnsupportedImageError: If it is deep and that was not allowed for, or the sizes differ.
        LimitExceededError: If it is too large, also for the target's format.
        ValueError: If the format is not given and cannot be told from the target, or ``alpha`` is not finite.
        OSError: If a file cannot be read or written, or exists already.
    """
    file_format = _format_of(target, file_format)
    layers_path = target.with_suffix(LAYERS_SUFFIX) if keep_layers else None
    for path in (target, layers_path):
        for source in (faithful, sharp):
            if path is not None:
                check_target(path, source=source, overwrite=overwrite)
    policy = ReadPolicy(
        max_pixels=max_pixels,
        transparency="keep",
        depth="reduce" if reduce_depth else "refuse",
        remedies=_REMEDIES,
    )
    first, second = read_image(faithful, policy), read_image(sharp, policy)
    try:
        check_sizes(first.pixels, second.pixels)
    except ValueError as error:
        raise UnsupportedImageError(f"{error}") from error
    notes = [*first.notes, *(f"sharp picture: {note}" for note in second.notes)]
    if second.alpha is not None:
        notes.append("sharp picture: its transparency was dropped")
    start = time.perf_counter()
    if layers_path is None:
        pixels = blend(first.pixels, second.pixels, alpha, device=device)
    else:
        layers = split_layers(first.pixels, second.pixels, alpha=first.alpha)
        pixels = layers.at(alpha)
    seconds = time.perf_counter() - start
    mode = faithful.stat().st_mode & 0o777
    if layers_path is not None:
        write_atomically(layers_path, layers.to_bytes(), overwrite=overwrite, mode=mode)
    data = _image_file(pixels, first.alpha, file_format, background, notes)
    write_atomically(target, data, overwrite=overwrite, mode=mode)
    return BlendReport(
        input=str(faithful),
        sharp=str(sharp),
        output=str(target),
        layers=None if layers_path is None else str(layers_path),
        width=pixels.shape[1],
        height=pixels.shape[0],
        strength=alpha,
        seconds=seconds,
        notes=tuple(notes),
    )


def blend_layers_file(
    layers: Path,
    target: Path,
    *,
    alpha: float = 1.0,
    overwrite: bool = False,
    file_format: str | None = None,
    background: Colour | None = None,
    max_pixels: int = ReadPolicy().max_pixels,
) -> BlendReport:
    """Blend layers that were kept, at another strength.

    Args:
        layers: File that :func:`blend_file` wrote.
        target: Image file to write.
        alpha: As for that.
        overwrite: As for that.
        file_format: As for that.
        background: As for that.
        max_pixels: As for that.

    Raises:
        BitstreamError: If the layers are damaged, or none.
        LimitExceededError: If the picture is too large.
        ValueError: If the format is not given and cannot be told from the target, or ``alpha`` is not finite.
        OSError: If a file cannot be read or written, or exists already.
    """
    file_format = _format_of(target, file_format)
    check_target(target, source=layers, overwrite=overwrite)
    found = Layers.load(layers, max_pixels=max_pixels)
    start = time.perf_counter()
    pixels = found.at(alpha)
    seconds = time.perf_counter() - start
    notes: list[str] = []
    data = _image_file(pixels, found.alpha, file_format, background, notes)
    write_atomically(target, data, overwrite=overwrite, mode=layers.stat().st_mode & 0o777)
    return BlendReport(
        input=str(layers),
        sharp=None,
        output=str(target),
        layers=None,
        width=pixels.shape[1],
        height=pixels.shape[0],
        strength=alpha,
        seconds=seconds,
        notes=tuple(notes),
    )


def _format_of(target: Path, file_format: str | None) -> str:
    suffix = target.suffix.lower()
    if file_format is None and suffix not in WRITE_FORMATS:
        known = ", ".join(WRITE_FORMATS)
        raise ValueError(
            f"file_format must be given for {os.fspath(target)!r}: known suffixes are {known}"
        )
    return file_format or WRITE_FORMATS[suffix]


def _image_file(
    pixels: NDArray[np.uint8],
    alpha: NDArray[np.uint8] | None,
    file_format: str,
    background: Colour | None,
    notes: list[str],
) -> bytes:
    if alpha is not None and (background or file_format in OPAQUE_FORMATS):
        if background is None:
            notes.append(f"{file_format} has no transparency: the picture was put on white")
        pixels = on_background(pixels, alpha, background or _WHITE)
    elif alpha is not None:
        pixels = np.dstack([pixels, alpha])
    return encode_image(pixels, file_format)
