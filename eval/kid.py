# SPDX-License-Identifier: Apache-2.0
"""Kernel Inception distance (Binkowski et al., arXiv:1801.01401): unbiased, so it suits small sets."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Literal

import typer

from genaccel.eval._sets.extractors import Extractor, Resize
from genaccel.eval._sets.kernel import (
    gaussian_mmd,
    kernel_distance,
    kernel_value,
    polynomial_mmd,
)
from genaccel.eval._sets.set_features import SetFeatures
from genaccel.eval._sets.set_metrics import SetMetric, set_command
from genaccel.eval._sets.set_values import SetValue
from genaccel.eval._sets.vision_transformers import TITLES, load_vision_transformer
from genaccel.eval.commands import Device, WeightsOrFolder
from genaccel.eval.fd_mobilenet_v2 import load_mobilenet_v2
from genaccel.eval.fid import ResizeOption, load_inception
from genaccel.eval.metrics import METRICS

__all__ = ["Features", "kernel_distance", "load_features", "main", "polynomial_mmd"]

FeatureName = Literal["inception", "mobilenet_v2", "dinov2", "clip"]
Features = Annotated[
    FeatureName,
    typer.Option(
        help="Network: mobilenet_v2 works offline, dinov2 and clip take --weights FOLDER; "
        "the result names it."
    ),
]


def load_features(
    network: FeatureName, weights: Path | None, device: str, resize: Resize
) -> Extractor:
    """The extractor of an option ``--features``."""
    if network == "dinov2" or network == "clip":
        return load_vision_transformer(network, weights, device=device, resize=resize)
    if network == "mobilenet_v2":
        return load_mobilenet_v2(weights, device=device)
    return load_inception(weights, device=device, resize=resize)


@set_command
def main(
    features: Features = "inception",
    weights: WeightsOrFolder = None,
    device: Device = "cpu",
    resize: ResizeOption = "bilinear",
    subsets: Annotated[int, typer.Option(min=1, help="Random subsets.")] = 100,
    subset_size: Annotated[int, typer.Option(min=2, help="Images of each set in a subset.")] = 1000,
    subset_seed: Annotated[int, typer.Option(help="Of the subsets.")] = 0,
) -> SetMetric:
    """KID between two sets of images: unbiased, for small sets."""
    extractor = load_features(features, weights, device, resize)

    def evaluate(real: SetFeatures, fake: SetFeatures) -> SetValue:
        result = kernel_value(
            real, fake, num_subsets=subsets, subset_size=subset_size, seed=subset_seed
        )
        if features != "clip":
            return result
        cmmd = gaussian_mmd(real.of_each_image, fake.of_each_image)
        return replace(result, details={**result.details, "cmmd": cmmd})

    kid = METRICS["kid"].metric
    return SetMetric(
        # The I of its name is Inception's.
        metric=kid
        if features == "inception"
        else replace(kid, key=f"kd_{features}", title=f"KD-{TITLES.get(features, features)}"),
        extractor=extractor,
        function=evaluate,
        needs_features=True,
        settings={"subsets": subsets, "subset_size": subset_size, "subset_seed": subset_seed},
    )


if __name__ == "__main__":
    typer.run(main)
