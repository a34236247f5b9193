# SPDX-License-Identifier: Apache-2.0
"""``genaccel convert``: other people's checkpoints as models of ours."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(help="Convert other people's checkpoints.", no_args_is_help=True)


@app.callback()
def convert() -> None:
    """Convert other people's checkpoints."""


@app.command()
def rdvq(
    checkpoint: Annotated[
        Path, typer.Argument(metavar="CHECKPOINT", help="File of the RDVQ release (torch.save).")
    ],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Folder to make.")],
) -> None:
    """The autoencoder, codebook and entropy model of an RDVQ checkpoint (251.8 M parameters)."""
    from genaccel.codec.training.convert_rdvq import ENTROPY_FOLDER, convert_rdvq

    report = convert_rdvq(checkpoint, out)
    typer.echo(
        f"{report.folder}: autoencoder, {report.autoencoder_parameters / 1e6:.1f} M parameters"
    )
    typer.echo(
        f"{report.folder / ENTROPY_FOLDER}: entropy model, {report.entropy_parameters / 1e6:.1f} M parameters"
    )
    if report.ignored:
        typer.echo(f"not needed, left out: {', '.join(report.ignored)}")
    for note in report.notes:
        typer.echo(f"warning: {note}", err=True)
