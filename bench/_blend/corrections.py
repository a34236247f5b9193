# SPDX-License-Identifier: Apache-2.0
"""What others do with a sharp upscale whose colours drift, and plainer blends than the frequency-domain update.

All take pictures uint8 ``[H, W, 3]``, the faithful one first.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from skimage.color import lab2rgb, rgb2lab
from skimage.exposure import match_histograms
from torch import Tensor
from torch.nn import functional

from genaccel import ops

Pixels = NDArray[np.uint8]

_LEVELS = 5  # of the wavelets
_LIGHTNESS_KEPT = 0.8


def _planes(picture: Pixels) -> Tensor:
    return torch.from_numpy(picture).permute(2, 0, 1)[None].float() / 255


def _pixels(planes: Tensor) -> Pixels:
    bytes_ = (255 * planes.clamp(0, 1)).round().to(torch.uint8)
    found: Pixels = bytes_[0].permute(1, 2, 0).contiguous().numpy()
    return found


def mean(faithful: Pixels, sharp: Pixels) -> Pixels:
    """Half of each."""
    return _pixels((_planes(faithful) + _planes(sharp)) / 2)


def frequency_swap(faithful: Pixels, sharp: Pixels) -> Pixels:
    """Fine luminance of the sharp picture instead of that of the faithful one, by the same filter."""
    luminance = torch.tensor([0.299, 0.587, 0.114]).view(1, 3, 1, 1)
    difference = ((_planes(sharp) - _planes(faithful)) * luminance).sum(1)
    return _pixels(_planes(faithful) + (difference - ops.low_pass(difference))[:, None])


def wavelet_fix(faithful: Pixels, sharp: Pixels) -> Pixels:
    """Colours of the faithful picture by five levels of an undecimated wavelet, as StableSR and SeedVR2 do it."""

    def low(planes: Tensor) -> Tensor:
        kernel = torch.tensor([[1.0, 2, 1], [2, 4, 2], [1, 2, 1]]).div(16).repeat(3, 1, 1, 1)
        for level in range(_LEVELS):
            step = 2**level
            padded = functional.pad(planes, (step,) * 4, mode="replicate")
            planes = functional.conv2d(padded, kernel, dilation=step, groups=3)
        return planes

    return _pixels(_planes(sharp) - low(_planes(sharp)) + low(_planes(faithful)))


def adain_fix(faithful: Pixels, sharp: Pixels) -> Pixels:
    """Mean and deviation of each colour of the faithful picture."""
    own, wanted = _planes(sharp), _planes(faithful)
    places = (2, 3)
    scale = wanted.std(places, keepdim=True) / (own.std(places, keepdim=True) + 1e-5)
    return _pixels(
        (own - own.mean(places, keepdim=True)) * scale + wanted.mean(places, keepdim=True)
    )


def lab_fix(faithful: Pixels, sharp: Pixels) -> Pixels:
    """Histograms of the faithful picture in CIELAB: of the colours whole, of the lightness a fifth."""
    own, wanted = rgb2lab(sharp), rgb2lab(faithful)
    matched = match_histograms(own, wanted, channel_axis=-1)
    matched[..., 0] = _LIGHTNESS_KEPT * own[..., 0] + (1 - _LIGHTNESS_KEPT) * matched[..., 0]
    found: Pixels = (255 * lab2rgb(matched).clip(0, 1)).round().astype(np.uint8)
    return found
