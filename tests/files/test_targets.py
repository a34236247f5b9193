# SPDX-License-Identifier: Apache-2.0
"""What :mod:`genaccel.files.atomic` refuses before the work."""

import io
import os
import shutil
from pathlib import Path

import pytest

from genaccel.files.atomic import check_folder, check_target, write_atomically


def test_what_writing_would_refuse_is_refused_before_the_work(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_bytes(b"old")
    (tmp_path / "folder").mkdir()
    (tmp_path / "dead").symlink_to("nothing")
    (tmp_path / "loop").symlink_to("loop")
    cases = [
        (Path("file"), {}, FileExistsError, "--force"),
        (Path("folder"), {"overwrite": True}, IsADirectoryError, "folder is a folder"),
        (Path("no/x"), {}, FileNotFoundError, "no folder no to write x into"),
        (Path("file/x"), {"overwrite": True}, NotADirectoryError, "^file is no folder"),
        (Path("file/sub/x"), {"parents": True}, NotADirectoryError, "file is no folder, and"),
        (Path("dead/x"), {"parents": True}, NotADirectoryError, "dead is no folder"),
        (Path("loop"), {"overwrite": True}, OSError, "loop"),
        (Path("x" * 256), {}, OSError, "x{256}"),
        (Path("new", "x" * 256), {"parents": True}, OSError, "x{256}"),
    ]
    for path, options, kind, words in cases:
        with pytest.raises(kind, match=words):
            check_target(path, **options)
    for path, options in (
        (Path("file"), {"overwrite": True}),
        (Path("new"), {}),
        (Path("a/b/new"), {"parents": True}),
        (Path("dead"), {}),
        (tmp_path / ("x" * 255), {}),
        (Path("/dev/null"), {}),
    ):
        check_target(path, **options)
    assert sorted(os.listdir(tmp_path)) == ["dead", "file", "folder", "loop"]
    with pytest.raises(OSError, match="loop"):
        write_atomically(Path("loop"), b"", overwrite=True)


def test_places_that_cannot_be_written_to_are_named(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "access", lambda *_: False)  # which root is never told
    with pytest.raises(
        PermissionError, match=r"cannot be written to, and .*a\.gac would lie in it"
    ):
        check_target(tmp_path / "new" / "a.gac", parents=True)
    with pytest.raises(PermissionError, match=r"^/dev/null cannot be written to$"):
        check_target(Path("/dev/null"))
    with pytest.raises(PermissionError, match=f"^{tmp_path} cannot be written to$"):
        check_folder(tmp_path)


def test_an_input_is_never_written_over(tmp_path):
    source = tmp_path / "photo"
    source.write_bytes(b"photo")
    (tmp_path / "hard").hardlink_to(source)
    (tmp_path / "soft").symlink_to("photo")
    (tmp_path / "copy").write_bytes(b"photo")
    other_spelling = tmp_path / "folder" / ".." / "photo"
    (tmp_path / "folder").mkdir()
    for target in (source, tmp_path / "hard", tmp_path / "soft", other_spelling):
        for overwrite in (False, True):
            with pytest.raises(shutil.SameFileError, match="the input itself"):
                check_target(target, source=source, overwrite=overwrite)
        with source.open("rb") as stream, pytest.raises(shutil.SameFileError):
            check_target(target, source=stream, overwrite=True)
    check_target(tmp_path / "copy", source=source, overwrite=True)
    check_target(tmp_path / "new", source=source)
    check_target(source, source=io.BytesIO(b"photo"), overwrite=True)
    check_target(source, source=tmp_path / "missing", overwrite=True)
