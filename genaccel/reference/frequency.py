# SPDX-License-Identifier: Apache-2.0
"""Low and high spatial frequencies in plain torch: with the taps of the operators, and with Fourier transforms."""

from typing import Literal

import torch
from torch import Tensor

__all__ = ["butterworth_gain", "frequency_update", "frequency_update_by_fft", "low_pass"]

_RADIUS, _RANK = 10, 4
_EPSILON = 1e-6


def _lines(size: int, periodic: bool, device: torch.device) -> Tensor:
    """Indices of the lines -10 to size + 9 of a picture that goes on beyond its edges."""
    lines = torch.arange(-_RADIUS, size + _RADIUS, device=device)
    if periodic:
        return lines % size
    lines = lines % (2 * size)
    return torch.minimum(lines, 2 * size - 1 - lines)


def low_pass(x: Tensor, taps: list[float], periodic: bool) -> Tensor:
    """Sum of four filters of a column and a row: planes ``[N, H, W]``."""
    if not x.numel():
        return x.clone()
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    height, width = x.shape[1:]
    wide = wide[:, _lines(height, periodic, x.device)][:, :, _lines(width, periodic, x.device)]
    halves = torch.tensor(taps, dtype=wide.dtype, device=x.device).view(2, _RANK, _RADIUS + 1)
    columns, rows = torch.cat([halves[..., 1:].flip(-1), halves], -1)
    of_columns = torch.einsum("nhwt,rt->rnhw", wide.unfold(1, 2 * _RADIUS + 1, 1), columns)
    out = torch.einsum("rnhwt,rt->nhw", of_columns.unfold(3, 2 * _RADIUS + 1, 1), rows)
    return out.to(x.dtype)


def _change(faithful: Tensor, sharp: Tensor, alpha: float) -> Tensor:
    """Added to the luminance where these are the high bands."""
    w = sharp.abs() / (sharp.abs() + faithful.abs() + _EPSILON)
    return alpha * (w * sharp + (1 - w) * faithful) - faithful


def _as_numbers(pictures: Tensor) -> Tensor:
    if pictures.dtype == torch.uint8:
        return pictures.float() / 255
    return pictures.to(torch.promote_types(pictures.dtype, torch.float32))


def _as_pictures(numbers: Tensor, dtype: torch.dtype) -> Tensor:
    numbers = numbers.clamp(0, 1)
    return (numbers * 255).round().to(dtype) if dtype == torch.uint8 else numbers.to(dtype)


def frequency_update(
    faithful: Tensor,
    sharp: Tensor,
    weight: Tensor | None,
    taps: list[float],
    alpha: float,
    periodic: bool,
) -> Tensor:
    """The operator: what it adds to red, green and blue alike is added to the luminance alone."""
    f, s = _as_numbers(faithful), _as_numbers(sharp)
    coefficients = f.new_tensor([0.299, 0.587, 0.114]).view(1, 3, 1, 1)
    f_luminance, s_luminance = (f * coefficients).sum(1), (s * coefficients).sum(1)
    change = _change(
        f_luminance - low_pass(f_luminance, taps, periodic),
        s_luminance - low_pass(s_luminance, taps, periodic),
        alpha,
    )
    if weight is not None:
        change = change * weight
    return _as_pictures(f + change[:, None], faithful.dtype)


def butterworth_gain(
    height: int,
    width: int,
    cutoff: float = 0.2,
    order: int = 2,
    *,
    grid: Literal["fftfreq", "linspace"] = "fftfreq",
) -> Tensor:
    """Gain ``[H, W]`` of the round low-pass, the constant first.

    Args:
        height: Of the picture.
        width: Of the picture.
        cutoff: Cycles per pixel where the gain is 1/2.
        order: Of the filter.
        grid: ``"linspace"`` is the frequencies of the authors' code: from -0.5 to 0.5 with both ends, so that zero lies
            half a step beside the constant where a side is even.
    """

    def frequencies(size: int) -> Tensor:
        if grid == "fftfreq":
            return torch.fft.fftfreq(size, dtype=torch.float64)
        return torch.fft.ifftshift(torch.linspace(-0.5, 0.5, size, dtype=torch.float64))

    radius = torch.hypot(frequencies(height)[:, None], frequencies(width)[None])
    return 1 / (1 + (radius / cutoff) ** (2 * order))


def frequency_update_by_fft(
    faithful: Tensor,
    sharp: Tensor,
    alpha: float = 1.0,
    *,
    border: int = 0,
    grid: Literal["fftfreq", "linspace"] = "fftfreq",
) -> Tensor:
    """The same by Fourier transforms and through YUV and back, as the paper has it and its authors' code does it.

    Args:
        faithful: ``[B, 3, H, W]``, uint8 or in [0, 1].
        sharp: As that.
        alpha: Strength of the fine part.
        border: Pixels at the edges that keep the luminance of ``faithful``; the authors' code has 2.
        grid: As for :func:`butterworth_gain`.
    """
    f, s = _as_numbers(faithful), _as_numbers(sharp)
    gain = butterworth_gain(*f.shape[2:], grid=grid).to(f)

    def luminance(rgb: Tensor) -> Tensor:
        red, green, blue = rgb.unbind(1)
        return 0.299 * red + 0.587 * green + 0.114 * blue

    def low(plane: Tensor) -> Tensor:
        return torch.fft.ifft2(torch.fft.fft2(plane, norm="ortho") * gain, norm="ortho").real

    y, sharp_y = luminance(f), luminance(s)
    red, green, blue = f.unbind(1)
    u = -0.14713 * red - 0.28886 * green + 0.436 * blue
    v = 0.615 * red - 0.51499 * green - 0.10001 * blue
    low_y = low(y)
    high, sharp_high = y - low_y, sharp_y - low(sharp_y)
    w = sharp_high.abs() / (sharp_high.abs() + high.abs() + _EPSILON)
    updated = low_y + alpha * (w * sharp_high + (1 - w) * high)
    if border:
        inside = torch.zeros_like(y, dtype=torch.bool)
        inside[:, border:-border, border:-border] = True
        updated = torch.where(inside, updated, y)
    rgb = torch.stack(
        [updated + 1.13983 * v, updated - 0.39465 * u - 0.5806 * v, updated + 2.03211 * u], 1
    )
    return _as_pictures(rgb, faithful.dtype)
