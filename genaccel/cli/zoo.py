# SPDX-License-Identifier: Apache-2.0
"""``genaccel zoo``."""

from __future__ import annotations

from typing import Annotated

import typer

from genaccel import zoo

app = typer.Typer(help="List the models that come with the package.", no_args_is_help=True)


@app.command("list")
def list_models() -> None:
    """Names and folders of the models."""
    for name in zoo.names():
        typer.echo(f"{name}\t{zoo.path(name)}")


@app.command()
def card(name: Annotated[str, typer.Argument(help="Name of a model.")]) -> None:
    """A model's card: data, command, figures, licence."""
    typer.echo(zoo.card(name))
