# SPDX-License-Identifier: Apache-2.0
"""Base of the mixins for diffusers pipelines: it keeps the call's signature, and the name a pipeline is saved under."""

from __future__ import annotations

import functools
import inspect
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar


@dataclass(frozen=True, kw_only=True, slots=True)
class Flag:
    """An argument that a mixin adds to the call of a pipeline.

    Attributes:
        name: Name of the argument; keyword only, None by default.
        annotation: Its type.
        documentation: Lines for the call's list of arguments, as diffusers writes them.
    """

    name: str
    annotation: Any
    documentation: tuple[str, ...]


class PipelineMixin:
    """Base of mixins that go before a diffusers pipeline in the list of bases.

    A mixin overrides ``__call__`` with its flags and ``**kwargs``, and passes the rest on with ``super()``. The class
    that is made with it gets a ``__call__`` with the stock pipeline's signature and documentation, and the flags.

    A pipeline is saved under the name of the stock class, so that a folder needs no genaccel to be loaded.
    """

    flags: ClassVar[tuple[Flag, ...]] = ()

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        mixins, stock = _callables(cls)
        if mixins and stock is not None and "__call__" not in vars(cls):
            setattr(cls, "__call__", _documented(mixins, stock))  # noqa: B010 - mypy has no such attribute

    def to_json_string(self) -> str:
        """The configuration, under the name of the class that stock diffusers knows."""
        values = json.loads(super().to_json_string())  # type: ignore[misc]
        values["_class_name"] = next(
            base.__name__
            for base in type(self).__mro__
            if _is_pipeline(base) and not issubclass(base, PipelineMixin)
        )
        return json.dumps(values, indent=2, sort_keys=True) + "\n"


def stock_call(cls: type) -> Callable[..., Any]:
    """The ``__call__`` of the stock pipeline below the mixins.

    Raises:
        TypeError: If there is none.
    """
    for base in cls.__mro__:
        if (
            _is_pipeline(base)
            and not issubclass(base, PipelineMixin)
            and (call := vars(base).get("__call__"))
        ):
            return call
    raise TypeError(f"{cls.__name__} has no diffusers pipeline among its bases")


def _is_pipeline(base: type) -> bool:
    from diffusers import DiffusionPipeline

    return issubclass(base, DiffusionPipeline)


def _callables(cls: type) -> tuple[list[type[PipelineMixin]], Callable[..., Any] | None]:
    """The mixins that a call of this class goes through first, and the call that they pass it on to."""
    mixins: list[type[PipelineMixin]] = []
    for base in cls.__mro__[1:]:
        call = vars(base).get("__call__")
        # A mixin may have flags of its own for a call that it inherits.
        if call is None and (base is PipelineMixin or "flags" not in vars(base)):
            continue
        if not issubclass(base, PipelineMixin) or _is_pipeline(base):
            return mixins, call
        mixins.append(base)
    return mixins, None


def _documented(
    mixins: Sequence[type[PipelineMixin]], stock: Callable[..., Any]
) -> Callable[..., Any]:
    """The first mixin's call, with the stock pipeline's signature and documentation."""
    first: Any = mixins[0]

    @functools.wraps(stock)
    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        return first.__call__(self, *args, **kwargs)

    signature = inspect.signature(stock)
    flags = [flag for mixin in mixins for flag in mixin.flags]
    parameters = list(signature.parameters.values())
    has_kwargs = bool(parameters) and parameters[-1].kind is inspect.Parameter.VAR_KEYWORD
    place = len(parameters) - has_kwargs
    parameters[place:place] = [
        inspect.Parameter(
            flag.name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=flag.annotation
        )
        for flag in flags
    ]
    call.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    call.__doc__ = _with_arguments(
        stock.__doc__ or "", [line for flag in flags for line in flag.documentation]
    )
    return call


def _with_arguments(text: str, lines: Sequence[str]) -> str:
    """A docstring whose list of arguments begins with the flags."""
    heading = re.search(r"^([ ]*)(?:Args|Parameters|Arguments):[ ]*\n", text, re.M)
    if heading is None:
        return "\n".join([text.rstrip(), "", "Args:", *(f"    {line}" for line in lines)])
    indent = heading[1] + "    "
    added = "".join(f"{indent}{line}\n" for line in lines)
    return text[: heading.end()] + added + text[heading.end() :]
