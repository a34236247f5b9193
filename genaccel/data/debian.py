# SPDX-License-Identifier: Apache-2.0
"""Debian packages as data sources: download by name, read the files and their licences.

Reading needs the standard library alone: a ``.deb`` is an ``ar`` archive with a tar of the files in it.
"""

from __future__ import annotations

import io
import re
import tarfile
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from genaccel.data.package_file import fetch_file

_AR_MAGIC = b"!<arch>\n"
_AR_HEADER_SIZE = 60


@dataclass(frozen=True, kw_only=True, slots=True)
class DebianPackage:
    """One build of a Debian package.

    Attributes:
        name: Name as ``apt-get`` knows it.
        version: Full version.
        sha256: Digest of the ``.deb`` file, in hexadecimal.
    """

    name: str
    version: str
    sha256: str

    @property
    def file_name(self) -> str:
        """Name under which ``apt-get download`` stores an architecture-independent package."""
        return f"{self.name}_{self.version.replace(':', '%3a')}_all.deb"


@dataclass(frozen=True, kw_only=True, slots=True)
class Licence:
    """A paragraph of a machine-readable ``debian/copyright`` file.

    Attributes:
        files: Patterns of the paths it applies to; ``*`` and ``?`` match slashes too.
        name: Short name of the licence, such as ``CC-BY-4.0``.
        copyright: Holders, in one line.
    """

    files: tuple[str, ...]
    name: str
    copyright: str


def fetch_package(package: DebianPackage, folder: Path) -> Path:
    """Path of the package's file in ``folder``; downloads it with ``apt-get`` unless it is there already.

    Raises:
        OSError: If ``apt-get`` is missing or fails, or delivers another file than expected.
    """
    return fetch_file(
        folder / package.file_name,
        package.sha256,
        ["apt-get", "download", f"{package.name}={package.version}"],
        package=f"{package.name} {package.version}",
        advice=f"put {package.file_name} into a cache folder, or use any folder of images instead",
    )


def iterate_files(path: Path) -> Iterator[tuple[str, BinaryIO]]:
    """Regular files of a ``.deb`` as pairs of path (without a leading ``./``) and stream, in stored order.

    A stream must be read before the next pair is asked for.

    Raises:
        ValueError: If the file is not a Debian package.
        tarfile.TarError: If its archive of files is damaged.
    """
    with path.open("rb") as file:
        _seek_data_member(file, path)
        # A stream ("|") reads forward only and stops at the tar's own end mark, so the ar padding
        # behind the member is never seen.
        with tarfile.open(fileobj=file, mode="r|*") as archive:
            for member in archive:
                stream = archive.extractfile(member) if member.isfile() else None
                if stream is not None:
                    yield member.name.removeprefix("./"), io.BytesIO(stream.read())


def _seek_data_member(file: BinaryIO, path: Path) -> None:
    """Place ``file`` at the first byte of the member ``data.tar*``."""
    if file.read(len(_AR_MAGIC)) != _AR_MAGIC:
        raise ValueError(f"{path} is not a Debian package: it does not start with {_AR_MAGIC!r}")
    while header := file.read(_AR_HEADER_SIZE):
        if len(header) != _AR_HEADER_SIZE or header[58:] != b"`\n":
            raise ValueError(f"{path} is damaged: bad member header before byte {file.tell()}")
        if header.startswith(b"data.tar"):
            return
        size = int(header[48:58])
        file.seek(size + size % 2, io.SEEK_CUR)
    raise ValueError(f"{path} is not a Debian package: it has no member data.tar")


def parse_copyright(text: str) -> list[Licence]:
    """The ``Files`` paragraphs of a machine-readable copyright file, in their order."""
    licences = []
    for paragraph in re.split(r"\n\s*\n", text):
        fields: dict[str, list[str]] = {}
        lines: list[str] = []
        for line in paragraph.splitlines():
            if line[:1].isspace():
                lines.append(line.strip())
            elif ":" in line:
                key, _, value = line.partition(":")
                lines = fields.setdefault(key.strip().lower(), [])
                lines.append(value.strip())
        if "files" in fields and "license" in fields:
            licences.append(
                Licence(
                    files=tuple(" ".join(fields["files"]).split()),
                    name=fields["license"][0],
                    copyright="; ".join(line for line in fields.get("copyright", []) if line),
                )
            )
    return licences


def licence_of(
    source_path: str, licences: Sequence[Licence], *, first: Collection[str] = ()
) -> Licence:
    """The licence of a path in the source package: that of the last paragraph that matches it.

    Args:
        source_path: Path in the source package.
        licences: Its paragraphs.
        first: Patterns of the copyright file that go before all others where they match.

    Raises:
        LookupError: If no paragraph matches.
    """
    for preferred in (True, False):
        for licence in reversed(licences):
            for pattern in licence.files:
                if (pattern in first or not preferred) and _matches(source_path, pattern):
                    return licence
    raise LookupError(f"the package states no licence for {source_path}")


def _matches(path: str, pattern: str) -> bool:
    expression = re.escape(pattern).replace(r"\*", ".*").replace(r"\?", ".")
    return re.fullmatch(expression, path) is not None
