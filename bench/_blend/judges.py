# SPDX-License-Identifier: Apache-2.0
"""Metrics by which blends are compared; none is a loss that any side was trained with, as far as is known."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from genaccel.eval.ssimulacra2 import ssimulacra2_of_images
from genaccel.eval.st_lpips import StLpipsOfImages
from genaccel.models.oxford_vgg16 import OxfordVgg16
from genaccel.models.st_lpips import StLpips
from genaccel.sampling.distances import psnr

Pixels = NDArray[np.uint8]
HIGHER_IS_BETTER = {"psnr": True, "ssimulacra2": True}
_STABILITY = 1e-6


class VggDistances:
    """Distances by the features of Oxford's VGG16, in the forms of LPIPS and of DISTS but with equal weights.

    Args:
        file: Its weights; by default those of the installed package.
    """

    def __init__(self, file: str | os.PathLike[str] | None = None) -> None:
        self.network = OxfordVgg16.from_pretrained(file)
        self._raw: list[Tensor] = []
        for number in (1, 3, 6, 9, 12):  # the last of each stage
            self.network.convs[number].register_forward_hook(self._keep)
        self._original: tuple[Pixels, list[Tensor], list[Tensor]] | None = None

    def _keep(self, _module: object, _inputs: object, output: Tensor) -> None:
        self._raw.append(functional.relu(output))

    @torch.inference_mode()
    def _features(self, picture: Pixels) -> tuple[list[Tensor], list[Tensor]]:
        planes = torch.from_numpy(picture).permute(2, 0, 1)[None].float() / 255
        self._raw = [planes]
        return self.network.features(planes), self._raw

    def __call__(self, original: Pixels, picture: Pixels) -> tuple[float, float]:
        """Both distances of a picture; the features of the last original are kept."""
        if self._original is None or self._original[0] is not original:
            self._original = original, *self._features(original)
        _, unit, raw = self._original
        found_unit, found_raw = self._features(picture)
        return float(OxfordVgg16.distance(found_unit, unit)), _dists_form(found_raw, raw)


def _dists_form(found: list[Tensor], expected: list[Tensor]) -> float:
    """One less the mean similarity of means and of structures, over the channels of each stage and the stages."""
    similarities = []
    for x, y in zip(found, expected, strict=True):
        x_mean, y_mean = (z.mean((2, 3), keepdim=True) for z in (x, y))
        x_var, y_var = ((z - m).square().mean((2, 3)) for z, m in ((x, x_mean), (y, y_mean)))
        covariance = ((x - x_mean) * (y - y_mean)).mean((2, 3))
        a, b = x_mean[..., 0, 0], y_mean[..., 0, 0]
        means = (2 * a * b + _STABILITY) / (a.square() + b.square() + _STABILITY)
        structures = (2 * covariance + _STABILITY) / (x_var + y_var + _STABILITY)
        similarities.append(float((means + structures).mean() / 2))
    return 1 - sum(similarities) / len(similarities)


def make_judges(
    vgg16: str | os.PathLike[str] | None, *, quick: bool
) -> Callable[[Pixels, Pixels], dict[str, float]]:
    """A function from an original and a picture to all metrics.

    Args:
        vgg16: As :class:`VggDistances` takes it.
        quick: Leave out ST-LPIPS by VGG16.
    """
    vgg = VggDistances(vgg16)
    trunks: tuple[Literal["alex", "vgg"], ...] = ("alex",) if quick else ("alex", "vgg")
    st_lpips = {net: StLpipsOfImages(StLpips.from_pretrained(net)) for net in trunks}

    def judge(original: Pixels, picture: Pixels) -> dict[str, float]:
        lpips_form, dists_form = vgg(original, picture)
        return {
            "vgg_lpips_form": lpips_form,
            "vgg_dists_form": dists_form,
            **{f"st_lpips_{net}": metric(original, picture) for net, metric in st_lpips.items()},
            "psnr": float(psnr(original, picture)),
            "ssimulacra2": ssimulacra2_of_images(original, picture),
        }

    return judge
