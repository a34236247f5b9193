# SPDX-License-Identifier: Apache-2.0
"""Reads JSON and tensors that anyone may have written: bounded, checked before anything is allocated, one kind of error."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from safetensors import SafetensorError, safe_open

# Of each JSON file and each header of tensors; the largest of ours have some 100 kB.
MAX_TEXT_BYTES = 2**24
# Lists and objects inside each other; ours have 5.
_MAX_NESTING = 32
# What 64 bits hold has no more.
_MAX_DIGITS = 20


class StoredTensor(NamedTuple):
    """What the header of a file says of a tensor.

    Attributes:
        dtype: As safetensors calls it, such as "F16".
        shape: Its sizes.
    """

    dtype: str
    shape: tuple[int, ...]


def read_bounded_bytes(path: Path, max_bytes: int) -> bytes:
    """All of a regular file, through a link too; a pipe or a device is not waited for.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is larger.
        OSError: If it cannot be read.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing, or no file")
    with path.open("rb") as stream:
        data = stream.read(max_bytes + 1)
    if len(data) > max_bytes:
        raise ValueError(f"{path} is larger than {max_bytes >> 20} MiB")
    return data


def read_json(path: Path, *, infinity: bool = False) -> Any:
    """The content of a JSON file: finite numbers, of at most 20 digits if they are whole, and no deep nesting.

    Args:
        path: The file, of at most 16 MiB.
        infinity: Take ``Infinity`` and ``NaN``, too, as Python writes them.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is damaged, or larger; the message names the file.
        OSError: If it cannot be read.
    """
    data = read_bounded_bytes(path, MAX_TEXT_BYTES)
    try:
        content = json.loads(
            data.decode("utf-8-sig"),
            parse_constant=float if infinity else _refuse_constant,
            parse_float=_finite,
            parse_int=_whole,
        )
    except RecursionError:
        raise ValueError(f"{path} is damaged: it is nested too deeply") from None
    except ValueError as error:
        raise ValueError(f"{path} is damaged: {error}") from error
    if _is_deep(content):
        raise ValueError(f"{path} is damaged: it is nested too deeply")
    return content


def read_json_object(path: Path) -> dict[str, Any]:
    """The object that a JSON file holds; as :func:`read_json`, which says the rest.

    Raises:
        ValueError: If it holds something else.
    """
    content = read_json(path)
    if not isinstance(content, dict):
        raise ValueError(f"{path} must hold a JSON object")
    return content


def stored_tensors(path: str | os.PathLike[str]) -> dict[str, StoredTensor]:
    """Names, types and shapes of the tensors of a safetensors file, from its header alone.

    The header is compared with the file's size: together the tensors take the rest of the file.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is no such file, damaged, or cut off; the message names the file.
        OSError: If it cannot be read.
    """
    file = Path(path)
    if not file.is_file():
        raise FileNotFoundError(f"{file} is missing, or no file")
    with file.open("rb") as stream:
        if int.from_bytes(stream.read(8), "little") > MAX_TEXT_BYTES:
            raise ValueError(f"{file} is damaged: its header is too long")
    try:
        with safe_open(os.fspath(file), "np") as stored:
            slices = {name: stored.get_slice(name) for name in stored.keys()}  # noqa: SIM118
            return {
                name: StoredTensor(part.get_dtype(), tuple(part.get_shape()))
                for name, part in slices.items()
            }
    except SafetensorError as error:
        raise ValueError(f"{file} is damaged: {_first_line(error)}") from error


def require_tensors(
    path: str | os.PathLike[str], expected: Mapping[str, tuple[tuple[str, ...], tuple[int, ...]]]
) -> None:
    """Compare the header of a safetensors file with what its reader is about to allocate.

    Args:
        path: The file.
        expected: For each tensor the types that will do, and its shape.

    Raises:
        ValueError: If a tensor is missing, left over, or of another type or shape; and as :func:`stored_tensors`.
    """
    found = stored_tensors(path)
    for name in sorted(expected.keys() ^ found.keys()):
        what = "lacks the tensor" if name in expected else "has no use for its tensor"
        raise ValueError(f"{path} {what} {shown(name)}")
    for name, (dtypes, shape) in expected.items():
        if found[name].shape != shape:
            raise ValueError(
                f"{path} has {shown(name)} in the shape {shown(found[name].shape)} instead of {shape}"
            )
        if found[name].dtype not in dtypes:
            raise ValueError(
                f"{path} has {shown(name)} as {found[name].dtype} instead of {' or '.join(dtypes)}"
            )


def shown(value: object) -> str:
    """A value of a file, short enough for a message.

    Example:
        >>> shown("photo")
        "'photo'"
    """
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no number of JSON")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text[:20]} is too large a number")
    return value


def _whole(text: str) -> int:
    if len(text) > _MAX_DIGITS:
        raise ValueError(f"{text[:_MAX_DIGITS]}... is too long a number")
    return int(text)


def _is_deep(content: Any) -> bool:
    level: list[Any] = [content]
    for _ in range(_MAX_NESTING):
        level = [
            item
            for value in level
            if isinstance(value, dict | list)
            for item in (value.values() if isinstance(value, dict) else value)
        ]
        if not level:
            return False
    return True


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
