# SPDX-License-Identifier: Apache-2.0
"""Low and high spatial frequencies of pictures: the frequency-domain update of PS-SR (Wu et al., CVPR 2026)."""

from __future__ import annotations

import functools
import math
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from genaccel import _library
from genaccel.ops._validate import (
    FLOATING_DTYPES,
    require_dimensions,
    require_dtype,
    require_floating_tensor,
    require_same_kind,
    require_shape,
)

_library.load()

__all__ = ["frequency_update", "low_pass"]

Boundary = Literal["mirror", "periodic"]

# Of the paper's code: cycles per pixel at which the gain is 1/2, and the order of the Butterworth filter.
CUTOFF = 0.2
ORDER = 2
_RADIUS, _RANK = 10, 4  # as csrc/frequency/low_pass_shared.h has them
# Red, green and blue in the luminance.
LUMINANCE = (0.299, 0.587, 0.114)
EPSILON = 1e-6


@functools.cache
def _published_taps() -> list[float]:
    """Halves of the filter's columns, then of its rows, from the middle outwards.

    The impulse response of ``1 / (1 + (r / CUTOFF) ** (2 * ORDER))``, cut to 21 x 21 taps, of which the four largest of
    its eigenvectors are kept; their sum is scaled to 1, so that what is flat stays flat.
    """
    frequencies = np.fft.fftfreq(512)
    radius = np.hypot(frequencies[:, None], frequencies[None])
    response = np.fft.ifft2(1 / (1 + (radius / CUTOFF) ** (2 * ORDER))).real
    around = np.arange(-_RADIUS, _RADIUS + 1)
    eigenvalues, eigenvectors = np.linalg.eigh(response[np.ix_(around, around)])
    largest = np.argsort(-np.abs(eigenvalues))[:_RANK]
    rows = eigenvectors[:, largest].T
    columns = rows * eigenvalues[largest, None]
    columns /= (columns.sum(1) * rows.sum(1)).sum()
    return [*columns[:, _RADIUS:].ravel().tolist(), *rows[:, _RADIUS:].ravel().tolist()]


def _is_periodic(boundary: str) -> bool:
    if boundary not in ("mirror", "periodic"):
        raise ValueError(f'boundary must be "mirror" or "periodic", got {boundary!r}')
    return boundary == "periodic"


def low_pass(x: Tensor, *, boundary: Boundary = "mirror") -> Tensor:
    """What is coarser than 5 pixels: a round Butterworth low-pass of order 2 with cutoff 0.2 cycles per pixel.

    21 x 21 taps as a sum of four products of a column and a row, whose gain is within 0.0021 of the ideal one and 1
    for what is flat. Sums are float32 (float64 for float64). The filter is its own adjoint, so the gradient is the
    low-pass of the incoming one.

    Args:
        x: ``[..., H, W]`` float16, bfloat16, float32 or float64.
        boundary: What lies beyond the edges: ``"mirror"`` repeats the picture backwards, ``"periodic"`` from its
            other edge, as a Fourier transform does.

    Returns:
        As ``x``.

    Raises:
        TypeError: For another dtype.
        ValueError: For fewer than two dimensions, or another boundary.

    Example:
        >>> import torch
        >>> low_pass(torch.ones(1, 3)).round(decimals=5)
        tensor([[1., 1., 1.]])
    """
    require_floating_tensor("x", x)
    if x.ndim < 2:
        raise ValueError(f"x must have at least 2 dimensions, got shape {tuple(x.shape)}")
    planes = x.reshape(math.prod(x.shape[:-2]), *x.shape[-2:]).contiguous()
    taps, periodic = _published_taps(), _is_periodic(boundary)
    out: Tensor = torch.ops.genaccel.low_pass.default(planes, taps, periodic)
    return out.view(x.shape)


@torch.library.register_fake("genaccel::low_pass")
def _low_pass_fake(x: Tensor, taps: list[float], periodic: bool) -> Tensor:
    return torch.empty_like(x)


def _low_pass_setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.filter = inputs[1:]


def _low_pass_backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
    return torch.ops.genaccel.low_pass.default(grad.contiguous(), *ctx.filter), None, None


torch.library.register_autograd(
    "genaccel::low_pass", _low_pass_backward, setup_context=_low_pass_setup
)


def frequency_update(
    faithful: Tensor,
    sharp: Tensor,
    alpha: float = 1.0,
    *,
    weight: Tensor | None = None,
    boundary: Boundary = "mirror",
) -> Tensor:
    """The fine detail of a sharp picture on the colours and the structure of a faithful one, in one pass.

    Luminance is split into what :func:`low_pass` keeps and the rest. The low part and the colours are those of
    ``faithful``. The fine part is ``alpha * (w * s + (1 - w) * f)`` of both fine parts ``f`` and ``s``, where
    ``w = |s| / (|s| + |f| + 1e-6)``: whichever is stronger at a place counts more there. The result is clamped to the
    range of a picture. Two equal pictures with ``alpha`` 1 give the same picture.

    Arithmetic is float32 (float64 for float64) and rounds once. Results are within 0.1 / 255 of the same with a Fourier
    transform over the picture, whose boundary is ``"periodic"``. No second derivatives.

    Args:
        faithful: ``[B, 3, H, W]`` red, green, blue: uint8, or in [0, 1] float16, bfloat16, float32 or float64.
            Contiguous or channels_last: ``torch.from_numpy(picture).permute(2, 0, 1)[None]`` is taken as it lies in
            memory.
        sharp: Of the same shape, dtype and device.
        alpha: Strength of the fine part: 1 keeps all of it, 0 leaves the low-pass of ``faithful``.
        weight: ``[B, H, W]`` float32 (float64 with float64 pictures), on the same device: how much of the change to
            make at each place. 0 leaves ``faithful`` there as it is. None for 1 everywhere.
        boundary: As for :func:`low_pass`.

    Returns:
        Picture like ``faithful``, in the same memory format.

    Raises:
        TypeError: For another dtype.
        ValueError: For another shape, device or boundary, or an ``alpha`` that is not finite.

    Example:
        >>> import torch
        >>> picture = torch.tensor([[0, 50], [100, 255]], dtype=torch.uint8).expand(1, 3, 2, 2)
        >>> frequency_update(picture, picture)[0, 0]
        tensor([[  0,  50],
                [100, 255]], dtype=torch.uint8)
    """
    if not isinstance(faithful, Tensor):
        raise TypeError(f"faithful must be a tensor, got {type(faithful).__name__}")
    if faithful.dtype not in (torch.uint8, *FLOATING_DTYPES):
        raise TypeError(
            f"faithful must be uint8, float16, bfloat16, float32 or float64, got {faithful.dtype}"
        )
    require_dtype("sharp", sharp, faithful.dtype)
    require_same_kind("sharp", sharp, "faithful", faithful)
    require_dimensions("faithful", faithful, 4)
    if faithful.shape[1] != 3:
        raise ValueError(f"faithful must have 3 channels, got shape {tuple(faithful.shape)}")
    require_shape("sharp", sharp, faithful.shape)
    if not math.isfinite(alpha):
        raise ValueError(f"alpha must be a finite number, got {alpha}")
    if weight is not None:
        wide = torch.float64 if faithful.dtype == torch.float64 else torch.float32
        require_dtype("weight", weight, wide)
        if weight.device != faithful.device:
            raise ValueError(
                f"weight must be on {faithful.device} as faithful is, got {weight.device}"
            )
        require_shape("weight", weight, (faithful.shape[0], *faithful.shape[2:]))
        weight = weight.contiguous()
    lies = torch.contiguous_format
    if not faithful.is_contiguous() and faithful.is_contiguous(memory_format=torch.channels_last):
        lies = torch.channels_last
    return torch.ops.genaccel.frequency_update.default(
        _laid_out(faithful, lies),
        _laid_out(sharp, lies),
        weight,
        _published_taps(),
        float(alpha),
        _is_periodic(boundary),
    )


def _laid_out(picture: Tensor, lies: torch.memory_format) -> Tensor:
    """A picture in a memory format, with the strides that it says even where a side is 1."""
    if lies == torch.contiguous_format:
        return picture.contiguous()
    batch, channels, height, width = picture.shape
    strides = (channels * height * width, 1, channels * width, channels)
    if picture.stride() == strides:
        return picture
    return (
        picture.permute(0, 2, 3, 1)
        .reshape(-1)
        .view(batch, height, width, channels)
        .permute(0, 3, 1, 2)
    )


@torch.library.register_fake("genaccel::frequency_update")
def _frequency_update_fake(
    faithful: Tensor,
    sharp: Tensor,
    weight: Tensor | None,
    taps: list[float],
    alpha: float,
    periodic: bool,
) -> Tensor:
    return torch.empty_like(faithful)


def _update_setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    faithful, sharp, weight, *ctx.options = inputs
    ctx.save_for_backward(faithful, sharp, *([weight] if weight is not None else []))


def _update_backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    faithful, sharp, *weights = ctx.saved_tensors
    taps, alpha, periodic = ctx.options
    wide = torch.float64 if faithful.dtype == torch.float64 else torch.float32
    luminance = torch.tensor(LUMINANCE, dtype=wide, device=faithful.device).view(1, 3, 1, 1)

    def high(planes: Tensor) -> Tensor:
        return planes - torch.ops.genaccel.low_pass.default(planes, taps, periodic)

    f, s = (high((picture.to(wide) * luminance).sum(1)) for picture in (faithful, sharp))
    total = s.abs() + f.abs() + EPSILON
    w = s.abs() / total
    change = alpha * (f + w * (s - f)) - f
    made = change * weights[0] if weights else change
    value = faithful.to(wide) + made[:, None]
    passed = grad.to(wide) * ((value >= 0) & (value <= 1))
    to_made = passed.sum(1)
    to_change = to_made * weights[0] if weights else to_made
    w_by_s = s.sign() * (f.abs() + EPSILON) / total.square()
    w_by_f = -s.abs() * f.sign() / total.square()
    to_s = to_change * alpha * (w + (s - f) * w_by_s)
    to_f = to_change * (alpha * (1 - w + (s - f) * w_by_f) - 1)
    to_faithful = (passed + luminance * high(to_f)[:, None]).to(faithful.dtype)
    to_sharp = (luminance * high(to_s)[:, None]).to(sharp.dtype)
    to_weight = to_made * change if weights else None
    return to_faithful, to_sharp, to_weight, None, None, None


torch.library.register_autograd(
    "genaccel::frequency_update", _update_backward, setup_context=_update_setup
)
