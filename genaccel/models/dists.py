# SPDX-License-Identifier: Apache-2.0
"""DISTS, an image distance by structure and texture (Ding, Ma, Wang, Simoncelli, arXiv:2004.07728).

VGG-16 whose maximum poolings are replaced by L2 poolings; the means (texture) and covariances
(structure) of its maps, and of the image itself, are compared channel by channel. The trunk is
torchvision's. The trained weights of the channels are in the PyPI package ``DISTS-pytorch``; only its
weight file is read, its code is never imported.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from genaccel.models.torchvision_weights import load_features

_DISTRIBUTION = "DISTS-pytorch"
_HEADS_FILE = "weights.pt"
_HEADS_SHA256 = "f5e65c96230b7f6ca995691647d482237e4cab8a50c5c4a5784f219ef0748218"
INSTALL_COMMAND = f"pip install --no-deps {_DISTRIBUTION}==0.1"

# The image itself, then relu1_2, relu2_2, relu3_3, relu4_3 and relu5_3.
_CHANNELS = (3, 64, 128, 256, 512, 512)
_DEPTHS = (2, 2, 3, 3, 3)

# Mean and deviation of ImageNet, for images in [0, 1].
_MEAN = (0.485, 0.456, 0.406)
_DEVIATION = (0.229, 0.224, 0.225)

# c1 and c2 of the paper, as in the published code.
_C1, _C2 = 1e-6, 1e-6

# Keeps the square root of L2 pooling differentiable where a map is zero.
_POOLING_FLOOR = 1e-12


def _l2_pool(x: Tensor) -> Tensor:
    """Halve ``[B, C, H, W]``: the root of the squares' Hanning-weighted mean; borders count as zeros."""
    channels = x.shape[1]
    taps = torch.tensor([0.25, 0.5, 0.25], dtype=x.dtype, device=x.device)
    kernel = torch.outer(taps, taps).expand(channels, 1, 3, 3)  # [C, 1, 3, 3]
    power = F.conv2d(x.square(), kernel, stride=2, padding=1, groups=channels)
    return (power + _POOLING_FLOOR).sqrt()


class Dists(nn.Module):
    """Distance between images by structure and texture; 0 for equal images, below 1 for natural ones.

    A fresh instance has a random trunk and equal channel weights; :meth:`from_pretrained` loads the
    published weights and freezes them, so that as a training loss only the images receive gradients.

    Args:
        resize: Shrink images whose shorter side is longer than this to it, as piq does with 256. By
            default they are judged as they are, as in the codec literature; the two are not comparable.

    Raises:
        ValueError: If ``resize`` is not positive.

    Example:
        >>> metric = Dists.from_pretrained()  # doctest: +SKIP
        >>> distance = metric(reconstruction, original)  # [B, 3, H, W] in [0, 1] -> [B]  # doctest: +SKIP
    """

    mean: Tensor
    deviation: Tensor

    def __init__(self, resize: int | None = None) -> None:
        super().__init__()
        if resize is not None and resize < 1:
            raise ValueError(f"resize must be at least 1 pixel, got {resize}")
        self.resize = resize
        self.convs = nn.ModuleList()
        width = _CHANNELS[0]
        for channels, depth in zip(_CHANNELS[1:], _DEPTHS, strict=True):
            for _ in range(depth):
                self.convs.append(nn.Conv2d(width, channels, 3, padding=1))
                width = channels
        # alpha weighs the means, beta the covariances.
        self.alpha = nn.Parameter(torch.ones(sum(_CHANNELS)))
        self.beta = nn.Parameter(torch.ones(sum(_CHANNELS)))
        self.register_buffer("mean", torch.tensor(_MEAN).view(1, 3, 1, 1))
        self.register_buffer("deviation", torch.tensor(_DEVIATION).view(1, 3, 1, 1))

    @classmethod
    def from_pretrained(
        cls,
        weights: str | os.PathLike[str] | None = None,
        heads: str | os.PathLike[str] | None = None,
        *,
        resize: int | None = None,
    ) -> Dists:
        """The metric with its published weights, frozen and in evaluation mode.

        Args:
            weights: torchvision's state dict of VGG-16; by default as
                :func:`genaccel.models.torchvision_weights.find_weights`.
            heads: The file ``weights.pt`` of DISTS; by default it is looked up in the installed
                distribution ``DISTS-pytorch``.
            resize: Longest shorter side, as for the class.

        Raises:
            FileNotFoundError: If a file is not there; the message says where to get it.
            ValueError: If ``weights`` holds another network, or ``heads`` is not the published file.
        """
        metric = cls(resize)
        # The small file first: it is the one that can be missing for good.
        metric._load_heads(Path(heads) if heads is not None else _installed_heads())
        metric._load_trunk(load_features("vgg16", weights))
        return metric.eval().requires_grad_(False)

    def _load_heads(self, path: Path) -> None:
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        if digest != _HEADS_SHA256:
            raise ValueError(
                f"{path} is not the published weight file of DISTS: SHA-256 is {digest}, "
                f"expected {_HEADS_SHA256}"
            )
        published = torch.load(path, map_location="cpu", weights_only=True)
        with torch.no_grad():
            self.alpha.copy_(published["alpha"].flatten())
            self.beta.copy_(published["beta"].flatten())

    def _load_trunk(self, features: dict[str, Tensor]) -> None:
        # Positions in torchvision's Sequential: each convolution has a ReLU, each stage a pooling.
        names: list[str] = []
        position = 0
        for depth in _DEPTHS:
            for _ in range(depth):
                names += [f"{position}.weight", f"{position}.bias"]
                position += 2
            position += 1
        parameters = dict(zip(names, self.convs.parameters(), strict=True))
        wrong = {
            name
            for name in features.keys() | parameters.keys()
            if name not in features
            or name not in parameters
            or features[name].shape != parameters[name].shape
        }
        if wrong:
            raise ValueError(f"the weights are not those of vgg16: features.{min(wrong)} differs")
        with torch.no_grad():
            for name, parameter in parameters.items():
                parameter.copy_(features[name])

    def features(self, images: Tensor) -> list[Tensor]:
        """Features of images that distances are computed from, for comparing one image with many.

        Args:
            images: ``[B, 3, H, W]`` in [0, 1].

        Returns:
            The image and five maps, ``[B, C, H / 2^k, W / 2^k]``.

        Raises:
            ValueError: If the shape is not that.
        """
        if images.ndim != 4 or images.shape[1] != 3 or images.numel() == 0:
            raise ValueError(f"images must have shape [B, 3, H, W], got {list(images.shape)}")
        x = images
        shorter = min(x.shape[2:])
        if self.resize is not None and shorter > self.resize:
            # By the factor itself and without a low-pass filter, as in piq 0.8.
            x = F.interpolate(
                x,
                scale_factor=self.resize / shorter,
                mode="bilinear",
                align_corners=False,
                recompute_scale_factor=False,
            )
        maps = [x]
        convs = iter(self.convs)
        h = (x - self.mean) / self.deviation
        for stage, depth in enumerate(_DEPTHS):
            if stage:
                h = _l2_pool(h)
            for _ in range(depth):
                h = F.relu(next(convs)(h))
            maps.append(h)
        return maps

    def distance(self, features_a: Sequence[Tensor], features_b: Sequence[Tensor]) -> Tensor:
        """Distances ``[B]`` between two results of :meth:`features`; a batch of 1 is compared with all."""
        total_weight = self.alpha.sum() + self.beta.sum()
        alphas = (self.alpha / total_weight).split(_CHANNELS)
        betas = (self.beta / total_weight).split(_CHANNELS)
        total: Tensor | float = 0.0
        for alpha, beta, map_a, map_b in zip(alphas, betas, features_a, features_b, strict=True):
            texture, structure = _dissimilarities(map_a, map_b)  # [B, C] each
            total = total + texture @ alpha + structure @ beta
        return torch.as_tensor(total)

    def forward(self, images_a: Tensor, images_b: Tensor) -> Tensor:
        """Distances between images; the order of the two does not matter.

        Args:
            images_a: ``[B, 3, H, W]`` in [0, 1].
            images_b: The same shape.

        Returns:
            Distances, ``[B]``.

        Raises:
            ValueError: If the shapes differ or are no such images.
        """
        if images_a.shape != images_b.shape:
            raise ValueError(
                f"images must have the same shape, got {list(images_a.shape)} and {list(images_b.shape)}"
            )
        return self.distance(self.features(images_a), self.features(images_b))


def _dissimilarities(map_a: Tensor, map_b: Tensor) -> tuple[Tensor, Tensor]:
    """One minus the texture and structure similarities of two maps ``[B, C, H, W]``, each ``[B, C]``.

    The ones cancel on paper: 1 - (2ab + c) / (a^2 + b^2 + c) = (a - b)^2 / (a^2 + b^2 + c), and likewise
    for the covariance. So nothing is lost to rounding when the images are alike.
    """
    kind = torch.promote_types(
        map_a.dtype, torch.float32
    )  # sums of squares overflow half precision
    a, b = map_a.to(kind), map_b.to(kind)
    mean_a, mean_b = a.mean((2, 3), keepdim=True), b.mean((2, 3), keepdim=True)
    a, b = a - mean_a, b - mean_b
    texture = (mean_a - mean_b).square() / (mean_a.square() + mean_b.square() + _C1)
    variances = a.square().mean((2, 3)) + b.square().mean((2, 3))
    return texture.flatten(1), (a - b).square().mean((2, 3)) / (variances + _C2)


def _installed_heads() -> Path:
    try:
        files = importlib.metadata.files(_DISTRIBUTION) or []
    except importlib.metadata.PackageNotFoundError:
        files = []
    # The package declares the file as data beside the environment; newer installers copy it elsewhere.
    candidates = [Path(str(file.locate())) for file in files if file.name == _HEADS_FILE]
    if files:
        candidates.append(Path(sys.prefix) / _HEADS_FILE)
    for path in candidates:
        if path.is_file():
            return path
    raise FileNotFoundError(
        f"the channel weights of DISTS are not installed: run `{INSTALL_COMMAND}`, "
        f"or give the path of its file {_HEADS_FILE}"
    )
