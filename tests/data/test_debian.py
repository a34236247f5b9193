# SPDX-License-Identifier: Apache-2.0
import hashlib
from collections.abc import Callable
from pathlib import Path

import pytest

from genaccel.data.debian import (
    DebianPackage,
    fetch_package,
    iterate_files,
    licence_of,
    parse_copyright,
)

WriteDeb = Callable[..., Path]

COPYRIGHT = """\
Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/

Files: *
Copyright: 2020, Somebody <somebody@example.org>
License: GPL-3+

Files:
 images/hills1*
 images/hills2.jpg
Copyright:
 First Author
 Second Author
License: public-domain
 Given away by their authors.

Files: images/*-artist*
Copyright: Artist
License: CC-BY-SA-4.0

Files: images/hills?*
Copyright: Last
License: CC0-1.0

License: GPL-3+
 Text of the licence, without files.
"""


@pytest.mark.parametrize("compression", ["xz", "gz"])
def test_files_are_read_in_order(write_deb: WriteDeb, tmp_path: Path, compression: str) -> None:
    files = {"usr/share/a.txt": b"first", "usr/share/b.bin": bytes(100_000), "c": b""}
    path = write_deb(tmp_path / "x.deb", files, compression=compression)
    assert {name: stream.read() for name, stream in iterate_files(path)} == files


def test_other_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "x.deb").write_bytes(b"PK\x03\x04 something else")
    with pytest.raises(ValueError, match="not a Debian package"):
        list(iterate_files(tmp_path / "x.deb"))


def test_a_package_without_data_is_refused(write_deb: WriteDeb, tmp_path: Path) -> None:
    whole = write_deb(tmp_path / "x.deb", {"a": b"a"}).read_bytes()
    (tmp_path / "x.deb").write_bytes(whole[: whole.index(b"data.tar")])
    with pytest.raises(ValueError, match=r"no member data\.tar"):
        list(iterate_files(tmp_path / "x.deb"))


def test_a_cut_member_header_is_refused(write_deb: WriteDeb, tmp_path: Path) -> None:
    whole = write_deb(tmp_path / "x.deb", {"a": b"a"}).read_bytes()
    (tmp_path / "x.deb").write_bytes(whole[: whole.index(b"data.tar") + 20])
    with pytest.raises(ValueError, match="bad member header"):
        list(iterate_files(tmp_path / "x.deb"))


def test_the_last_matching_paragraph_gives_the_licence() -> None:
    licences = parse_copyright(COPYRIGHT)
    assert [licence.name for licence in licences] == [
        "GPL-3+",
        "public-domain",
        "CC-BY-SA-4.0",
        "CC0-1.0",
    ]
    assert licences[1].copyright == "First Author; Second Author"
    assert licence_of("src/main.cpp", licences).name == "GPL-3+"
    assert licence_of("images/hills2.jpg", licences).name == "CC0-1.0"
    assert licence_of("images/sea-artist.jpg", licences).name == "CC-BY-SA-4.0"
    assert licence_of("images/hills10-artist.jpg", licences).name == "CC0-1.0"
    first = {"images/*-artist*"}
    assert licence_of("images/hills10-artist.jpg", licences, first=first).name == "CC-BY-SA-4.0"
    with pytest.raises(LookupError, match=r"sea\.jpg"):
        licence_of("sea.jpg", licences[1:])


def test_a_package_in_the_cache_is_used(
    write_deb: WriteDeb, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    path = write_deb(tmp_path / "some-data_1%3a2-3_all.deb", {"a": b"a"})
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    package = DebianPackage(name="some-data", version="1:2-3", sha256=digest)
    assert fetch_package(package, tmp_path) == path


def test_a_damaged_package_is_not_used_and_the_message_says_what_to_do(
    write_deb: WriteDeb, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))  # no apt-get in there
    write_deb(tmp_path / "some-data_1_all.deb", {"a": b"a"})
    package = DebianPackage(name="some-data", version="1", sha256="0" * 64)
    with pytest.raises(OSError, match=r"apt-get.* is not installed.*any folder of images"):
        fetch_package(package, tmp_path)


@pytest.mark.parametrize(
    ("script", "message"),
    [
        ("echo 'E: Version not found' >&2; exit 100", "E: Version not found"),
        ("echo something > some-data_1_all.deb", "does not have the SHA-256 digest"),
    ],
)
def test_a_failed_download_is_explained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, message: str
) -> None:
    command = tmp_path / "apt-get"
    command.write_text(f"#!/bin/sh\n{script}\n")
    command.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    package = DebianPackage(name="some-data", version="1", sha256="0" * 64)
    with pytest.raises(OSError, match=message):
        fetch_package(package, tmp_path / "cache")
