# SPDX-License-Identifier: Apache-2.0
"""``genaccel info``."""

from __future__ import annotations

import dataclasses
import json as json_format
from pathlib import Path
from typing import Annotated

import typer

from genaccel.cli import options
from genaccel.cli.exit_codes import ExitCode, said
from genaccel.cli.streams import shown, standard_input
from genaccel.codec.format.limits import DEFAULT_MAX_PIXELS

app = typer.Typer()


@app.command()
def info(
    files: Annotated[list[str], typer.Argument(metavar="FILE...", help=".gac files; - is stdin.")],
    json: options.Json = False,
    max_pixels: options.MaxPixels = DEFAULT_MAX_PIXELS,
) -> None:
    """Show what .gac files say about themselves, after checking their form and checksum."""
    from genaccel.codec.format.bounded_files import describe_file

    failed = 0
    for file in files:
        try:
            described = describe_file(
                standard_input() if file == options.STREAM else Path(file), max_pixels
            )
        except Exception as error:
            if len(files) == 1:
                raise
            typer.echo(shown(f"error: {file}: {said(error)}"), err=True)
            failed += 1
            continue
        values = dataclasses.asdict(described)
        if json:
            typer.echo(json_format.dumps({"input": file, **values}))
            continue
        model = described.model or (
            "outside the zoo" if described.model_number == 0 else "not in this version's zoo"
        )
        coded = "entropy model" if described.entropy_model else "static tables"
        if described.num_slices is not None:
            coded += f", first {described.num_slices} slices"
        if described.half_size:
            coded += ", at half size"
        if described.alpha_bytes:
            coded += f", alpha plane of {described.alpha_bytes} bytes"
        if described.metadata_bytes:
            coded += f", metadata of {described.metadata_bytes} bytes"
        line = (
            f"{file}: {described.width}x{described.height}, {described.file_bytes} bytes, "
            f"{described.bits_per_pixel:.3f} bits per pixel, format version {described.format_version} "
            f"({coded}), "
            f"model {model} (number {described.model_number}, digest {described.model_digest})"
        )
        typer.echo(shown(line))
        for name, text in described.metadata.items():
            # As Python writes it: no line breaks, nothing that turns the direction of writing.
            typer.echo(shown(f"  {name.replace('_', ' ')}: {text!r}"))
    if failed:
        raise typer.Exit(ExitCode.PARTIAL_FAILURE)
