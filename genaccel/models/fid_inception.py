# SPDX-License-Identifier: Apache-2.0
"""The Inception-v3 of the Frechet Inception distance (Heusel et al., arXiv:1706.08500).

It is the network of 2015 that the first FID code used, as PyTorch weights by pytorch-fid: Inception-v3
whose average poolings leave the padding out, and whose last block pools by maximum. Its batch
normalisations are folded into the convolutions when the weights are loaded, which makes it faster and
changes features by rounding only.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

FidDimensions = Literal[64, 192, 768, 2048]

INPUT_SIDE = 299

# Rows of the classifier of 2015; torchvision's Inception-v3, of another training, has 1000.
_NUM_CLASSES = 1008

# Of every batch normalisation of Inception-v3.
_EPSILON = 0.001


def _through(x: Tensor, *convs: nn.Module) -> Tensor:
    for conv in convs:
        x = F.relu_(conv(x))
    return x


def _average(x: Tensor) -> Tensor:
    return F.avg_pool2d(x, 3, stride=1, padding=1, count_include_pad=False)


class _BlockA(nn.Module):
    """35x35: 1x1, 5x5 and double 3x3 branches."""

    def __init__(self, channels: int, pool_channels: int) -> None:
        super().__init__()
        self.branch1x1 = nn.Conv2d(channels, 64, 1)
        self.branch5x5_1 = nn.Conv2d(channels, 48, 1)
        self.branch5x5_2 = nn.Conv2d(48, 64, 5, padding=2)
        self.branch3x3dbl_1 = nn.Conv2d(channels, 64, 1)
        self.branch3x3dbl_2 = nn.Conv2d(64, 96, 3, padding=1)
        self.branch3x3dbl_3 = nn.Conv2d(96, 96, 3, padding=1)
        self.branch_pool = nn.Conv2d(channels, pool_channels, 1)

    def forward(self, x: Tensor) -> Tensor:  # [B, C, 35, 35] -> [B, 224 + pool, 35, 35]
        b5 = _through(x, self.branch5x5_1, self.branch5x5_2)
        b3 = _through(x, self.branch3x3dbl_1, self.branch3x3dbl_2, self.branch3x3dbl_3)
        pool = _through(_average(x), self.branch_pool)
        return torch.cat([_through(x, self.branch1x1), b5, b3, pool], 1)


class _BlockB(nn.Module):
    """35x35 to 17x17."""

    def __init__(self) -> None:
        super().__init__()
        self.branch3x3 = nn.Conv2d(288, 384, 3, stride=2)
        self.branch3x3dbl_1 = nn.Conv2d(288, 64, 1)
        self.branch3x3dbl_2 = nn.Conv2d(64, 96, 3, padding=1)
        self.branch3x3dbl_3 = nn.Conv2d(96, 96, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:  # [B, 288, 35, 35] -> [B, 768, 17, 17]
        b3 = _through(x, self.branch3x3dbl_1, self.branch3x3dbl_2, self.branch3x3dbl_3)
        return torch.cat([_through(x, self.branch3x3), b3, F.max_pool2d(x, 3, stride=2)], 1)


class _BlockC(nn.Module):
    """17x17: branches of 1x7 and 7x1 convolutions."""

    def __init__(self, width: int) -> None:
        super().__init__()
        along, across = (0, 3), (3, 0)
        self.branch1x1 = nn.Conv2d(768, 192, 1)
        self.branch7x7_1 = nn.Conv2d(768, width, 1)
        self.branch7x7_2 = nn.Conv2d(width, width, (1, 7), padding=along)
        self.branch7x7_3 = nn.Conv2d(width, 192, (7, 1), padding=across)
        self.branch7x7dbl_1 = nn.Conv2d(768, width, 1)
        self.branch7x7dbl_2 = nn.Conv2d(width, width, (7, 1), padding=across)
        self.branch7x7dbl_3 = nn.Conv2d(width, width, (1, 7), padding=along)
        self.branch7x7dbl_4 = nn.Conv2d(width, width, (7, 1), padding=across)
        self.branch7x7dbl_5 = nn.Conv2d(width, 192, (1, 7), padding=along)
        self.branch_pool = nn.Conv2d(768, 192, 1)

    def forward(self, x: Tensor) -> Tensor:  # [B, 768, 17, 17] -> the same
        b7 = _through(x, self.branch7x7_1, self.branch7x7_2, self.branch7x7_3)
        double = _through(x, self.branch7x7dbl_1, self.branch7x7dbl_2, self.branch7x7dbl_3)
        double = _through(double, self.branch7x7dbl_4, self.branch7x7dbl_5)
        pool = _through(_average(x), self.branch_pool)
        return torch.cat([_through(x, self.branch1x1), b7, double, pool], 1)


class _BlockD(nn.Module):
    """17x17 to 8x8."""

    def __init__(self) -> None:
        super().__init__()
        self.branch3x3_1 = nn.Conv2d(768, 192, 1)
        self.branch3x3_2 = nn.Conv2d(192, 320, 3, stride=2)
        self.branch7x7x3_1 = nn.Conv2d(768, 192, 1)
        self.branch7x7x3_2 = nn.Conv2d(192, 192, (1, 7), padding=(0, 3))
        self.branch7x7x3_3 = nn.Conv2d(192, 192, (7, 1), padding=(3, 0))
        self.branch7x7x3_4 = nn.Conv2d(192, 192, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:  # [B, 768, 17, 17] -> [B, 1280, 8, 8]
        b3 = _through(x, self.branch3x3_1, self.branch3x3_2)
        b7 = _through(x, self.branch7x7x3_1, self.branch7x7x3_2)
        b7 = _through(b7, self.branch7x7x3_3, self.branch7x7x3_4)
        return torch.cat([b3, b7, F.max_pool2d(x, 3, stride=2)], 1)


class _BlockE(nn.Module):
    """8x8: branches that end in a 1x3 and a 3x1 side by side."""

    def __init__(self, channels: int, *, pool: Literal["average", "maximum"]) -> None:
        super().__init__()
        self.pool = pool
        along, across = (0, 1), (1, 0)
        self.branch1x1 = nn.Conv2d(channels, 320, 1)
        self.branch3x3_1 = nn.Conv2d(channels, 384, 1)
        self.branch3x3_2a = nn.Conv2d(384, 384, (1, 3), padding=along)
        self.branch3x3_2b = nn.Conv2d(384, 384, (3, 1), padding=across)
        self.branch3x3dbl_1 = nn.Conv2d(channels, 448, 1)
        self.branch3x3dbl_2 = nn.Conv2d(448, 384, 3, padding=1)
        self.branch3x3dbl_3a = nn.Conv2d(384, 384, (1, 3), padding=along)
        self.branch3x3dbl_3b = nn.Conv2d(384, 384, (3, 1), padding=across)
        self.branch_pool = nn.Conv2d(channels, 192, 1)

    def forward(self, x: Tensor) -> Tensor:  # [B, C, 8, 8] -> [B, 2048, 8, 8]
        b3 = _through(x, self.branch3x3_1)
        double = _through(x, self.branch3x3dbl_1, self.branch3x3dbl_2)
        # The maximum is an oddity of the weights' first home; they were trained with it.
        pooled = _average(x) if self.pool == "average" else F.max_pool2d(x, 3, stride=1, padding=1)
        return torch.cat(
            [
                _through(x, self.branch1x1),
                _through(b3, self.branch3x3_2a),
                _through(b3, self.branch3x3_2b),
                _through(double, self.branch3x3dbl_3a),
                _through(double, self.branch3x3dbl_3b),
                _through(pooled, self.branch_pool),
            ],
            1,
        )


class FidInception(nn.Module):
    """Images to the pooled features of one stage.

    Args:
        dimensions: Number of features, which names the stage: 2048 after the last block (FID), 768
            before the auxiliary classifier, 192 and 64 after the second and first pooling.

    Raises:
        ValueError: If there is no such stage.

    Example:
        >>> network = FidInception().eval()
        >>> network(torch.zeros(2, 3, 299, 299)).shape
        torch.Size([2, 2048])
    """

    def __init__(self, dimensions: FidDimensions = 2048) -> None:
        super().__init__()
        if dimensions not in get_args(FidDimensions):
            raise ValueError(f"dimensions must be 64, 192, 768 or 2048, got {dimensions}")
        self.dimensions = dimensions
        self.Conv2d_1a_3x3 = nn.Conv2d(3, 32, 3, stride=2)
        self.Conv2d_2a_3x3 = nn.Conv2d(32, 32, 3)
        self.Conv2d_2b_3x3 = nn.Conv2d(32, 64, 3, padding=1)
        self.Conv2d_3b_1x1 = nn.Conv2d(64, 80, 1)
        self.Conv2d_4a_3x3 = nn.Conv2d(80, 192, 3)
        self.Mixed_5b = _BlockA(192, 32)
        self.Mixed_5c = _BlockA(256, 64)
        self.Mixed_5d = _BlockA(288, 64)
        self.Mixed_6a = _BlockB()
        self.Mixed_6b = _BlockC(128)
        self.Mixed_6c = _BlockC(160)
        self.Mixed_6d = _BlockC(160)
        self.Mixed_6e = _BlockC(192)
        self.Mixed_7a = _BlockD()
        self.Mixed_7b = _BlockE(1280, pool="average")
        self.Mixed_7c = _BlockE(2048, pool="maximum")

    def load_published(self, state: Mapping[str, Tensor]) -> None:
        """Take weights in torchvision's layout, ``<layer>.conv.weight`` and ``<layer>.bn.*``.

        Raises:
            ValueError: If a tensor is missing or has another shape, or the weights are those of torchvision's
                network: its tensors are called alike, and its features are no FID's. The classifier is not used
                but tells them apart.
        """
        head = state.get("fc.weight")
        if (
            head is None
            or head.shape != (_NUM_CLASSES, 2048)
            or any(isinstance(name, str) and name.startswith("AuxLogits.") for name in state)
        ):
            rows = "no classifier" if head is None else f"a classifier of {len(head)} classes"
            raise ValueError(
                f"these are no weights of the Inception-v3 of FID, which has {_NUM_CLASSES} classes and no "
                f"auxiliary classifier: they have {rows}"
            )
        folded: dict[str, Tensor] = {}
        try:
            for name, module in self.named_modules():
                if isinstance(module, nn.Conv2d):
                    bn = {
                        part: state[f"{name}.bn.{part}"].double()
                        for part in ("weight", "bias", "running_mean", "running_var")
                    }
                    scale = bn["weight"] / (bn["running_var"] + _EPSILON).sqrt()  # [C_out]
                    kernel = state[f"{name}.conv.weight"].double()
                    folded[f"{name}.weight"] = (kernel * scale[:, None, None, None]).float()
                    folded[f"{name}.bias"] = (bn["bias"] - bn["running_mean"] * scale).float()
            self.load_state_dict(folded)
        except (KeyError, RuntimeError) as error:
            raise ValueError(
                f"these are no weights of the Inception-v3 of FID ({str(error).splitlines()[0]})"
            ) from error

    def forward(self, x: Tensor) -> Tensor:
        """Features.

        Args:
            x: ``[B, 3, 299, 299]`` in [-1, 1].

        Returns:
            ``[B, dimensions]``.
        """
        x = _through(x, self.Conv2d_1a_3x3, self.Conv2d_2a_3x3, self.Conv2d_2b_3x3)
        x = F.max_pool2d(x, 3, stride=2)
        if self.dimensions > 64:
            x = _through(x, self.Conv2d_3b_1x1, self.Conv2d_4a_3x3)
            x = F.max_pool2d(x, 3, stride=2)
        if self.dimensions > 192:
            for name in ("5b", "5c", "5d", "6a", "6b", "6c", "6d", "6e"):
                x = self.get_submodule(f"Mixed_{name}")(x)
        if self.dimensions > 768:
            for name in ("7a", "7b", "7c"):
                x = self.get_submodule(f"Mixed_{name}")(x)
        return x.mean((2, 3))
