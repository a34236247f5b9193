# SPDX-License-Identifier: Apache-2.0
"""Walking through folders, with a name and a reason for what is left out."""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from genaccel.errors import listing
from genaccel.files.formats import IMAGE_SUFFIXES

_logger = logging.getLogger(__name__)

_HIDDEN = "hidden"
_OTHER_KIND = "another kind of file"


@dataclass(frozen=True, slots=True)
class FolderContents:
    """Files of a folder, and all else in it.

    Attributes:
        files: Ordered by their path relative to the folder.
        left_out: Reason by path of everything else but folders that were walked through.
        unreadable: Those of them that may have held what was looked for: folders that cannot be read, and links that
            lead nowhere under a name that would have been taken.
    """

    files: list[Path]
    left_out: dict[Path, str]
    unreadable: frozenset[Path] = field(default=frozenset())

    def sentences(self, *, named_apart: Collection[Path] = ()) -> Iterator[str]:
        """What was left out: by name what a user would miss, by kind and number what is hidden or another kind of file.

        Args:
            named_apart: What the caller says itself.

        Example:
            >>> list(walk_folder("photos", {".png"}).sentences())  # doctest: +SKIP
            ['left out photos/more: a link to a folder, which is not followed',
             '5 other files left out: 3 .txt, 1 .raw, 1 hidden']
        """
        kinds: Counter[str] = Counter()
        for path, reason in sorted(self.left_out.items()):
            if reason == _HIDDEN:
                kinds[_HIDDEN] += 1
            elif reason == _OTHER_KIND:
                kinds[path.suffix.lower() or "without a suffix"] += 1
            elif path not in named_apart:
                yield f"left out {path}: {reason}"
        if kinds:
            total = sum(kinds.values())
            counts = [f"{count} {kind}" for kind, count in kinds.most_common()]
            noun = "other file" if total == 1 else "other files"
            yield f"{total} {noun} left out: {listing(counts)}"


def walk_folder(
    folder: str | os.PathLike[str],
    suffixes: Collection[str] | None = None,
    *,
    follow_links: bool = False,
) -> FolderContents:
    """Files under a folder, recursively, and what is left out of them.

    Links to files count as files. ``folder`` itself may be a link.

    Args:
        folder: Where to look.
        suffixes: Extensions to take, in lower case, such as ``.png``; None for any kind of file.
        follow_links: Walk through links to folders too, after all else and each folder once, so that none leads in
            a circle and no file is met twice.

    Raises:
        NotADirectoryError: If ``folder`` is not a folder.
        OSError: If it cannot be read; a folder in it that cannot is left out.

    Example:
        >>> walk_folder("photos", {".png"}).left_out  # doctest: +SKIP
        {PosixPath('photos/.thumbnails'): 'hidden', PosixPath('photos/notes.txt'): 'another kind of file'}
    """
    root = Path(folder)
    if not root.is_dir():
        raise NotADirectoryError(f"{root} is not a folder")
    files: list[Path] = []
    left_out: dict[Path, str] = {}
    unreadable: set[Path] = set()
    waiting, links, walked = [root], list[Path](), set[str]()
    while waiting or links:
        if waiting:
            current = waiting.pop()
        else:
            links.sort(reverse=True)
            current = links.pop()
            if os.path.realpath(current) in walked:
                left_out[current] = "a link to a folder that is walked through already"
                continue
        walked.add(os.path.realpath(current))
        try:
            with os.scandir(current) as entries:
                for entry in entries:
                    path = current / entry.name
                    reason, is_missed = _reason_against(entry, suffixes, follow_links)
                    if reason is not None:
                        left_out[path] = reason
                        if is_missed:
                            unreadable.add(path)
                    elif entry.is_dir():
                        (links if entry.is_symlink() else waiting).append(path)
                    else:
                        files.append(path)
        except OSError as error:
            if current == root:
                raise
            left_out[current] = f"cannot be read ({error.strerror})"
            unreadable.add(current)
    files.sort(key=lambda path: path.relative_to(root).as_posix())
    return FolderContents(files=files, left_out=left_out, unreadable=frozenset(unreadable))


def _reason_against(
    entry: os.DirEntry[str], suffixes: Collection[str] | None, follow_links: bool
) -> tuple[str | None, bool]:
    """Why an entry is neither taken nor walked through, if so, and whether it may have held what was looked for."""
    if entry.name.startswith("."):
        return _HIDDEN, False
    is_wanted = suffixes is None or Path(entry.name).suffix.lower() in suffixes
    try:
        is_folder, is_file = entry.is_dir(), entry.is_file()
    except OSError as error:  # as of a link in a circle
        return (f"cannot be read ({error.strerror})", True) if is_wanted else (_OTHER_KIND, False)
    if is_folder:
        is_shunned = entry.is_symlink() and not follow_links
        return "a link to a folder, which is not followed" if is_shunned else None, False
    if not is_wanted:
        return _OTHER_KIND, False
    if is_file:
        return None, False
    if entry.is_symlink() and not os.path.exists(entry.path):
        return "a link to what is not there", True
    return "no regular file", False


def find_files(
    folder: str | os.PathLike[str],
    suffixes: Collection[str] | None = None,
    *,
    follow_links: bool = False,
) -> list[Path]:
    """Files of :func:`walk_folder`, ordered; what is left out without being hidden or of another kind is logged.

    Args:
        folder: Where to look.
        suffixes: Extensions to take, in lower case, such as ``.png``; None for any kind of file.
        follow_links: As for :func:`walk_folder`.

    Raises:
        NotADirectoryError: If ``folder`` is not a folder.
        OSError: If it cannot be read.
    """
    found = walk_folder(folder, suffixes, follow_links=follow_links)
    for path, reason in sorted(found.left_out.items()):
        if reason not in (_HIDDEN, _OTHER_KIND):
            _logger.warning("left out %s: %s", path, reason)
    return found.files


def find_images(folder: str | os.PathLike[str]) -> list[Path]:
    """Image files under a folder, known by their extension, through links to folders too; see :func:`find_files`."""
    return find_files(folder, IMAGE_SUFFIXES, follow_links=True)
