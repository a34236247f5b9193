# SPDX-License-Identifier: Apache-2.0
"""Commands out of two functions: one with the arguments that a family of metrics shares, one with a metric's own."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import typer

Weights = Annotated[
    Path | None, typer.Option(help="Weight file, instead of the installed or downloaded one.")
]
Device = Annotated[str, typer.Option(help="Where the network runs: cpu, cuda, cuda:1.")]
Strict = Annotated[
    bool, typer.Option("--strict", help="Stop at the first file that cannot be used.")
]
Convert = Annotated[
    bool, typer.Option("--convert", help="Put transparency on white, take 8 bits of deep samples.")
]
Workers = Annotated[
    int | None, typer.Option(min=0, help="Processes that decode; chosen by itself by default.")
]
Label = Annotated[str, typer.Option(help="Name of the run in reports.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]
AsCsv = Annotated[bool, typer.Option("--csv", help="Print comma-separated values.")]


def combine(load: Callable[..., Any], body: Callable[..., None]) -> Callable[..., None]:
    """A command that calls ``body(load, own_arguments, **shared_arguments)``.

    Its arguments are those of ``body`` after the first two, with those of ``load`` after the positional
    ones. Its help is the docstring of ``load``, which it also carries as its attribute ``load``.

    Args:
        load: Keywords with typer's annotations and defaults.
        body: Two parameters, then keywords with typer's annotations.
    """
    own = inspect.signature(load).parameters
    shared = dict(list(inspect.signature(body).parameters.items())[2:])
    hints = {
        **get_type_hints(body, include_extras=True),
        **get_type_hints(load, include_extras=True),
    }

    @functools.wraps(load)
    def command(**arguments: Any) -> None:
        common = {name: arguments.pop(name) for name in shared if name in arguments}
        body(load, arguments, **common)

    leading = [p for p in shared.values() if p.default is inspect.Parameter.empty]
    trailing = [p for p in shared.values() if p.default is not inspect.Parameter.empty]
    parameters = [
        p.replace(annotation=hints[p.name], kind=inspect.Parameter.KEYWORD_ONLY)
        for p in (*leading, *own.values(), *trailing)
    ]
    # typer reads the signature and the annotations.
    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    command.__annotations__ = {p.name: p.annotation for p in parameters}
    command.load = load  # type: ignore[attr-defined]
    return command
