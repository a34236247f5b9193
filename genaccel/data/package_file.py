# SPDX-License-Identifier: Apache-2.0
"""Files of package managers: downloaded by their own clients, known by their digests."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path


def file_digest(path: Path) -> str | None:
    """SHA-256 of a file, in hexadecimal; None if there is none."""
    if not path.is_file():
        return None
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def fetch_file(
    path: Path, sha256: str, command: Sequence[str], *, package: str, advice: str
) -> Path:
    """The file at ``path``; a command downloads it unless it is there already.

    Args:
        path: Where the command puts the file when it is called in this folder.
        sha256: Digest, in hexadecimal.
        command: Program and arguments.
        package: Name and version, for messages.
        advice: What to do instead, for messages.

    Raises:
        OSError: If the program is missing or fails, or delivers another file than expected.
    """
    if file_digest(path) == sha256:
        return path
    program = Path(command[0]).name
    name = package.partition(" ")[0]
    if shutil.which(command[0]) is None:
        raise OSError(f"{program}, which downloads {name}, is not installed here: {advice}")
    path.parent.mkdir(parents=True, exist_ok=True)
    done = subprocess.run(command, cwd=path.parent, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        reason = " ".join(done.stderr.split()) or f"exit status {done.returncode}"
        raise OSError(f"{program} could not download {package} ({reason}): {advice}")
    if file_digest(path) != sha256:
        raise OSError(f"{path} does not have the SHA-256 digest {sha256}: {advice}")
    return path
