# SPDX-License-Identifier: Apache-2.0
"""A group of commands that imports a command's module when it is called, and not before."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from functools import reduce
from typing import Any, NamedTuple

import typer
from typer.core import TyperCommand, TyperGroup


class Subcommand(NamedTuple):
    """One row of a group's table.

    Attributes:
        name: As typed.
        module: Where the command is.
        help: Its line in the group's help.
        is_group: Whether it has commands of its own.
        attribute: Name in the module, dotted below a class: a ``typer.Typer``, or a function with typer's annotations.
        make: Makes that function of what is found and of the help.
    """

    name: str
    module: str
    help: str
    is_group: bool = False
    attribute: str = "app"
    make: Callable[[Any, str], Callable[..., None]] | None = None


class LazyGroup(TyperGroup):
    """Knows its commands by name and help line.

    Attributes:
        rows: The table; set by :func:`lazy_group`.
    """

    rows: Sequence[Subcommand] = ()

    def __init__(self, **attributes: Any) -> None:
        super().__init__(**attributes)
        for row in self.rows:
            self.add_command(TyperCommand(name=row.name, help=row.help))

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Put the real command in the place of its stand-in."""
        for row in self.rows:
            if args[0] == row.name:
                self.add_command(load(row), row.name)
        return super().resolve_command(ctx, args)


def lazy_group(rows: Sequence[Subcommand]) -> type[LazyGroup]:
    """The group of a table, for ``typer.Typer(cls=...)``."""
    return type("LazyGroup", (LazyGroup,), {"rows": rows})


def load(row: Subcommand) -> Any:
    """The real command of a row, out of its module."""
    found: Any = importlib.import_module(row.module)
    found = reduce(getattr, row.attribute.split("."), found)
    if row.make is not None:
        found = row.make(found, row.help)
    if not isinstance(found, typer.Typer):
        app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
        app.command(row.name, help=found.__doc__ or row.help)(found)
        found = app
    group = typer.main.get_group(found)
    # Not typer's get_command: it would add options that install completion for a program of the command's name.
    return group if row.is_group else next(iter(group.commands.values()))
