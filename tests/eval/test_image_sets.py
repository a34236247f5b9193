# SPDX-License-Identifier: Apache-2.0
import io
import os
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from genaccel.errors import BitstreamError, LimitExceededError
from genaccel.eval import image_sets
from genaccel.eval.image_sets import ArchiveMember, SampleArray, find_image_files, npz_arrays
from genaccel.eval.images import load_image


def _png(value: int) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (4, 3), (value,) * 3).save(stream, "png")
    return stream.getvalue()


def _zip(path: Path, entries: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, data in entries.items():
            archive.writestr(name, data)
    return path


def test_an_archive_is_a_folder_that_nothing_unpacks(tmp_path: Path) -> None:
    entries = {
        "set/b.PNG": _png(2),
        "set/a.png": _png(1),
        "../up.png": _png(3),
        "/root.png": _png(4),
        "__MACOSX/._a.png": b"resource fork",
        ".hidden/c.png": _png(5),
        "set/notes.txt": b"words",
        "inner.zip": b"PK",
        "set/": b"",
    }
    folder = tmp_path / "outer" / "inner"
    folder.mkdir(parents=True)
    before = set(tmp_path.rglob("*"))
    path = _zip(folder / "Set.ZIP", entries)
    found = find_image_files(path)
    assert [str(file) for file in found.files] == [
        f"{path}/{name}" for name in ("../up.png", "/root.png", "set/a.png", "set/b.PNG")
    ]
    assert found.notes == [f"{path}: 4 other files left out"]
    assert [int(load_image(file).pixels[0, 0, 0]) for file in found.files] == [3, 4, 1, 2]
    assert set(tmp_path.rglob("*")) - before == {path}


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_members_of_any_packing_are_read(tmp_path: Path, method: int) -> None:
    path = _zip(tmp_path / "x.zip", {"a.png": _png(7)}, method)
    (file,) = find_image_files(path).files
    assert load_image(file).pixels.mean() == 7


def test_names_may_come_twice(tmp_path: Path) -> None:
    path = tmp_path / "x.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.png", _png(1))
        with pytest.warns(UserWarning, match="Duplicate name"):
            archive.writestr("a.png", _png(2))
    values = [load_image(file).pixels.mean() for file in find_image_files(path).files]
    assert values == [1, 2]


def test_a_damaged_member_is_its_own_fault(tmp_path: Path) -> None:
    path = _zip(tmp_path / "x.zip", {"a.png": _png(1), "b.png": _png(2)}, zipfile.ZIP_STORED)
    data = bytearray(path.read_bytes())
    data[data.index(_png(1)) + 20] ^= 1
    path.write_bytes(data)
    first, second = find_image_files(path).files
    with pytest.raises(BitstreamError, match="does not unpack: Bad CRC"):
        load_image(first)
    assert load_image(second).pixels.mean() == 2
    # Bit 0 of its flags says that a member is encrypted.
    data = bytearray(path.read_bytes())
    data[data.index(b"PK\x01\x02") + 8] |= 1
    path.write_bytes(data)
    os.utime(path, ns=(1, 1))
    with pytest.raises(BitstreamError, match=r"unpack: it is encrypted$"):
        load_image(find_image_files(path).files[0])


def test_what_is_no_archive_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.zip"
    path.write_bytes(b"PK\x03\x04 and no more")
    with pytest.raises(ValueError, match=r"x\.zip is no \.zip archive"):
        find_image_files(path)


def test_bombs_are_refused_before_they_unpack(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    zeros = bytes(1 << 20)
    path = _zip(tmp_path / "bomb.zip", {"a.png": zeros, "b.png": zeros})
    find_image_files(path)  # small ones may shrink as much as they like
    monkeypatch.setattr(image_sets, "_MAX_MEMBER_BYTES", 1 << 20)
    with pytest.raises(ValueError, match="unpacks to 2,097,152, over the limit of 250 times"):
        find_image_files(path)
    monkeypatch.setattr(image_sets, "_MAX_MEMBER_BYTES", 1000)
    with pytest.raises(LimitExceededError, match="unpacks to 1,048,576 bytes"):
        ArchiveMember(path, 0, "a.png").read_bytes()
    monkeypatch.setattr(image_sets, "_MAX_MEMBERS", 1)
    with pytest.raises(ValueError, match="has 2 files, over the limit of 1"):
        find_image_files(path)
    npz = tmp_path / "bomb.npz"
    np.savez_compressed(npz, arr_0=np.zeros((40, 200, 200, 3), np.uint8))
    with pytest.raises(ValueError, match="times as many"):
        SampleArray.open(npz)


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
@pytest.mark.parametrize("channels", [1, 3])
def test_samples_are_read_row_by_row(tmp_path: Path, save: object, channels: int) -> None:
    images = np.random.default_rng(0).integers(0, 256, (5, 4, 6, channels), dtype=np.uint8)
    path = tmp_path / "samples.npz"
    save(path, images, np.arange(5))  # type: ignore[operator]
    array = SampleArray.open(path)
    assert array.shape == images.shape
    rows = list(array)
    assert all(row.shape == (4, 6, 3) for row in rows)
    np.testing.assert_array_equal(np.stack(rows), np.broadcast_to(images, (5, 4, 6, 3)))
    assert npz_arrays(path) == {"arr_0", "arr_1"}


@pytest.mark.parametrize(
    "array",
    [
        np.zeros((2, 4, 4, 4), np.uint8),
        np.zeros((2, 3, 4, 4), np.uint8),
        np.zeros((4, 4, 3), np.uint8),
        np.zeros((0, 4, 4, 3), np.uint8),
        np.zeros((2, 4, 4, 3), np.float32),
        np.zeros((2, 4, 4, 3), np.int64),
        np.asfortranarray(np.zeros((2, 4, 4, 3), np.uint8)),
        np.array([{"a": 1}], object),
    ],
    ids=["alpha", "planes", "one", "none", "float", "int64", "fortran", "objects"],
)
def test_other_arrays_are_refused(tmp_path: Path, array: np.ndarray) -> None:
    path = tmp_path / "x.npz"
    np.savez(path, array)
    with pytest.raises(ValueError, match=r"x\.npz holds no statistics"):
        SampleArray.open(path)


def test_an_array_that_lies_about_its_size_is_refused(tmp_path: Path) -> None:
    stream = io.BytesIO()
    np.save(stream, np.zeros((2, 4, 4, 3), np.uint8))
    lie = stream.getvalue().replace(b"(2, 4, 4, 3)", b"(9, 4, 4, 3)")
    path = _zip(tmp_path / "x.npz", {"arr_0.npy": lie})
    with pytest.raises(ValueError, match="which it is not"):
        SampleArray.open(path)
    for content in (b"no zip", b""):
        path.write_bytes(content)
        with pytest.raises(ValueError, match="no statistics"):
            SampleArray.open(path)
        with pytest.raises(ValueError, match=r"it is no \.npz"):
            npz_arrays(path)


def test_folders_of_classes_may_be_links(tmp_path: Path) -> None:
    real, kept = tmp_path / "set", tmp_path / "elsewhere"
    for folder in (real / "dogs", kept):
        folder.mkdir(parents=True)
        (folder / "x.png").write_bytes(_png(1))
    (real / "cats").symlink_to(kept)
    (real / "cats-again").symlink_to(kept)
    (real / "circle").symlink_to(real)
    (real / "gone.png").symlink_to("nothing.png")
    os.mkfifo(real / "pipe.png")
    for name in ("a.txt", "b.txt", "c.json"):
        (real / name).write_text("x")
    found = find_image_files(real)
    assert [file.relative_to(real).as_posix() for file in found.files] == [  # type: ignore[union-attr]
        "cats/x.png",
        "dogs/x.png",
    ]
    assert found.unusable == {str(real / "gone.png"): "a link to what is not there"}
    text = "\n".join(found.notes)
    assert "cats-again: a link to a folder that is walked through already" in text
    assert "circle: a link to a folder that is walked through already" in text
    assert "pipe.png: no regular file" in text
    assert "3 other files left out" in text
