# SPDX-License-Identifier: Apache-2.0
import os
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from genaccel.eval._pairs.folder_pairs import match_folders, match_images


def _write(path: Path, size: tuple[int, int] = (8, 6), value: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (value, value, value)).save(path)


def test_files_are_matched_by_path_without_extension(tmp_path: Path) -> None:
    a, b = tmp_path / "a", tmp_path / "b"
    for name in ("z.png", "sub/z.png", "c.d.png"):
        _write(a / name)
        _write((b / name).with_suffix(".bmp"))
    pairs = match_folders(a, b)
    assert [pair.name for pair in pairs] == ["c.d", "sub/z", "z"]
    assert pairs[1].original == a / "sub/z.png"
    assert pairs[1].reconstruction == b / "sub/z.bmp"


def test_unmatched_files_are_named(tmp_path: Path) -> None:
    a, b = tmp_path / "a", tmp_path / "b"
    for i in range(12):
        _write(a / f"only{i:02}.png")
    for folder in (a, b):
        _write(folder / "both.png")
    _write(b / "other.png")
    with pytest.raises(
        ValueError, match=r"only in .*a: only00, .*only09 and 2 more; only in .*b: other"
    ):
        match_folders(a, b)
    assert [pair.name for pair in match_folders(a, b, intersect=True)] == ["both"]


def test_ambiguous_and_disjoint_folders_are_refused(tmp_path: Path) -> None:
    a, b = tmp_path / "a", tmp_path / "b"
    _write(a / "x.png")
    _write(b / "y.png")
    with pytest.raises(ValueError, match="no image in common"):
        match_folders(a, b, intersect=True)
    _write(a / "x.bmp")
    with pytest.raises(ValueError, match="share the stem 'x'"):
        match_folders(a, b)


def test_nothing_is_resized(tmp_path: Path) -> None:
    a, b = tmp_path / "a", tmp_path / "b"
    _write(a / "x.png", (8, 6))
    _write(b / "x.png", (6, 8))
    (pair,) = match_folders(a, b)
    with pytest.raises(ValueError, match=r"x\.png has 8x6 pixels, .*x\.png has 6x8"):
        pair.read()


def test_deep_and_transparent_files_are_converted_on_request(tmp_path: Path) -> None:
    a, b = tmp_path / "a", tmp_path / "b"
    _write(b / "x.png", value=0x80)
    a.mkdir()
    Image.fromarray(np.full((6, 8), 0x8001, np.uint16)).save(a / "x.png")
    (pair,) = match_folders(a, b)
    with pytest.raises(ValueError, match=r"a/x\.png: .*--convert"):
        pair.read()
    original, reconstruction = pair.read(convert=True)
    np.testing.assert_array_equal(original, reconstruction)
    Image.new("RGBA", (8, 6), (0, 0, 0, 0)).save(a / "x.png")
    with pytest.raises(ValueError, match="--convert"):
        pair.read()
    assert pair.read(convert=True)[0].min() == 255


def test_empty_folders_are_named(tmp_path: Path) -> None:
    _write(tmp_path / "a" / "x.png")
    (tmp_path / "b").mkdir()
    with pytest.raises(ValueError, match="b holds no image"):
        match_folders(tmp_path / "a", tmp_path / "b")


def test_two_files_are_a_pair(tmp_path: Path) -> None:
    _write(tmp_path / "a" / "x.png")
    _write(tmp_path / "y.bmp", value=3)
    (pair,) = match_folders(tmp_path / "a" / "x.png", tmp_path / "y.bmp")
    assert pair.name == "x"
    assert [int(image.max()) for image in pair.read()] == [0, 3]
    with pytest.raises(NotADirectoryError, match=r"y\.bmp is not a folder, and .*a is one"):
        match_folders(tmp_path / "a", tmp_path / "y.bmp")
    with pytest.raises(NotADirectoryError, match="none is not a folder, and no file either"):
        match_folders(tmp_path / "none", tmp_path / "y.bmp")
    os.mkfifo(tmp_path / "pipe.png")
    with pytest.raises(ValueError, match=r"pipe\.png is no regular file"):
        match_folders(tmp_path / "pipe.png", tmp_path / "y.bmp")


def test_an_archive_is_matched_with_a_folder(tmp_path: Path) -> None:
    for name in ("sub/x.png", "y.png"):
        _write(tmp_path / "a" / name, value=9)
    with zipfile.ZipFile(tmp_path / "b.zip", "w") as archive:
        for name in ("sub/x.png", "y.png"):
            archive.write(tmp_path / "a" / name, name)
    for pair in (pairs := match_folders(tmp_path / "a", tmp_path / "b.zip")):
        np.testing.assert_array_equal(*pair.read())
    assert [pair.name for pair in pairs] == ["sub/x", "y"]


def test_what_has_no_part_is_named(tmp_path: Path) -> None:
    a, b = tmp_path / "a", tmp_path / "b"
    for path in (a / "x.png", b / "x.png", a / "only.png"):
        _write(path)
    (a / "gone.png").symlink_to("nothing.png")
    (b / "notes.txt").write_text("x")
    matched = match_images(a, b, intersect=True)
    assert [pair.name for pair in matched.pairs] == ["x"]
    assert matched.unmatched == {str(a): ["only"]}
    assert matched.unusable == {str(a / "gone.png"): "a link to what is not there"}
    assert matched.notes == [f"{b}: 1 other file left out: 1 .txt"]


def test_a_folder_is_matched_with_itself(tmp_path: Path) -> None:
    _write(tmp_path / "x.png")
    (pair,) = match_folders(tmp_path, tmp_path)
    assert pair.original == pair.reconstruction
