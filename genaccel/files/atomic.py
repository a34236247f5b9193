# SPDX-License-Identifier: Apache-2.0
"""Files that appear whole or not at all."""

from __future__ import annotations

import os
import secrets
from pathlib import Path


def refuse_existing(path: Path) -> None:
    """Raise FileExistsError if ``path`` is there already."""
    if path.exists() and path.is_file():
        raise FileExistsError(f"{path} exists already; --force overwrites it")


def write_atomically(path: Path, data: bytes, *, overwrite: bool = False) -> None:
    """Write a file under another name in the same folder, then rename it.

    Args:
        path: Where the file shall be. A link is followed; a device or pipe is written to directly.
        data: Its contents.
        overwrite: Replace a file that is there already.

    Raises:
        FileExistsError: If the file exists and ``overwrite`` is off.
        OSError: If it cannot be written; what was at ``path`` is then as it was.
    """
    if not overwrite:
        refuse_existing(path)
    target = path.resolve()
    if target.exists() and not target.is_file() and not target.is_dir():
        with target.open("wb") as stream:
            stream.write(data)
        return
    partial = target.with_name(
        f"{_partial_prefix(target, os.getpid())}{secrets.token_hex(6)}.partial"
    )
    try:
        with partial.open("xb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())  # or a power cut may leave the new name with no contents
        os.replace(partial, target)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def remove_partial(path: Path, process_id: int) -> None:
    """Remove what a process that was killed left of ``path``; another process's files stay."""
    target = path.resolve()
    prefix = _partial_prefix(target, process_id)
    if target.parent.is_dir():
        for found in target.parent.iterdir():
            if found.name.startswith(prefix) and found.name.endswith(".partial"):
                found.unlink(missing_ok=True)


def _partial_prefix(target: Path, process_id: int) -> str:
    return f".{target.name[:64]}.{process_id}."
