# SPDX-License-Identifier: Apache-2.0
"""The distance by which commands compare images, where its weights are installed."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from genaccel.sampling.distances import Distance


def load_st_lpips(wanted: bool | None, device: str) -> Distance | None:
    """ST-LPIPS (vgg) of two images, or None if it is not wanted, or not asked for and not at hand.

    Raises:
        typer.BadParameter: If it is asked for and its weights are missing.
    """
    if wanted is False:
        return None
    import torch

    from genaccel.eval.st_lpips import StLpipsOfImages
    from genaccel.models.st_lpips import StLpips

    try:
        return StLpipsOfImages(StLpips.from_pretrained("vgg").to(torch.device(device)))
    except FileNotFoundError as error:
        if wanted:
            raise typer.BadParameter(str(error)) from error
        typer.echo(f"without the ST-LPIPS column: {error}", err=True)
        return None
