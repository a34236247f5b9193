# SPDX-License-Identifier: Apache-2.0
"""ST-LPIPS: a learned perceptual distance that tolerates shifts of a pixel (Ghildyal and Liu, arXiv:2207.13686).

The distance is that of LPIPS (arXiv:1801.03924), with trunks whose every subsampling is a stride-1
operation followed by a blur and which were trained from scratch on the perceptual task. The published
weights, trunks and heads, are in the PyPI package ``stlpips-pytorch``; only its weight files are read,
its code is never imported.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

StLpipsNet = Literal["alex", "vgg"]

_DISTRIBUTION = "stlpips-pytorch"
_WEIGHT_FILES: dict[str, str] = {
    "alex": "stlpips_pytorch/weights/vST0.0/alex_shift_tolerant.pth",
    "vgg": "stlpips_pytorch/weights/vST0.0/vgg_shift_tolerant.pth",
}
_WEIGHT_SHA256: dict[str, str] = {
    "alex": "b356b382f96010f77d085ee8343ecd9fd322d0a56e8de2b2d0549fafcad8b9ee",
    "vgg": "44597da68f49c1837c100ff52299050f274d102eb102e5837178c79be6f0e250",
}
INSTALL_COMMAND = f"pip install --no-deps {_DISTRIBUTION}==0.0.2"

# Reflecting two pixels needs three; these are the smallest sides whose last blurred map still has three.
_MIN_SIDE: dict[str, int] = {"alex": 21, "vgg": 18}

# The mean and deviation of ImageNet colours, for images in [-1, 1]; part of LPIPS since its version 0.1.
_SHIFT = (-0.030, -0.088, -0.188)
_SCALE = (0.458, 0.448, 0.450)

# Keeps the square root differentiable where all channels are zero; its root is LPIPS' own 1e-10.
_SQUARED_NORM_FLOOR = 1e-20


def _blur(x: Tensor) -> Tensor:
    """Halve ``[B, C, H, W]`` through the binomial filter [1 2 1]^2 / 16 with two reflected pixels a side."""
    channels = x.shape[1]
    taps = torch.tensor([0.25, 0.5, 0.25], dtype=x.dtype, device=x.device)
    kernel = torch.outer(taps, taps).expand(channels, 1, 3, 3)  # [C, 1, 3, 3]
    return F.conv2d(F.pad(x, (2, 2, 2, 2), mode="reflect"), kernel, stride=2, groups=channels)


class _AlexNetTrunk(nn.Module):
    """AlexNet with blurred subsampling; the blur after the first convolution comes before its ReLU."""

    channels = (64, 192, 384, 256, 256)

    def __init__(self) -> None:
        super().__init__()
        c1, c2, c3, c4, c5 = self.channels
        self.convs = nn.ModuleList(
            [
                nn.Conv2d(3, c1, 11, padding=2),
                nn.Conv2d(c1, c2, 5, padding=2),
                nn.Conv2d(c2, c3, 3, padding=1),
                nn.Conv2d(c3, c4, 3, padding=1),
                nn.Conv2d(c4, c5, 3, padding=1),
            ]
        )

    def forward(self, x: Tensor) -> list[Tensor]:
        conv1, conv2, conv3, conv4, conv5 = self.convs
        h1 = F.relu(_blur(conv1(x)))  # [B, 64, H/2, W/2]
        h2 = F.relu(conv2(_blur(F.max_pool2d(h1, 3, stride=1))))  # [B, 192, H/4, W/4]
        h3 = F.relu(conv3(_blur(F.max_pool2d(h2, 3, stride=1))))  # [B, 384, H/8, W/8]
        h4 = F.relu(conv4(h3))  # [B, 256, H/8, W/8]
        h5 = F.relu(conv5(h4))  # [B, 256, H/8, W/8]
        return [h1, h2, h3, h4, h5]


class _VggTrunk(nn.Module):
    """VGG-16 up to relu5_3, each pooling replaced by a stride-1 maximum and a blur."""

    channels = (64, 128, 256, 512, 512)
    _depths = (2, 2, 3, 3, 3)

    def __init__(self) -> None:
        super().__init__()
        self.convs = nn.ModuleList()
        width = 3
        for channels, depth in zip(self.channels, self._depths, strict=True):
            for _ in range(depth):
                self.convs.append(nn.Conv2d(width, channels, 3, padding=1))
                width = channels

    def forward(self, x: Tensor) -> list[Tensor]:
        maps: list[Tensor] = []
        convs = iter(self.convs)
        h = x
        for stage, depth in enumerate(self._depths):
            if stage:
                h = _blur(F.max_pool2d(h, 2, stride=1))
            for _ in range(depth):
                h = F.relu(next(convs)(h))
            maps.append(h)  # [B, channels[stage], H/2^stage, W/2^stage]
        return maps


class StLpips(nn.Module):
    """Perceptual distance between images; 0 for equal images, larger is further apart.

    A fresh instance has random trunks and heads of ones; :meth:`from_pretrained` loads the published
    weights and freezes them, so that as a training loss only the images receive gradients.

    Args:
        net: Trunk, ``"alex"`` (fast) or ``"vgg"``. Distances of the two are not comparable.

    Raises:
        ValueError: If ``net`` is neither.

    Example:
        >>> metric = StLpips.from_pretrained("vgg")
        >>> distance = metric(reconstruction, original)  # both [B, 3, H, W] in [-1, 1] -> [B]
    """

    shift: Tensor
    scale: Tensor

    def __init__(self, net: StLpipsNet = "vgg") -> None:
        super().__init__()
        if net not in get_args(StLpipsNet):
            raise ValueError(f'net must be "alex" or "vgg", got {net!r}')
        self.net = net
        self.trunk: _AlexNetTrunk | _VggTrunk = _AlexNetTrunk() if net == "alex" else _VggTrunk()
        self.heads = nn.ParameterList([torch.ones(c) for c in self.trunk.channels])
        self.register_buffer("shift", torch.tensor(_SHIFT).view(1, 3, 1, 1))
        self.register_buffer("scale", torch.tensor(_SCALE).view(1, 3, 1, 1))

    @classmethod
    def from_pretrained(
        cls, net: StLpipsNet = "vgg", weights: str | os.PathLike[str] | None = None
    ) -> StLpips:
        """The metric with its published weights, frozen and in evaluation mode.

        Args:
            net: Trunk, ``"alex"`` or ``"vgg"``.
            weights: The file ``<net>_shift_tolerant.pth``; by default it is looked up in the installed
                distribution ``stlpips-pytorch``.

        Raises:
            FileNotFoundError: If the weights are not there; the message says how to install them.
            ValueError: If the file is not the published one.
        """
        metric = cls(net)
        path = Path(weights) if weights is not None else _installed_weights(net)
        metric._load_published(path)
        return metric.eval().requires_grad_(False)

    def _load_published(self, path: Path) -> None:
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        if digest != _WEIGHT_SHA256[self.net]:
            raise ValueError(
                f"{path} is not the published weight file of ST-LPIPS ({self.net}): SHA-256 is {digest}, "
                f"expected {_WEIGHT_SHA256[self.net]}"
            )
        published = torch.load(path, map_location="cpu", weights_only=True)
        # Their names carry positions in nested Sequentials; the order of the entries is that of the layers.
        trunk = [
            t for name, t in published.items() if name.startswith("net.") and "filt" not in name
        ]
        with torch.no_grad():
            for parameter, value in zip(self.trunk.parameters(), trunk, strict=True):
                parameter.copy_(value)
            for i, head in enumerate(self.heads):
                head.copy_(published[f"lin{i}.model.1.weight"].flatten())

    def features(self, images: Tensor) -> list[Tensor]:
        """Unit-length features of images, for comparing one image with many.

        Args:
            images: ``[B, 3, H, W]`` in [-1, 1]; at least 21 (alex) or 18 (vgg) pixels a side.

        Returns:
            Five maps ``[B, C, h, w]``, of length 1 along ``C`` wherever they are not zero.

        Raises:
            ValueError: If the shape is not that, or the images are too small.
        """
        smallest = _MIN_SIDE[self.net]
        if images.ndim != 4 or images.shape[1] != 3:
            raise ValueError(f"images must have shape [B, 3, H, W], got {list(images.shape)}")
        if min(images.shape[2:]) < smallest:
            raise ValueError(
                f"ST-LPIPS ({self.net}) needs images of at least {smallest}x{smallest} pixels, "
                f"got {images.shape[3]}x{images.shape[2]}"
            )
        unit = []
        for h in self.trunk((images - self.shift) / self.scale):
            h = h.float()  # sums of squares overflow half precision
            unit.append(h * h.square().sum(1, keepdim=True).clamp_min(_SQUARED_NORM_FLOOR).rsqrt())
        return unit

    def distance(self, features_a: Sequence[Tensor], features_b: Sequence[Tensor]) -> Tensor:
        """Distances ``[B]`` between two results of :meth:`features`; a batch of 1 is compared with all."""
        total: Tensor | float = 0.0
        for head, a, b in zip(self.heads, features_a, features_b, strict=True):
            total = total + (a - b).square().mean((2, 3)) @ head.float()  # [B, C] @ [C] -> [B]
        return torch.as_tensor(total)

    def forward(self, images_a: Tensor, images_b: Tensor) -> Tensor:
        """Distances between images.

        Args:
            images_a: ``[B, 3, H, W]`` in [-1, 1].
            images_b: The same shape. As a loss, put the target here or there: nothing is recorded for
                images that need no gradient.

        Returns:
            Distances, ``[B]``.

        Raises:
            ValueError: If the shapes differ or the images are too small.
        """
        if images_a.shape != images_b.shape:
            raise ValueError(
                f"images must have the same shape, got {list(images_a.shape)} and {list(images_b.shape)}"
            )
        return self.distance(self.features(images_a), self.features(images_b))


def _installed_weights(net: str) -> Path:
    try:
        distribution = importlib.metadata.distribution(_DISTRIBUTION)
    except importlib.metadata.PackageNotFoundError:
        raise FileNotFoundError(
            f"the weights of ST-LPIPS are not installed: run `{INSTALL_COMMAND}`, or give the file's path"
        ) from None
    return Path(str(distribution.locate_file(_WEIGHT_FILES[net])))
