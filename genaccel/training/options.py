# SPDX-License-Identifier: Apache-2.0
"""Ranges and options of configurations, said once: in the annotations of their fields.

    @dataclass(frozen=True, kw_only=True, slots=True)
    class ToyConfig:
        \"""A recipe's numbers.

        Args:
            width: Hidden channels.
        \"""

        width: Annotated[int, Option(), AT_LEAST_1] = 64

        def __post_init__(self) -> None:
            check(self)

``check`` refuses what is out of range; ``genaccel train`` makes ``--width`` of the field, with the docstring's sentence
as its help. A field without :class:`Option` is not asked for on the command line.
"""

from __future__ import annotations

import inspect
import math
import re
import types
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints


@dataclass(frozen=True, kw_only=True, slots=True)
class Within:
    """An interval of numbers; infinity and what is not a number are never in it."""

    low: float
    high: float = math.inf
    open_low: bool = False
    open_high: bool = False

    def __contains__(self, value: float) -> bool:
        above = self.low < value if self.open_low else self.low <= value
        below = value < self.high if self.open_high or self.high == math.inf else value <= self.high
        return above and below

    def __str__(self) -> str:
        if self.high == math.inf:
            return f"{'above' if self.open_low else 'at least'} {self.low:g}"
        return f"in {'(['[not self.open_low]}{self.low:g}, {self.high:g}{')]'[not self.open_high]}"


AT_LEAST_0 = Within(low=0)
AT_LEAST_1 = Within(low=1)
ABOVE_0 = Within(low=0, open_low=True)
SHARE = Within(low=0, high=1)
SHARE_ABOVE_0 = Within(low=0, high=1, open_low=True)
SHARE_BELOW_1 = Within(low=0, high=1, open_high=True)


@dataclass(frozen=True, kw_only=True, slots=True)
class Option:
    """Makes a field, or a parameter of a recipe, an option of the command line.

    Args:
        name: Of the option, in words with underscores; by default that of the field.
        off: Name of the flag that says no; without one, a flag can only say yes.
        none: Value that stands for None.
        fields: Of a configuration without annotations of its own, names of options by names of fields.
    """

    name: str = ""
    off: str = ""
    none: float | None = None
    fields: Mapping[str, str] = field(default_factory=dict)


def hints_of(subject: type | Callable[..., Any]) -> dict[str, Any]:
    """Types of a class's fields or a function's parameters, with what they are annotated with."""
    return get_type_hints(subject, include_extras=True)


def split(hint: Any) -> tuple[Any, tuple[Any, ...]]:
    """The bare type and the annotations of ``Annotated[...]``; None in a union with one other type is left out."""
    annotations: tuple[Any, ...] = ()
    if get_origin(hint) is Annotated:
        hint, *rest = get_args(hint)
        annotations = tuple(rest)
    if get_origin(hint) in (Union, types.UnionType):
        others = [kind for kind in get_args(hint) if kind is not type(None)]
        hint = others[0] if len(others) == 1 else hint
    return hint, annotations


def check(config: Any) -> None:
    """Check the fields of a dataclass against their annotations; None is always allowed.

    Raises:
        ValueError: If a number is out of its :class:`Within`, or a value is none of its ``Literal``.
    """
    for name, hint in hints_of(type(config)).items():
        value = getattr(config, name)
        kind, annotations = split(hint)
        if value is None:
            continue
        if get_origin(kind) is Literal and value not in get_args(kind):
            *first, last = (f'"{choice}"' for choice in get_args(kind))
            raise ValueError(f"{name} must be {', '.join(first)} or {last}, got {value!r}")
        for interval in annotations:
            if isinstance(interval, Within) and value not in interval:
                raise ValueError(f"{name} must be {interval}, got {value}")


def documented(subject: Any) -> dict[str, str]:
    """Sentences of Google docstrings about each argument, as plain text: of a function, of a class and of those it extends."""
    if inspect.ismethod(subject):
        return documented(subject.__self__) | documented(subject.__func__)
    found: dict[str, str] = {}
    for base in reversed(subject.__mro__) if isinstance(subject, type) else (subject,):
        name = ""
        _, _, section = inspect.cleandoc(base.__doc__ or "").partition("\nArgs:\n")
        for line in section.splitlines():
            if line and not line.startswith(" "):
                break
            entry = re.match(r"    (\w+): (.*)", line)
            if entry:
                name, found[entry[1]] = entry[1], entry[2]
            elif name and line.strip():
                found[name] += f" {line.strip()}"
    return {name: re.sub(r":\w+:(?=`)|``?", "", text) for name, text in found.items()}
