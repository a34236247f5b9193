# SPDX-License-Identifier: Apache-2.0
"""Reading the JSON objects of evaluations, with one sentence for whatever is wrong with them."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from genaccel.eval.results import RECORD_VERSION

# Far above any evaluation, and still a bound on what the wrong file can make us read.
_MAX_BYTES = 1 << 28

# How an infinite value may be written: as a text, since JSON has no number for it, or as Python writes it.
_INFINITIES = {
    text: sign * math.inf
    for sign, prefixes in ((1, ("", "+")), (-1, ("-",)))
    for prefix in prefixes
    for text in (f"{prefix}Infinity", f"{prefix}infinity", f"{prefix}inf")
}

# From a value and its place in the object to the value as the report uses it; raises ValueError.
Check = Callable[[Any, str], Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class Run:
    """One evaluation.

    Attributes:
        path: Where its JSON was.
        kind: ``"rate_distortion"``, ``"speed"``, ``"paired"`` or ``"set"``.
        name: The user's label, or the file's name without one.
        content: The object, checked; fields that may be missing are there.
    """

    path: Path
    kind: str
    name: str
    content: Mapping[str, Any]


def read_run(path: Path) -> Run:
    """Read the JSON of one evaluation.

    Raises:
        ValueError: If the file is no evaluation of this version; the message starts with the path.
        OSError: If it cannot be read.
    """
    with path.open("rb") as stream:  # a device says that it has no size
        data = stream.read(_MAX_BYTES + 1)
    if len(data) > _MAX_BYTES:
        raise ValueError(f"{path}: larger than {_MAX_BYTES >> 20} MiB, so no evaluation")
    try:
        # -sig: PowerShell's redirection puts a byte order mark first.
        text = data.decode("utf-8-sig")
        content = json.loads(
            text, parse_constant=_INFINITIES.get, parse_float=_finite, parse_int=_whole
        )
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: no JSON file ({error})") from error
    if not isinstance(content, dict) or "genaccel_eval" not in content:
        raise ValueError(f'{path}: no evaluation, since it has no "genaccel_eval"')
    version = content["genaccel_eval"]
    if version != RECORD_VERSION or isinstance(version, bool):
        raise ValueError(
            f"{path}: an evaluation of version {_shorten(version)}; "
            f"this genaccel reads version {RECORD_VERSION}"
        )
    kind = content.get("kind")
    if not isinstance(kind, str) or kind not in _KINDS:
        raise ValueError(f"{path}: kind must be one of {', '.join(_KINDS)}, got {_shorten(kind)}")
    try:
        checked = _KINDS[kind](content, "")
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    return Run(path=path, kind=kind, name=checked["label"] or path.stem, content=checked)


def _finite(text: str) -> float | None:
    value = float(text)
    return value if math.isfinite(value) else None  # 1e999 is infinite


def _whole(text: str) -> float | int | None:
    return int(text) if len(text) <= 18 else _finite(text)


def _shorten(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 40 else f"{text[:37]}..."


def _mismatch(where: str, expected: str, value: Any) -> ValueError:
    return ValueError(f"{where} must be {expected}, got {_shorten(value)}")


def _anything(value: Any, where: str) -> Any:
    return value


def _text(value: Any, where: str) -> str:
    if not isinstance(value, str):
        raise _mismatch(where, "a text", value)
    return value


def _direction(value: Any, where: str) -> bool | None:
    if value is not None and not isinstance(value, bool):
        raise _mismatch(where, "true, false or null", value)
    return value


def _number(value: Any, where: str) -> float | int | None:
    """Null stands for a value that is missing or no number, a text such as ``"inf"`` for an infinite one."""
    if isinstance(value, str) and value in _INFINITIES:
        return _INFINITIES[value]
    if value is not None and (isinstance(value, bool) or not isinstance(value, int | float)):
        raise _mismatch(where, "a number or null", value)
    return value


def _interval(value: Any, where: str) -> list[float] | None:
    if value is None:
        return None
    pair: list[float] = _list_of(_number)(value, where)
    if len(pair) != 2:
        raise _mismatch(where, "two numbers or null", value)
    return pair


def _list_of(check: Check) -> Check:
    def checked(value: Any, where: str) -> list[Any]:
        if not isinstance(value, list):
            raise _mismatch(where, "a list", value)
        return [check(item, f"{where}[{index}]") for index, item in enumerate(value)]

    return checked


def _map_of(check: Check) -> Check:
    def checked(value: Any, where: str) -> dict[str, Any]:
        if not isinstance(value, dict):
            raise _mismatch(where, "an object", value)
        return {key: check(item, f"{where}[{json.dumps(key)}]") for key, item in value.items()}

    return checked


def _fields(
    required: Mapping[str, Check], optional: Mapping[str, tuple[Check, Any]] = MappingProxyType({})
) -> Check:
    """Objects with these fields and no others; an optional one has a default."""

    def checked(value: Any, where: str) -> dict[str, Any]:
        if not isinstance(value, dict):
            raise _mismatch(where, "an object", value)
        prefix = f"{where}." if where else ""
        found = {}
        for name, check in required.items():
            if name not in value:
                raise ValueError(f"{prefix}{name} is missing")
            found[name] = check(value[name], prefix + name)
        for name, (check, default) in optional.items():
            found[name] = check(value.get(name, default), prefix + name)
        return found

    return checked


def _run_of(required: Mapping[str, Check], optional: Mapping[str, tuple[Check, Any]]) -> Check:
    """A run: the fields that every kind has, and its own."""
    return _fields(
        required,
        {
            "label": (_text, ""),
            "environment": (_map_of(_anything), {}),
            "settings": (_map_of(_anything), {}),
            "skipped": (_map_of(_text), {}),
            "unmatched": (_map_of(_list_of(_text)), {}),
            "warnings": (_list_of(_text), []),
            "command": (_text, ""),
            "commit": (_text, ""),
            **optional,
        },
    )


# The direction of a user's own function is not known.
_METRIC = _fields(
    {"title": _text, "higher_is_better": _direction}, {"key": (_text, ""), "unit": (_text, "")}
)
_NUMBERS = _map_of(_number)

_POINT = _fields(
    {"setting": _text, "bits_per_pixel": _number, "metrics": _NUMBERS},
    {
        "num_bytes": (_number, None),
        "encode_seconds": (_number, None),
        "decode_seconds": (_number, None),
        "images": (_map_of(_NUMBERS), {}),
        "num_infinite": (_NUMBERS, {}),
    },
)
_BD_RATE = _fields(
    {"codec": _text, "anchor": _text, "metric": _text, "percent": _number},
    {"interval": (_interval, None), "reason": (_text, "")},
)
_VERSION = _fields(
    {"label": _text, "file": _text},
    {"codec": (_text, ""), "bits_per_pixel": (_number, None), "metrics": (_NUMBERS, {})},
)
_PICTURE = _fields({"name": _text, "original": _text, "versions": _list_of(_VERSION)})
_SIDE = _fields(
    {"name": _text, "median_seconds": _number},
    {
        "seconds": (_list_of(_number), []),
        "speedup": (_number, None),
        "flops": (_number, None),
        "peak_bytes": (_number, None),
        "quality": (_NUMBERS, {}),
    },
)

_KINDS: Mapping[str, Check] = {
    "rate_distortion": _run_of(
        {
            "metrics": _map_of(_METRIC),
            "codecs": _list_of(_fields({"codec": _text, "points": _list_of(_POINT)})),
        },
        {"bd_rates": (_list_of(_BD_RATE), []), "pictures": (_list_of(_PICTURE), [])},
    ),
    "speed": _run_of({"sides": _list_of(_SIDE)}, {"metrics": (_map_of(_METRIC), {})}),
    "paired": _run_of(
        {"metric": _METRIC, "mean": _number, "images": _NUMBERS},
        {
            "sets": (_list_of(_text), []),
            "mean_of_finite": (_number, None),
            "standard_deviation": (_number, None),
            "confidence_interval": (_interval, None),
            "confidence_method": (_text, ""),
        },
    ),
    "set": _run_of(
        {"metric": _METRIC, "value": _number},
        {
            "num_images": (_list_of(_number), []),
            "sets": (_list_of(_text), []),
            "details": (_map_of(_anything), {}),
        },
    ),
}
