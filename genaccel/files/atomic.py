# SPDX-License-Identifier: Apache-2.0
"""Files and folders that appear whole or not at all: the one writer of the project.

A result is made under a random hidden name beside its place, is put on the disk, and takes its name last. Whatever
ends the writer before leaves what was there; only a killed process leaves its hidden file, for :func:`remove_partial`.
"""

from __future__ import annotations

import ctypes
import errno
import json
import os
import secrets
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

# Bytes of a name that its hidden one repeats: file systems allow 255 in all.
_NAME_BYTES = 96
# What file systems without hard links answer to link(2): FAT, some of FUSE and of networks.
_NO_HARD_LINKS = frozenset({errno.EPERM, errno.ENOSYS, errno.EOPNOTSUPP})
# What those without a way to sync a folder answer to fsync(2).
_NO_FOLDER_SYNC = frozenset({errno.EINVAL, errno.EOPNOTSUPP, errno.ENOSYS, errno.EBADF})
_AT_FDCWD = -100  # <fcntl.h>
_RENAME_EXCHANGE = 2  # <linux/fs.h>


def refuse_existing(path: Path) -> None:
    """Raise FileExistsError if ``path`` is a file, and IsADirectoryError if it is a folder."""
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a folder")
    if path.is_file():
        raise FileExistsError(f"{path} exists already; --force overwrites it")


def refuse_existing_folder(path: Path) -> None:
    """Raise FileExistsError if ``path`` is a file, or a folder that is not empty."""
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise FileExistsError(f"{path} exists already and is not empty")


def check_target(
    path: Path,
    *,
    source: Path | BinaryIO | None = None,
    overwrite: bool = False,
    parents: bool = False,
) -> None:
    """Raise now what writing a file would raise after the work; nothing is made or changed.

    Args:
        path: Where the file shall be.
        source: What it is made of: a file, or an open one.
        overwrite: As for :func:`atomic_path`.
        parents: As for :func:`atomic_path`.

    Raises:
        SameFileError: If the path is the source, by another name or a link.
        FileExistsError: If the file exists and ``overwrite`` is off.
        IsADirectoryError: If a folder is in its place.
        NotADirectoryError: If a file is where one of its folders should be.
        FileNotFoundError: If there is no folder for it.
        PermissionError: If the folder, or the device or pipe at the path, cannot be written to.
        OSError: If it cannot be looked at, as with a name that is too long.
    """
    if source is not None and _is_same(path, source):
        raise shutil.SameFileError(f"{path} is the input itself, or a link to it")
    if path.is_dir() or not overwrite:
        refuse_existing(path)
    if path.exists() and not path.is_file():
        if not os.access(path, os.W_OK):
            raise PermissionError(f"{path} cannot be written to")
        return
    folder = (_resolved(path) if path.is_symlink() else path).parent
    if not folder.exists() and not parents:
        raise _no_folder(path)
    there = check_folder(folder, path)
    with suppress(FileNotFoundError):
        os.lstat(there / path.name)  # the name alone, which the file system may not take


def check_folder(path: Path, within: Path | None = None) -> Path:
    """Raise what making a folder, if it is not there, and writing into it would raise; nothing is made.

    Args:
        path: The folder.
        within: What is to lie in it, for the message.

    Returns:
        The folder itself, or the nearest above it that is there.

    Raises:
        NotADirectoryError: If a file, or a link that leads nowhere, is where a folder should be.
        PermissionError: If the folder cannot be written to.
        OSError: If it cannot be looked at.
    """
    there = path
    while not there.exists() and not there.is_symlink():
        there = there.parent
    wanted = within or path
    reason = "" if there == wanted else f", and {wanted} would lie in it"
    if not there.is_dir():
        raise NotADirectoryError(f"{there} is no folder{reason}")
    if not os.access(there, os.W_OK | os.X_OK):
        raise PermissionError(f"{there} cannot be written to{reason}")
    return there


def _resolved(path: Path) -> Path:
    try:
        return path.resolve()
    except RuntimeError:  # of Python before 3.13
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), str(path)) from None


def _is_same(path: Path, source: Path | BinaryIO) -> bool:
    try:
        found = os.stat(source) if isinstance(source, Path) else os.fstat(source.fileno())
        # Pipes and devices are not written over.
        return stat.S_ISREG(found.st_mode) and os.path.samestat(found, os.stat(path))
    except (OSError, AttributeError):  # nothing there, or a stream in memory
        return False


def _no_folder(path: Path) -> FileNotFoundError:
    return FileNotFoundError(f"there is no folder {path.parent} to write {path.name} into")


@contextmanager
def atomic_path(
    path: Path, *, overwrite: bool = False, parents: bool = False, mode: int = 0o666
) -> Iterator[Path]:
    """A path for a library to write to, which becomes ``path`` when the block ends without an exception.

    A file that is replaced hands on its permissions; a new one gets those that the umask leaves of ``mode``.

    Args:
        path: Where the file shall be. A link is followed; a device or pipe is handed out itself.
        overwrite: Replace a file that is there already; without it none is, also if it appears meanwhile.
        parents: Make the folders that it is to lie in.
        mode: Permissions of a new file at most, such as those of the file that it is made of.

    Yields:
        An empty file in the same folder, whose name ends in ``.partial``.

    Raises:
        FileExistsError: If the file exists and ``overwrite`` is off.
        IsADirectoryError: If a folder is in its place.
        FileNotFoundError: If there is no folder for it.
        OSError: If it cannot be written; what was at ``path`` is then as it was.

    Example:
        >>> with atomic_path(Path("features.npy")) as partial:  # doctest: +SKIP
        ...     np.lib.format.open_memmap(partial, "w+", np.float32, (1000, 64))[:] = features
    """
    if not overwrite or path.is_dir():
        refuse_existing(path)
    target = _resolved(path)
    if parents:
        target.parent.mkdir(parents=True, exist_ok=True)
    partial: Path | None = None
    try:
        if path.exists() and not path.is_file():
            yield path
            return
        kept = target.stat().st_mode & 0o777 if target.exists() else None
        while True:
            partial = _partial_path(target)
            try:
                # Never readable for more people than the file that it replaces.
                flags = os.O_CREAT | os.O_EXCL | os.O_WRONLY
                wanted = (mode | 0o600) & 0o666 if kept is None else 0o600
                descriptor = os.open(partial, flags, wanted)
                break
            except FileExistsError:
                partial = None  # another writer's
        if kept is None:
            kept = os.fstat(descriptor).st_mode & mode & 0o666
        os.close(descriptor)
        yield partial
        _sync(partial)
        if partial.stat().st_mode & 0o777 != kept:
            partial.chmod(kept)
        if overwrite:
            os.replace(partial, target)
        else:
            _rename_new(partial, target)
        _sync_folder(target.parent)
    except OSError as error:
        _name_target(error, path, target, partial)
        raise
    finally:
        if partial is not None:
            with suppress(OSError):  # what went wrong first is to be heard
                partial.unlink()


@contextmanager
def atomic_stream(
    path: Path, *, overwrite: bool = False, parents: bool = False, mode: int = 0o666
) -> Iterator[BinaryIO]:
    """A binary stream that a library writes to; see :func:`atomic_path` for the arguments and errors.

    Example:
        >>> with atomic_stream(Path("checkpoint.pt"), overwrite=True) as stream:  # doctest: +SKIP
        ...     torch.save(state, stream)
    """
    with (
        atomic_path(path, overwrite=overwrite, parents=parents, mode=mode) as partial,
        partial.open("r+b" if partial.is_file() else "wb") as stream,
    ):
        yield stream


def write_atomically(
    path: Path,
    data: bytes | str,
    *,
    overwrite: bool = False,
    parents: bool = False,
    mode: int = 0o666,
) -> None:
    """Write a file at once; see :func:`atomic_path` for the arguments and errors.

    Args:
        path: Where the file shall be.
        data: Its contents; text is written as UTF-8.
        overwrite: Replace a file that is there already.
        parents: Make the folders that it is to lie in.
        mode: Permissions of a new file at most.
    """
    with atomic_stream(path, overwrite=overwrite, parents=parents, mode=mode) as stream:
        stream.write(data.encode() if isinstance(data, str) else data)


def write_json(
    path: Path,
    content: Any,
    *,
    indent: int | None = 2,
    overwrite: bool = False,
    parents: bool = False,
) -> None:
    """Write JSON and a line break; see :func:`atomic_path` for the other arguments and errors.

    Args:
        path: Where the file shall be.
        content: What ``json.dumps`` takes.
        indent: As ``json.dumps`` takes it.
        overwrite: Replace a file that is there already.
        parents: Make the folders that it is to lie in.

    Raises:
        TypeError: If the content is not for JSON; nothing is written then.
    """
    text = json.dumps(content, indent=indent) + "\n"
    write_atomically(path, text, overwrite=overwrite, parents=parents)


@contextmanager
def atomic_folder(path: Path, *, overwrite: bool = False, parents: bool = False) -> Iterator[Path]:
    """A folder to fill, which becomes ``path`` when the block ends without an exception.

    Args:
        path: Where the folder shall be; an empty one gives way. A link is followed.
        overwrite: Replace a folder that is not empty, as a whole: what the new one lacks is gone then.
        parents: Make the folders that it is to lie in.

    Yields:
        An empty folder beside it, whose name ends in ``.partial``.

    Raises:
        FileExistsError: If the folder exists, is not empty, and ``overwrite`` is off; or a file is in its place.
        FileNotFoundError: If there is no folder for it.
        OSError: If it cannot be written; what was at ``path`` is then as it was.

    Example:
        >>> with atomic_folder(Path("model"), overwrite=True) as partial:  # doctest: +SKIP
        ...     model.save_pretrained(partial)
    """
    if not overwrite or path.is_file():
        refuse_existing_folder(path)
    target = _resolved(path)
    if parents:
        target.parent.mkdir(parents=True, exist_ok=True)
    partial = _partial_path(target)
    try:
        partial.mkdir()
        yield partial
        sync_tree(partial)
        if target.exists():
            partial.chmod(target.stat().st_mode & 0o7777)
        try:
            os.rename(partial, target)  # refused if files are in it by now
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
            if not overwrite:
                refuse_existing_folder(path)
            _exchange(partial, target)
        _sync_folder(target.parent)
    except OSError as error:
        _name_target(error, path, target, partial)
        raise
    finally:
        # Half of the new folder, or after the exchange the old one.
        shutil.rmtree(partial, ignore_errors=True)


def sync_tree(folder: Path) -> None:
    """Put a folder and all that is in it on the disk, so that no power cut leaves names without contents."""
    for entry in (*folder.rglob("*"), folder):
        if not entry.is_symlink():
            (_sync_folder if entry.is_dir() else _sync)(entry)


def remove_partial(path: Path, process_id: int) -> None:
    """Remove what a process that was killed left of ``path``; another process's files stay."""
    target = _resolved(path)
    prefix = _partial_prefix(target, process_id)
    if target.parent.is_dir():
        for found in target.parent.iterdir():
            if found.name.startswith(prefix) and found.name.endswith(".partial"):
                if found.is_dir():
                    shutil.rmtree(found, ignore_errors=True)
                else:
                    found.unlink(missing_ok=True)


def _partial_prefix(target: Path, process_id: int) -> str:
    name = os.fsencode(target.name)[:_NAME_BYTES].decode(errors="ignore")
    return f".{name}.{process_id}."


def _partial_path(target: Path) -> Path:
    prefix = _partial_prefix(target, os.getpid())
    return target.with_name(f"{prefix}{secrets.token_hex(6)}.partial")


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)  # or a power cut may leave the new name with no contents
    finally:
        os.close(descriptor)


def _sync_folder(folder: Path) -> None:
    """Put the names of a folder on the disk, where its file system can."""
    try:
        _sync(folder)
    except OSError as error:
        # A folder that may be written to and not be read cannot be opened.
        if error.errno not in _NO_FOLDER_SYNC | {errno.EACCES}:
            raise


def _rename_new(partial: Path, target: Path) -> None:
    """Give a file its name unless that is taken, in one step where the file system has hard links."""
    try:
        os.link(partial, target)
    except FileExistsError:
        raise FileExistsError(f"{target} exists already; --force overwrites it") from None
    except OSError as error:
        if error.errno not in _NO_HARD_LINKS:
            raise
        refuse_existing(target)
        os.replace(partial, target)


def _exchange(partial: Path, target: Path) -> None:
    """Let two folders change places: in one step on Linux, else by way of a third name."""
    if not _renamed_in_exchange(partial, target):
        aside = _partial_path(target)
        os.rename(target, aside)
        try:
            os.rename(partial, target)
        except BaseException:
            os.rename(aside, target)
            raise
        os.rename(aside, partial)


def _renamed_in_exchange(first: Path, second: Path) -> bool:
    """Whether renameat2(2) did it; C libraries before glibc 2.28 and some file systems do not know it."""
    try:
        rename = ctypes.CDLL(None, use_errno=True).renameat2
    except AttributeError:
        return False
    names = os.fsencode(first), os.fsencode(second)
    return rename(_AT_FDCWD, names[0], _AT_FDCWD, names[1], _RENAME_EXCHANGE) == 0


def _name_target(error: OSError, path: Path, target: Path, partial: Path | None) -> None:
    """Let an error speak of the file that was asked for, instead of one that nobody knows."""
    if isinstance(error, FileNotFoundError) and not target.parent.is_dir():
        raise _no_folder(path)
    # An open file gives no name, os.open a string, and Path's methods a path.
    is_hidden = error.filename is not None and str(error.filename).startswith(str(partial))
    if is_hidden or error.errno in (errno.ENOSPC, errno.EDQUOT):
        error.filename = str(path)
        del error.filename2  # None would be told too: "'photo.gac' -> None"
