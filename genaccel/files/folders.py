# SPDX-License-Identifier: Apache-2.0
"""Walking through folders, with a name and a reason for what is left out."""

from __future__ import annotations

import logging
import os
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

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
    """

    files: list[Path]
    left_out: dict[Path, str]


def walk_folder(
    folder: str | os.PathLike[str], suffixes: Collection[str] | None = None
) -> FolderContents:
    """Files under a folder, recursively, and what is left out of them.

    Links to files count as files. Links to folders are not followed, so none leads in a circle, and no file is
    met twice by them; only ``folder`` itself may be one.

    Args:
        folder: Where to look.
        suffixes: Extensions to take, in lower case, such as ``.png``; None for any kind of file.

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
    waiting = [root]
    while waiting:
        current = waiting.pop()
        try:
            with os.scandir(current) as entries:
                for entry in entries:
                    path = current / entry.name
                    reason = _reason_against(entry, suffixes)
                    if reason is not None:
                        left_out[path] = reason
                    elif entry.is_dir():
                        waiting.append(path)
                    else:
                        files.append(path)
        except OSError as error:
            if current == root:
                raise
            left_out[current] = f"cannot be read ({error.strerror})"
    files.sort(key=lambda path: path.relative_to(root).as_posix())
    return FolderContents(files=files, left_out=left_out)


def _reason_against(entry: os.DirEntry[str], suffixes: Collection[str] | None) -> str | None:
    """Why an entry is neither taken nor walked through, if so."""
    if entry.name.startswith("."):
        return _HIDDEN
    try:
        is_folder, is_file = entry.is_dir(), entry.is_file()
    except OSError as error:  # as of a link in a circle
        return f"cannot be read ({error.strerror})"
    if is_folder:
        return "a link to a folder, which is not followed" if entry.is_symlink() else None
    if suffixes is not None and Path(entry.name).suffix.lower() not in suffixes:
        return _OTHER_KIND
    if is_file:
        return None
    return "a link to what is not there" if entry.is_symlink() else "no regular file"


def find_files(
    folder: str | os.PathLike[str], suffixes: Collection[str] | None = None
) -> list[Path]:
    """Files of :func:`walk_folder`, ordered; what is left out without being hidden or of another kind is logged.

    Args:
        folder: Where to look.
        suffixes: Extensions to take, in lower case, such as ``.png``; None for any kind of file.

    Raises:
        NotADirectoryError: If ``folder`` is not a folder.
        OSError: If it cannot be read.
    """
    found = walk_folder(folder, suffixes)
    for path, reason in sorted(found.left_out.items()):
        if reason not in (_HIDDEN, _OTHER_KIND):
            _logger.warning("left out %s: %s", path, reason)
    return found.files


def find_images(folder: str | os.PathLike[str]) -> list[Path]:
    """Image files under a folder, known by their extension; see :func:`find_files`."""
    return find_files(folder, IMAGE_SUFFIXES)
