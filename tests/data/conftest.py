# SPDX-License-Identifier: Apache-2.0
"""Small Debian packages, written from scratch."""

import io
import tarfile
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

WriteDeb = Callable[..., Path]


def _member(name: str, data: bytes) -> bytes:
    header = f"{name:<16}{0:<12}{0:<6}{0:<6}{'100644':<8}{len(data):<10}`\n".encode()
    return header + data + b"\n" * (len(data) % 2)


def _tar(files: Mapping[str, bytes], compression: str) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=f"w:{compression}") as archive:
        folder = tarfile.TarInfo("./usr")
        folder.type = tarfile.DIRTYPE
        archive.addfile(folder)
        for name, data in files.items():
            entry = tarfile.TarInfo(f"./{name}")
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
    return buffer.getvalue()


@pytest.fixture
def write_deb() -> WriteDeb:
    def write(path: Path, files: Mapping[str, bytes], compression: str = "xz") -> Path:
        path.write_bytes(
            b"!<arch>\n"
            + _member("debian-binary", b"2.0\n")
            + _member(f"control.tar.{compression}", _tar({"control": b"odd"}, compression))
            + _member(f"data.tar.{compression}", _tar(files, compression))
        )
        return path

    return write
