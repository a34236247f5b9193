# SPDX-License-Identifier: Apache-2.0
"""Where images are kept: in folders, in .zip archives that are read in their place, or as an array in an .npz."""

from __future__ import annotations

import functools
import os
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from lzma import LZMAError
from pathlib import Path, PurePosixPath
from typing import IO

import numpy as np
from numpy.typing import NDArray

from genaccel.errors import BitstreamError, LimitExceededError
from genaccel.files.folders import walk_folder
from genaccel.files.formats import IMAGE_SUFFIXES

# Key of the images in samples of ADM (arXiv:2105.05233), and of most of what followed it.
SAMPLES_KEY = "arr_0"

# Bounds on what an archive can make us read; a picture of 2**28 pixels and three channels fits.
_MAX_MEMBER_BYTES = 1 << 30
_MAX_MEMBERS = 1 << 24
# Deflate makes at most 1032 bytes of one. Pictures hardly shrink, drawings of one colour by a hundred.
_MAX_EXPANSION = 250
_MAX_PIXELS_OF_ROW = 1 << 28

_UNREADABLE = (
    *(zipfile.BadZipFile, zlib.error, LZMAError, EOFError),
    *(RuntimeError, NotImplementedError),  # encrypted, and packed by a method of another program
)


@dataclass(frozen=True, slots=True)
class ArchiveMember:
    """An image file inside of a .zip, which nothing unpacks to the disk.

    Attributes:
        archive: The .zip.
        index: Place in its directory: names may come twice.
        name: Path inside.
    """

    archive: Path
    index: int
    name: str

    def __str__(self) -> str:
        return f"{self.archive}/{self.name}"

    def read_bytes(self) -> bytes:
        """The file's contents.

        Raises:
            BitstreamError: If it does not unpack.
            LimitExceededError: If it says to be larger than 1 GiB.
            OSError: If the archive cannot be opened.
        """
        status = self.archive.stat()
        archive = _open_archive(self.archive, os.getpid(), status.st_mtime_ns)
        entry = archive.infolist()[self.index]
        if entry.file_size > _MAX_MEMBER_BYTES:
            raise LimitExceededError(
                f"it unpacks to {entry.file_size:,} bytes, over the limit of {_MAX_MEMBER_BYTES:,}"
            )
        try:
            return archive.read(entry)  # never more than file_size
        except _UNREADABLE as error:
            raise BitstreamError(f"it does not unpack: {error or type(error).__name__}") from error


ImageFile = Path | ArchiveMember


@functools.lru_cache(maxsize=4)
def _open_archive(path: Path, process: int, modified: int) -> zipfile.ZipFile:
    """An archive, opened once in each process: forked ones share the place in an open file."""
    try:
        return zipfile.ZipFile(path)
    except (zipfile.BadZipFile, EOFError, ValueError, NotImplementedError) as error:
        raise ValueError(f"{path} is no .zip archive that can be read ({error})") from error


@dataclass(frozen=True, kw_only=True, slots=True)
class FoundImages:
    """Image files of a folder or an archive.

    Attributes:
        place: The folder or archive.
        files: Ordered by their names inside.
        unusable: Reason by name of what may have been images: links to nothing, folders that cannot be read.
        notes: Sentences about all else that was left out.
    """

    place: Path
    files: list[ImageFile]
    unusable: dict[str, str]
    notes: list[str]


def find_image_files(place: str | os.PathLike[str]) -> FoundImages:
    """Image files of a folder, through links to folders too, or of a .zip, known by their extension.

    Raises:
        NotADirectoryError: If it is neither.
        OSError: If it cannot be read.
        ValueError: If the .zip is damaged, or unpacks to more than any archive of images does.
    """
    path = Path(place)
    if is_archive(path):
        return _archived_images(path)
    found = walk_folder(path, IMAGE_SUFFIXES, follow_links=True)
    return FoundImages(
        place=path,
        files=list(found.files),
        unusable={str(left): found.left_out[left] for left in sorted(found.unreadable)},
        notes=[f"{path}: {text}" for text in found.sentences(named_apart=found.unreadable)],
    )


def is_archive(path: Path) -> bool:
    """Whether a path is a file that is called .zip."""
    return path.suffix.lower() == ".zip" and path.is_file()


def name_inside(place: str | os.PathLike[str], file: ImageFile) -> str:
    """Path of a file relative to its folder or archive, without the extension."""
    inner = PurePosixPath(file.name) if isinstance(file, ArchiveMember) else file.relative_to(place)
    return inner.with_suffix("").as_posix()


def _archived_images(path: Path) -> FoundImages:
    entries = _open_archive(path, os.getpid(), path.stat().st_mtime_ns).infolist()
    _refuse_bomb(path, entries)
    files: list[ArchiveMember] = []
    num_others = 0
    for index, entry in enumerate(entries):
        inner = PurePosixPath(entry.filename)
        if entry.is_dir() or any(part.startswith(".") for part in inner.parts):
            continue
        if inner.suffix.lower() in IMAGE_SUFFIXES:
            files.append(ArchiveMember(path, index, entry.filename))
        else:
            num_others += 1
    files.sort(key=lambda member: (member.name, member.index))
    others = "other file" if num_others == 1 else "other files"
    notes = [f"{path}: {num_others} {others} left out"] if num_others else []
    return FoundImages(place=path, files=list(files), unusable={}, notes=notes)


def _refuse_bomb(path: Path, entries: list[zipfile.ZipInfo]) -> None:
    """Raise ValueError for an archive that says of itself that it unpacks to more than images do."""
    unpacked, size = sum(entry.file_size for entry in entries), path.stat().st_size
    if len(entries) > _MAX_MEMBERS:
        raise ValueError(f"{path} has {len(entries):,} files, over the limit of {_MAX_MEMBERS:,}")
    if unpacked > max(_MAX_MEMBER_BYTES, _MAX_EXPANSION * size):
        raise ValueError(
            f"{path} of {size:,} bytes unpacks to {unpacked:,}, "
            f"over the limit of {_MAX_EXPANSION} times as many"
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class SampleArray:
    """Images in an .npz, uint8 ``[N, H, W, C]`` under the name ``arr_0``; read row by row.

    Attributes:
        path: The file.
        shape: N, H, W, and C, which is 1 or 3.
    """

    path: Path
    shape: tuple[int, int, int, int]

    @classmethod
    def open(cls, path: Path) -> SampleArray:
        """Read the array's header.

        Raises:
            OSError: If the file cannot be opened.
            ValueError: If it has no such array.
        """
        try:
            with zipfile.ZipFile(path) as archive:
                _refuse_bomb(path, archive.infolist())
                member = f"{SAMPLES_KEY}.npy"
                if member not in archive.namelist():
                    raise ValueError(f"it has no array {SAMPLES_KEY}")
                with archive.open(member) as stream:
                    shape, dtype = _read_header(stream)
                size = archive.getinfo(member).file_size
        except (*_UNREADABLE, ValueError) as error:
            raise ValueError(
                f"{path} holds no statistics of features and no images ({error})"
            ) from error
        if dtype != np.uint8 or len(shape) != 4 or shape[3] not in (1, 3) or min(shape) < 1:
            raise ValueError(
                f"{path} holds no statistics of features, and {SAMPLES_KEY} must be uint8 [N, H, W, 3] or "
                f"[N, H, W, 1], got {dtype} {list(shape)}"
            )
        if shape[1] * shape[2] > _MAX_PIXELS_OF_ROW or np.prod(shape, dtype=object) > size:
            raise ValueError(f"{path}: {SAMPLES_KEY} says to be {list(shape)}, which it is not")
        return cls(path=path, shape=shape)

    def __iter__(self) -> Iterator[NDArray[np.uint8]]:
        """The images ``[H, W, 3]``, one at a time.

        Raises:
            ValueError: If the array does not unpack, or ends early.
        """
        count, height, width, channels = self.shape
        size = height * width * channels
        with zipfile.ZipFile(self.path) as archive, archive.open(f"{SAMPLES_KEY}.npy") as stream:
            try:
                _read_header(stream)
                for _ in range(count):
                    data = stream.read(size)
                    if len(data) != size:
                        raise EOFError("it ends early")
                    row = np.frombuffer(bytearray(data), np.uint8)  # writable, as torch wants it
                    image = row.reshape(height, width, channels)
                    yield image.repeat(3, axis=2) if channels == 1 else image
            except _UNREADABLE as error:
                raise ValueError(f"{self.path} does not unpack: {error}") from error


def _read_header(stream: IO[bytes]) -> tuple[tuple[int, ...], np.dtype[np.generic]]:
    """Shape and type of an .npy in C order.

    Raises:
        ValueError: If it is none, or in Fortran's order.
    """
    version = np.lib.format.read_magic(stream)
    read = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }.get(version)
    if read is None:
        raise ValueError(f"its array is of version {version} of the .npy format")
    shape, is_fortran, dtype = read(stream)
    if is_fortran:
        raise ValueError("its array is in Fortran's order")
    return shape, dtype


def npz_arrays(path: Path) -> frozenset[str]:
    """Names of the arrays in an .npz.

    Raises:
        OSError: If the file cannot be opened.
        ValueError: If it is no .npz.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            return frozenset(name.removesuffix(".npy") for name in archive.namelist())
    except (zipfile.BadZipFile, EOFError) as error:
        raise ValueError(
            f"{path} holds no statistics of features and no images: it is no .npz ({error})"
        ) from error
