# SPDX-License-Identifier: Apache-2.0
"""The distance by which ``tune`` and ``accelerate`` compare samples."""

from __future__ import annotations

from typing import Any

import typer


def load_distance(wanted: bool | None, device: str) -> Any:
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
