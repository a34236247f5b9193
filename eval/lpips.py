# SPDX-License-Identifier: Apache-2.0
"""LPIPS 0.1 (Zhang et al., arXiv:1801.03924) between 8-bit images: the package ``lpips`` on files.

The package brings its linear heads; its trunks are torchvision's classifiers, whose weights are found by
:mod:`genaccel.models.torchvision_weights`. Values of different trunks are not comparable.
"""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import numpy as np
import torch
import typer
from numpy.typing import NDArray
from torch import Tensor, nn

from genaccel.eval._pairs.image_tensors import require_side, to_unit_range
from genaccel.eval._pairs.pair_metrics import PairedMetric, paired_command
from genaccel.eval.commands import Device, Weights
from genaccel.eval.devices import device_by_name, exact_convolutions
from genaccel.eval.metrics import METRICS
from genaccel.models.torchvision_weights import find_weights, identify_weights, load_features

LpipsNet = Literal["alex", "vgg", "squeeze"]

_CLASSIFIERS = {"alex": "alexnet", "vgg": "vgg16", "squeeze": "squeezenet1_1"}

# The smallest sides that leave each trunk's last map one pixel.
MIN_SIDE = {"alex": 31, "vgg": 16, "squeeze": 17}


class LpipsOfImages:
    """LPIPS with its weights, on the CPU or a GPU; made by :func:`load_lpips`.

    Args:
        metric: An ``lpips.LPIPS`` in evaluation mode.
        net: Its trunk.
    """

    def __init__(self, metric: nn.Module, net: LpipsNet) -> None:
        self.metric = metric.to(memory_format=torch.channels_last)  # faster on a CPU
        self.net = net

    @torch.inference_mode()
    def distances(self, images_a: Tensor, images_b: Tensor) -> Tensor:
        """Distances of two batches.

        Args:
            images_a: ``[B, 3, H, W]`` in [-1, 1]; at least 31 (alex), 17 (squeeze) or 16 (vgg) pixels a
                side.
            images_b: The same shape.

        Returns:
            Distances, ``[B]``, on the metric's device; an image's does not depend on its neighbours.

        Raises:
            ValueError: If the shapes differ or are no such images, or the images are too small.
        """
        if images_a.ndim != 4 or images_a.shape[1] != 3 or images_a.shape != images_b.shape:
            raise ValueError(
                "images must have the same shape [B, 3, H, W], "
                f"got {list(images_a.shape)} and {list(images_b.shape)}"
            )
        require_side(f"LPIPS ({self.net})", MIN_SIDE[self.net], *images_a.shape[2:])
        device = next(self.metric.parameters()).device
        with exact_convolutions():
            values: Tensor = self.metric(images_a.to(device), images_b.to(device))  # [B, 1, 1, 1]
        return values.flatten()

    def __call__(self, original: NDArray[np.uint8], reconstruction: NDArray[np.uint8]) -> float:
        """Distance of two images ``[H, W, 3]``; 0 for equal images.

        Raises:
            ValueError: As :meth:`distances`.
        """
        return float(self.distances(to_unit_range(original), to_unit_range(reconstruction)))


def load_lpips(
    net: LpipsNet = "vgg",
    weights: str | os.PathLike[str] | None = None,
    device: torch.device | str = "cpu",
) -> LpipsOfImages:
    """LPIPS with its published weights.

    Args:
        net: Trunk. The literature on compression reports ``"alex"`` and ``"vgg"``.
        weights: File with torchvision's state dict of the trunk; by default as
            :func:`genaccel.models.torchvision_weights.find_weights`.
        device: Where the network runs.

    Raises:
        ImportError: If ``lpips`` or torchvision is missing or broken.
        FileNotFoundError: If the trunk's weights cannot be found; the message says where to get them.
        ValueError: If ``net`` is none of the three, or the file holds another network.

    Example:
        >>> lpips = load_lpips("alex")  # doctest: +SKIP
        >>> lpips(original, reconstruction)  # uint8 [H, W, 3]  # doctest: +SKIP
    """
    if net not in get_args(LpipsNet):
        raise ValueError(f'net must be "alex", "vgg" or "squeeze", got {net!r}')
    trunk = load_features(_CLASSIFIERS[net], weights)
    metric, heads = _package_metric(net)
    state = dict(heads)
    for name, value in metric.state_dict().items():
        if name.startswith("net."):
            entry = name.split(".", 2)[2]  # net.slice2.3.weight -> 3.weight, as in the classifier
            if entry not in trunk or trunk[entry].shape != value.shape:
                raise _wrong_network(net, entry)
            state[name] = trunk.pop(entry)
        elif name.startswith("lins."):  # the heads once more, in a list
            state[name] = heads[f"lin{name.removeprefix('lins.')}"]
    if trunk:
        raise _wrong_network(net, min(trunk))
    metric.load_state_dict(state, strict=True, assign=True)
    return LpipsOfImages(metric.requires_grad_(False).to(device), net)


def _wrong_network(net: str, entry: str) -> ValueError:
    return ValueError(f"the weights are not those of {_CLASSIFIERS[net]}: features.{entry} differs")


def _package_metric(net: str) -> tuple[nn.Module, dict[str, Any]]:
    """The package's module without values, and the entries of its state that the package brings."""
    try:
        import lpips
    # A torchvision of another torch breaks with a RuntimeError.
    except (ImportError, RuntimeError) as error:
        raise ImportError(
            f"LPIPS needs lpips and torchvision ({error}): pip install 'genaccel[eval]'"
        ) from error
    with warnings.catch_warnings():
        # The package builds its trunk by arguments that torchvision has renamed.
        for message in ("The parameter 'pretrained' is", "Arguments other than a weight enum"):
            warnings.filterwarnings("ignore", message=message, category=UserWarning)
        # On the meta device: filling VGG-16 and its unused classifier with noise takes seconds.
        with torch.device("meta"):
            metric = lpips.LPIPS(net=net, pretrained=False, pnet_rand=True, verbose=False)
    heads = torch.load(
        Path(lpips.__file__).parent / "weights" / "v0.1" / f"{net}.pth",
        map_location="cpu",
        weights_only=True,
    )
    constants = {f"scaling_layer.{k}": v for k, v in lpips.ScalingLayer().state_dict().items()}
    return metric, {**heads, **constants}


@paired_command
def main(
    net: Annotated[LpipsNet, typer.Option(help="Trunk of the metric.")] = "vgg",
    weights: Weights = None,
    device: Device = "cpu",
) -> PairedMetric:
    """LPIPS between two folders of images, matched by file stem."""
    classifier = _CLASSIFIERS[net]
    path = find_weights(classifier, weights)
    function = load_lpips(net, path, device_by_name(device))
    digest, warnings = identify_weights(classifier, path)
    return PairedMetric(
        metric=METRICS["lpips"].metric.variant(net),
        function=function,
        settings={
            "device": device,
            "weights": str(weights or classifier),
            "weights_sha256": digest,
        },
        packages=["lpips", "torchvision"],
        warnings=warnings,
    )


if __name__ == "__main__":
    typer.run(main)
