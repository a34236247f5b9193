# SPDX-License-Identifier: Apache-2.0
"""Low and high spatial frequencies of pictures."""

import torch

from genaccel import reference
from genaccel.ops.frequency import _published_taps
from op_cases.case import HALF_TO_DOUBLE, OpCase


def _low_pass_inputs(dtype, planes, height, width, periodic):
    """Of a magnitude where the rounding of 84 terms is that of the largest result."""
    planes = torch.rand(planes, height, width, dtype=dtype) / 4
    return planes, _published_taps(), bool(periodic)


def _low_pass_rival(x, _taps, _periodic):
    """The transform that these taps stand for; in half precision it takes powers of two alone."""
    height, width = x.shape[-2:]
    gain = reference.butterworth_gain(height, width)[:, : width // 2 + 1].to(
        x.device, torch.float32
    )
    return torch.fft.irfft2(torch.fft.rfft2(x.float()) * gain, s=(height, width)).to(x.dtype)


def _update_inputs(dtype, frames, height, width, periodic, weighted=1):
    wide = torch.promote_types(dtype, torch.float32)
    faithful, sharp = (torch.rand(2, frames, 3, height, width, dtype=dtype) / 4).unbind(0)
    weight = torch.rand(frames, height, width, dtype=wide) if weighted else None
    return faithful, sharp, weight, _published_taps(), 0.8, bool(periodic)


def _update_rival(faithful, sharp, _weight, taps, alpha, periodic):
    coefficients = torch.tensor([0.299, 0.587, 0.114], device=faithful.device).view(3, 1, 1)
    both = (torch.stack([faithful, sharp]).float() * coefficients).sum(2)
    high, sharp_high = both - _low_pass_rival(both, taps, periodic)
    w = sharp_high.abs() / (sharp_high.abs() + high.abs() + 1e-6)
    change = alpha * torch.lerp(high, sharp_high, w) - high
    return (faithful.float() + change[:, None]).clamp_(0, 1).to(faithful.dtype)


CASES = (
    OpCase(
        name="low_pass",
        make_inputs=_low_pass_inputs,
        shapes=(
            {"planes": 1, "height": 1, "width": 1, "periodic": 1},
            {"planes": 2, "height": 0, "width": 5, "periodic": 1},
            {"planes": 3, "height": 5, "width": 3, "periodic": 0},
            {"planes": 1, "height": 70, "width": 40, "periodic": 1},
            {"planes": 2, "height": 33, "width": 531, "periodic": 0},  # more than one tile
        ),
        dtypes=HALF_TO_DOUBLE,
        differentiable=(0,),
        gradcheck_of=reference.low_pass,
        rival=_low_pass_rival,
        flops=lambda planes, height, width, **_: 266 * planes * height * width,
        bound="other",
        large={"planes": 32, "height": 1440, "width": 2560},
        model={"planes": 8, "height": 720, "width": 1280},
        tiny={"planes": 2, "height": 48, "width": 40},
        variants={"": {"periodic": 1}},
        bench_dtype=torch.bfloat16,
    ),
    OpCase(
        name="frequency_update",
        make_inputs=_update_inputs,
        shapes=(
            {"frames": 1, "height": 1, "width": 1, "periodic": 1},
            {"frames": 2, "height": 5, "width": 0, "periodic": 1},
            {"frames": 1, "height": 5, "width": 3, "periodic": 0},
            {"frames": 1, "height": 70, "width": 40, "periodic": 1},
            {"frames": 2, "height": 33, "width": 531, "periodic": 0},
        ),
        dtypes=HALF_TO_DOUBLE,
        differentiable=(0, 1, 2),
        gradcheck_of=reference.frequency_update,
        rival=_update_rival,
        flops=lambda frames, height, width, **_: 550 * frames * height * width,
        bound="other",
        large={"frames": 16, "height": 1440, "width": 2560},
        model={"frames": 4, "height": 720, "width": 1280},
        tiny={"frames": 2, "height": 48, "width": 40},
        variants={"": {"periodic": 1, "weighted": 0}},
        bench_dtype=torch.bfloat16,
        atol=0.02,
    ),
)
