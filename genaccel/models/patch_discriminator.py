# SPDX-License-Identifier: Apache-2.0
"""PatchGAN discriminator (pix2pix, arXiv 1611.07004), as RDVQ (arXiv 2604.10546) trains its codec with it.

image -> strided 4x4 convolutions -> one verdict per patch of 70x70 pixels, for three strided layers
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

from torch import Tensor, nn

from genaccel.models.ranges import require_whole

_INITIAL_STD = 0.02
_MAX_WIDENING = 8  # from layer to layer the width doubles, up to this


@dataclass(frozen=True, kw_only=True, slots=True)
class PatchDiscriminatorParams:
    """Size of the network; by default that of RDVQ, with 2.77 M parameters.

    Args:
        width: Channels of the first layer.
        strided_layers: Halvings of the resolution.
    """

    width: int = 64
    strided_layers: int = 3

    def __post_init__(self) -> None:
        require_whole("width", self.width, 1, 4096)
        require_whole("strided_layers", self.strided_layers, 1, 16)


class PatchDiscriminator(nn.Module):
    """Judges how real each patch of an image looks: above 0 for real, below 0 for generated.

    Example:
        >>> import torch
        >>> PatchDiscriminator(PatchDiscriminatorParams())(torch.zeros(2, 3, 64, 64)).shape
        torch.Size([2, 1, 6, 6])
    """

    def __init__(self, params: PatchDiscriminatorParams) -> None:
        super().__init__()
        self.params = params
        widths = [params.width * min(2**i, _MAX_WIDENING) for i in range(params.strided_layers + 1)]
        layers: list[nn.Module] = [nn.Conv2d(3, widths[0], 4, stride=2, padding=1)]
        for i, (before, after) in enumerate(itertools.pairwise(widths)):
            stride = 2 if i < params.strided_layers - 1 else 1
            layers += [
                nn.LeakyReLU(0.2),
                nn.Conv2d(before, after, 4, stride=stride, padding=1, bias=False),
                nn.BatchNorm2d(after),
            ]
        layers += [nn.LeakyReLU(0.2), nn.Conv2d(widths[-1], 1, 4, padding=1)]
        self.layers = nn.Sequential(*layers)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.normal_(module.weight, std=_INITIAL_STD)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
            elif isinstance(module, nn.BatchNorm2d):
                nn.init.normal_(module.weight, mean=1.0, std=_INITIAL_STD)

    def forward(self, x: Tensor) -> Tensor:
        """Verdicts ``[B, 1, h, w]`` on images ``x`` ``[B, 3, H, W]`` in [-1, 1].

        h is ``H / 2**strided_layers - 2``, rounded down, and w alike.

        Raises:
            ValueError: For another number of channels, or images too small for one verdict.
        """
        smallest = 3 * 2**self.params.strided_layers
        if x.ndim != 4 or x.shape[1] != 3 or min(x.shape[2:]) < smallest:
            raise ValueError(
                f"x must have shape [B, 3, H, W] with H and W of at least {smallest}, got {tuple(x.shape)}"
            )
        return self.layers(x)
