# SPDX-License-Identifier: Apache-2.0
"""Pictures of judged pairs for the page: original, result, and a map of their difference, all small."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from genaccel.eval._page.difference_map import (
    amplification_for,
    coloured,
    differences,
    peak_of,
)
from genaccel.eval._page.pictures import PictureStore, embedded
from genaccel.eval._page.subjects import Subject
from genaccel.eval._pairs.folder_pairs import ImagePair, match_folders
from genaccel.eval.images import UNUSABLE

# The longer side of a picture on the page, in pixels.
MAX_SIDE = 640
_MAX_LOSSLESS_BYTES = 100_000


@dataclass(frozen=True, kw_only=True, slots=True)
class PairCard:
    """The pictures of one pair, as indices into the page's pictures.

    Attributes:
        name: Of the pair.
        original: What the result is compared with.
        result: What was judged.
        difference: The map of their difference.
        file: Of the original.
        size: Width and height of the files, in pixels.
    """

    name: str
    file: str
    original: int
    result: int
    difference: int
    size: tuple[int, int]


@dataclass(slots=True)
class Gallery:
    """The pictures of all pairs on the page.

    Attributes:
        amplification: By which the differences are multiplied, the same for all of them.
        cards: By subject, the worst first.
        notices: Why pictures are missing, by subject.
        num_left_out: Pairs for whose pictures the page has no room.
    """

    amplification: int = 1
    cards: dict[int, list[PairCard]] = field(default_factory=dict)
    notices: dict[int, list[str]] = field(default_factory=dict)
    num_left_out: int = 0


def gallery(
    subjects: Sequence[Subject],
    pictures: PictureStore,
    *,
    max_images: int,
    trusted: Sequence[Path] = (),
) -> Gallery:
    """Pictures of the worst pairs of each subject.

    A pair is left out, and said to be, when it can't be read, or when the page has no more room; the worst
    of each subject come first.

    Args:
        subjects: From :func:`genaccel.eval._page.subjects.subjects_of`.
        pictures: Where they are kept.
        max_images: Pairs of each subject.
        trusted: Folders that pictures may be read from, beside those of the runs.
    """
    found = Gallery()
    if max_images < 1:
        return found
    chosen: list[tuple[int, int, ImagePair]] = []
    peaks = []
    for index, subject in enumerate(subjects):
        pairs, problem = _pairs_of(subject, trusted)
        if problem:
            found.notices[index] = [problem]
        names = [name for name, _ in subject.images() if name in pairs]
        for rank, name in enumerate(names[:max_images]):
            try:
                # Read once for the scale that all maps share and once more for the page: not all are held.
                peaks.append(peak_of(differences(*_read(pairs[name], subject))))
            except (ValueError, *UNUSABLE) as error:
                found.notices.setdefault(index, []).append(f"No pictures of {name}: {error}")
            else:
                chosen.append((rank, index, pairs[name]))
    found.amplification = amplification_for(peaks)
    chosen.sort(key=lambda one: one[:2])
    for done, (_, index, pair) in enumerate(chosen):
        count = len(pictures.entries)
        card = _draw(pair, subjects[index], found.amplification, pictures)
        if pictures.num_bytes > pictures.max_bytes:
            pictures.drop_after(count)
            found.num_left_out = len(chosen) - done
            break
        found.cards.setdefault(index, []).append(card)
    return found


def _pairs_of(subject: Subject, trusted: Sequence[Path]) -> tuple[Mapping[str, ImagePair], str]:
    """Files of a subject by name, or a sentence on why there are none."""
    if len(subject.sets) != 2:
        return {}, ""
    base = subject.runs[0].path.resolve().parent
    roots = [base, *(folder.resolve() for folder in trusted)]
    places = []
    for given in subject.sets:
        # Relative to where the command ran: likely the run's folder, or where this one runs.
        found = [place for place in (base / given, Path(given)) if place.exists()]
        if not found:
            return {}, f"No pictures: {given} is not there any more."
        if not _is_within(found[0], roots):
            # A run that somebody sent must not be able to put this user's other files on a page.
            return {}, (
                f"No pictures: {given} is outside of the run\N{RIGHT SINGLE QUOTATION MARK}s folder "
                "(--pictures-from allows a folder)."
            )
        places.append(found[0])
    try:
        pairs = match_folders(*places, intersect=True)
    except (ValueError, OSError) as error:
        return {}, f"No pictures: {error}"
    return {
        pair.name: pair
        for pair in pairs
        # A folder may hold links that lead out of it; what is inside of an archive can't.
        if all(
            _is_within(file, roots)
            for file in (pair.original, pair.reconstruction)
            if isinstance(file, Path)
        )
    }, ""


def _is_within(path: Path, roots: Sequence[Path]) -> bool:
    resolved = path.resolve()
    return any(resolved.is_relative_to(root) for root in roots)


def _read(pair: ImagePair, subject: Subject) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    return pair.read(convert=any(run.content["settings"].get("convert") for run in subject.runs))


def _draw(
    pair: ImagePair,
    subject: Subject,
    amplification: int,
    pictures: PictureStore,
) -> PairCard:
    original, result = _read(pair, subject)
    height, width = original.shape[:2]
    map_ = coloured(differences(original, result), amplification)
    return PairCard(
        name=pair.name,
        file=str(pair.original),
        original=pictures.append(_small(Image.fromarray(original))),
        result=pictures.append(_small(Image.fromarray(result))),
        difference=pictures.append(_small(map_, Image.Resampling.BOX)),
        size=(width, height),
    )


def _small(
    image: Image.Image, resampling: Image.Resampling = Image.Resampling.LANCZOS
) -> dict[str, Any]:
    scale = min(1.0, MAX_SIDE / max(image.size))
    if scale == 1.0:
        return embedded(image, max_lossless_bytes=_MAX_LOSSLESS_BYTES)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    entry = embedded(image.resize(size, resampling), max_lossless_bytes=_MAX_LOSSLESS_BYTES)
    smaller = f"made smaller, from {image.width}\N{MULTIPLICATION SIGN}{image.height} pixels"
    entry["note"] = f"{smaller}, and {entry['note']}" if entry["note"] else smaller
    return entry
