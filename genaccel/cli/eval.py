# SPDX-License-Identifier: Apache-2.0
"""``genaccel eval``: image quality between two folders."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

app = typer.Typer(help="Measure image quality.", no_args_is_help=True)

Originals = Annotated[Path, typer.Argument(help="Folder of original images.")]
Reconstructions = Annotated[Path, typer.Argument(help="Folder of decoded images.")]
Intersect = Annotated[bool, typer.Option("--intersect", help="Leave out files without a partner.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]


@app.command()
def psnr(
    originals: Originals,
    reconstructions: Reconstructions,
    intersect: Intersect = False,
    json: Json = False,
) -> None:
    """PSNR in dB between two folders of images, matched by file stem."""
    from genaccel.eval import psnr as metric

    metric.main(originals, reconstructions, intersect=intersect, as_json=json)


@app.command("ms-ssim")
def ms_ssim(
    originals: Originals,
    reconstructions: Reconstructions,
    intersect: Intersect = False,
    json: Json = False,
) -> None:
    """MS-SSIM between two folders of images, matched by file stem."""
    from genaccel.eval import ms_ssim as metric

    metric.main(originals, reconstructions, intersect=intersect, as_json=json)


@app.command("st-lpips")
def st_lpips(
    originals: Originals,
    reconstructions: Reconstructions,
    net: Annotated[Literal["alex", "vgg"], typer.Option(help="Trunk of the metric.")] = "vgg",
    weights: Annotated[
        Path | None, typer.Option(help="Weight file, instead of the installed one.")
    ] = None,
    intersect: Intersect = False,
    json: Json = False,
) -> None:
    """ST-LPIPS between two folders of images, matched by file stem."""
    from genaccel.eval import st_lpips as metric

    metric.main(
        originals,
        reconstructions,
        net=net,
        weights=weights,
        intersect=intersect,
        as_json=json,
    )
