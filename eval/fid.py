# SPDX-License-Identifier: Apache-2.0
"""Frechet Inception distance (Heusel et al., arXiv:1706.08500), equal to pytorch-fid's.

The network's weights are found where pytorch-fid keeps them, or downloaded once.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from genaccel.eval._sets.extractors import Extractor, Prepare, Resize, load_weights, make_extractor
from genaccel.eval._sets.frechet import (
    FEW_IMAGES,
    few_images_warning,
    frechet_distance,
    frechet_limit,
)
from genaccel.eval._sets.set_features import SetFeatures
from genaccel.eval._sets.set_metrics import (
    SetMetric,
    SetValue,
    set_command,
)
from genaccel.eval.commands import Device, Weights
from genaccel.eval.metrics import METRICS
from genaccel.models.fid_inception import INPUT_SIDE, FidDimensions, FidInception
from genaccel.models.torchvision_weights import find_weights

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
    return make_extractor(
        f"inception-2015-12-05/{dimensions}",
        network,
        dimensions=dimensions,
        prepare=Prepare(side=INPUT_SIDE, resize=resize),
        weights=path,
        device=device,
    )


def frechet_value(real: SetFeatures, fake: SetFeatures) -> SetValue:
    """Frechet distance of two sets; for few generated images also its limit for many.

    Raises:
        ValueError: If the numbers of features differ.
    """
    value = frechet_distance(real.statistics, fake.statistics)
    counts = [features.statistics.num_images for features in (real, fake)]
    known = [count for count in counts if count is not None]
    warnings = few_images_warning(min(known)) if known else []
    details: dict[str, float | int | str | None] = {}
    num_fake = counts[1]
    if fake.features is not None and num_fake is not None and num_fake < FEW_IMAGES:
        limit = frechet_limit(real.statistics, fake.features)
        if limit is not None:
            details = {"at_infinitely_many_images": limit.value, "bias": limit.bias}
    return SetValue(value=value, details=details, warnings=warnings)


@set_command
def main(
    weights: Weights = None,
    device: Device = "cpu",
    resize: ResizeOption = "bilinear",
    dimensions: Annotated[
        int, typer.Option(help="Features of the network: 2048 (FID), 768, 192 or 64.")
    ] = 2048,
) -> SetMetric:
    """FID between two sets of images; the same number as pytorch-fid's."""
    extractor = load_inception(weights, device=device, resize=resize, dimensions=dimensions)  # type: ignore[arg-type]
    fid = METRICS["fid"].metric
    return SetMetric(
        metric=fid
        if dimensions == 2048
        else fid.variant(str(dimensions), f"{dimensions} features"),
        extractor=extractor,
        function=frechet_value,
    )


if __name__ == "__main__":
    typer.run(main)
