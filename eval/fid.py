# SPDX-License-Identifier: Apache-2.0
"""Frechet Inception distance (Heusel et al., arXiv:1706.08500), equal to pytorch-fid's.

The network's weights are found where pytorch-fid keeps them, or downloaded once.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Literal

import typer

from genaccel.eval._sets.extractors import Extractor, Prepare, Resize, load_weights, make_extractor
from genaccel.eval._sets.frechet_metric import Kid, frechet_metric
from genaccel.eval._sets.set_metrics import SetMetric, set_command
from genaccel.eval._sets.set_values import frechet_value
from genaccel.eval._sets.vision_transformers import TITLES, load_vision_transformer
from genaccel.eval.commands import Device, WeightsOrFolder
from genaccel.eval.metrics import METRICS
from genaccel.models.fid_inception import INPUT_SIDE, FidDimensions, FidInception
from genaccel.models.torchvision_weights import find_weights, identify_weights

__all__ = ["ResizeOption", "frechet_value", "load_inception", "main"]

ResizeOption = Annotated[
    Literal["bilinear", "antialias", "bicubic"],
    typer.Option(
        help="How images become 299x299: as pytorch-fid, as torchmetrics, or by Pillow's bicubic."
    ),
]


def load_inception(
    weights: Path | None = None,
    *,
    device: str = "cpu",
    resize: Resize = "bilinear",
    dimensions: FidDimensions = 2048,
) -> Extractor:
    """The network of FID.

    Args:
        weights: The file ``pt_inception-2015-12-05-6726825d.pth``, or another in its layout; by default
            it is looked up in torch's cache and downloaded.
        device: Where it runs.
        resize: How images become 299x299; ``"bilinear"`` is pytorch-fid's rule.
        dimensions: Which stage: 2048 for FID.

    Raises:
        FileNotFoundError: If the weights are neither here nor to be downloaded.
        ValueError: If the file holds other weights.
    """
    try:
        path = find_weights("fid_inception", weights)
    except FileNotFoundError as error:
        if weights is not None:
            raise
        raise FileNotFoundError(f"{error}; fd-mobilenet-v2 works offline") from error
    network = FidInception(dimensions)
    load_weights(network.load_published, path, "the Inception-v3 of FID")
    sha256, warnings = identify_weights("fid_inception", path)
    return make_extractor(
        f"inception-2015-12-05/{dimensions}",
        network,
        dimensions=dimensions,
        prepare=Prepare(side=INPUT_SIDE, resize=resize),
        sha256=sha256,
        warnings=warnings,
        device=device,
    )


@set_command
def main(
    features: Annotated[
        Literal["inception", "dinov2", "clip"],
        typer.Option(help="Network; the others take --weights FOLDER and are named in the result."),
    ] = "inception",
    weights: WeightsOrFolder = None,
    device: Device = "cpu",
    resize: ResizeOption = "bilinear",
    dimensions: Annotated[
        int, typer.Option(help="Features of the network: 2048 (FID), 768, 192 or 64.")
    ] = 2048,
    kid: Kid = False,
) -> SetMetric:
    """FID between two sets of images; the same number as pytorch-fid's."""
    fid = METRICS["fid"].metric
    if features == "inception":
        extractor = load_inception(weights, device=device, resize=resize, dimensions=dimensions)  # type: ignore[arg-type]
        metric = (
            fid if dimensions == 2048 else fid.variant(str(dimensions), f"{dimensions} features")
        )
    else:
        if dimensions != 2048:
            raise ValueError(f"--dimensions is for inception, and {TITLES[features]} has its own")
        extractor = load_vision_transformer(features, weights, device=device, resize=resize)
        metric = replace(fid, key=f"fd_{features}", title=f"FD-{TITLES[features]}")
    return frechet_metric(metric, extractor, with_kid=kid)


if __name__ == "__main__":
    typer.run(main)
