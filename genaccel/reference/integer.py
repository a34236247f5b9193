# SPDX-License-Identifier: Apache-2.0
"""Integer transformer pieces in plain torch, on int64 throughout."""

import math

import torch
from torch import Tensor

__all__ = [
    "integer_attention",
    "integer_frequencies",
    "integer_gate",
    "integer_linear",
    "integer_rms_norm",
    "integer_rotate_normalize",
]

_BITS = {8: torch.int8, 16: torch.int16, 32: torch.int32}


def _saturated(x: Tensor, dtype: torch.dtype) -> Tensor:
    limits = torch.iinfo(dtype)
    return x.clamp(limits.min, limits.max).to(dtype)


def _rounded_shift(x: Tensor, shift: int | Tensor) -> Tensor:
    """x / 2**shift to the nearest, halves upwards; shift is at least 1."""
    shift = torch.as_tensor(shift)
    return (x + (1 << (shift - 1))) >> shift


def _wrapped(x: Tensor) -> Tensor:
    """As a sum of int32 wraps around."""
    return (x + 2**31) % 2**32 - 2**31


def integer_linear(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    multiplier: Tensor,
    shift: int,
    output_bits: int,
) -> Tensor:
    """int8 ``[N, I]`` times int8 ``[O, I]``, rescaled to ``[N, O]``."""
    total = x.long() @ weight.long().T
    if bias is not None:
        total = _wrapped(total + bias)
    return _saturated(_rounded_shift(total * multiplier, shift), _BITS[output_bits])


def _scaled_to_length(x: Tensor, sums: Tensor, gain: int) -> Tensor:
    """int8 ``x * gain / sqrt(sums)``, row by row, with a mantissa of 15 bits for ``gain / sqrt(sums)``."""
    mantissas, shifts = [], []
    for total in sums.tolist():
        mantissa, shift = 0, 1
        if total:
            length = total.bit_length()
            half_power = (length - 31) // 2 if length > 32 else -((32 - length) // 2)
            even = total >> 2 * half_power if half_power >= 0 else total << -2 * half_power
            gain_power = 32 - gain.bit_length()
            quotient = (gain << gain_power + 16) // math.isqrt(even)
            drop = quotient.bit_length() - 15
            mantissa = (quotient + (1 << drop - 1)) >> drop
            shift = 16 + gain_power + half_power - drop
            if shift > 30:
                mantissa, shift = 0, 1
        mantissas.append(mantissa)
        shifts.append(shift)
    factors = torch.tensor(mantissas, dtype=torch.int64)[:, None]
    exponents = torch.tensor(shifts, dtype=torch.int64)[:, None]
    return _saturated(_rounded_shift(x * factors, exponents), torch.int8)


def integer_rms_norm(x: Tensor, gain: int, epsilon: int) -> Tensor:
    """int8 rows ``[N, D]`` of one length."""
    lengths = [int(m).bit_length() for m in x.long().abs().amax(dim=1).tolist()]
    shifts = torch.tensor([max(0, length - 14) for length in lengths], dtype=torch.int64)
    rows = x.long()
    for row, shift in enumerate(shifts.tolist()):
        if shift:
            rows[row] = _rounded_shift(rows[row], shift)
    sums = rows.square().sum(dim=1) + (epsilon >> 2 * shifts)
    return _scaled_to_length(rows, sums, gain)


def integer_rotate_normalize(x: Tensor, rotations: Tensor) -> Tensor:
    """int8 ``[B, n, H, D]``: pairs turned by ``[n, D / 2, 2]``, heads of length 127."""
    even, odd = x[..., 0::2].long(), x[..., 1::2].long()
    cosine, sine = rotations[:, None, :, 0].long(), rotations[:, None, :, 1].long()
    pair = torch.stack([even * cosine - odd * sine, odd * cosine + even * sine], dim=-1)
    turned = _wrapped(pair + 2**15) >> 16
    heads = turned.reshape(-1, x.shape[3])
    return _scaled_to_length(heads, heads.square().sum(dim=1), 127).view(x.shape)


def _exp2_of_negative(octaves: Tensor) -> Tensor:
    """2**-octaves of 16.16 fixed point, in 16 bits; zero from 32 octaves."""
    octaves = octaves.clamp(max=32 * 65536 - 1)
    fraction = octaves & 0xFFFF
    p = 15110 - (fraction * 2565 >> 16)
    p = 45313 - (fraction * p >> 16)
    p = 65536 - (fraction * p >> 16)
    whole = octaves >> 16
    return (p + ((1 << whole) >> 1)) >> whole


def integer_attention(
    query: Tensor, key: Tensor, value: Tensor, visible: Tensor, temperature: Tensor, gain: int
) -> Tensor:
    """int8 ``[B, n, H, D]``."""
    scores = torch.einsum("bnhd,blhd->bhnl", query.long(), key.long())
    hidden = torch.arange(key.shape[1]) >= visible[:, None]  # [n, L]
    if key.shape[1] == 0:
        return torch.zeros_like(query)
    largest = scores.masked_fill(hidden, -(2**40)).amax(dim=-1, keepdim=True)
    factor = temperature.long()[:, None, None]
    limit = (2**32 - 1) // factor.clamp(min=1)
    below = torch.minimum((largest - scores).clamp(min=0), limit)
    weights = (_exp2_of_negative(below * factor >> 10) + 2) >> 2
    weights = weights.masked_fill(hidden, 0)
    total = weights.sum(dim=-1)  # [B, H, n]
    lengths = [int(w).bit_length() for w in total.flatten().tolist()]
    power = 16 + torch.tensor(lengths, dtype=torch.int64).view(total.shape)
    multiplier = (gain << power) // total.clamp(min=1)
    mixed = torch.einsum("bhnl,blhd->bnhd", weights, value.long())
    factors, shifts = (m.transpose(1, 2).unsqueeze(-1) for m in (multiplier, power + 8))
    averages = _saturated(_rounded_shift(mixed * factors, shifts), torch.int8)
    return averages.masked_fill((visible <= 0)[:, None, None], 0)


def integer_gate(x: Tensor, table: Tensor, shift: int) -> Tensor:
    """int8 ``[N, C]`` of ``[N, 2 C]``."""
    gates, values = x.long().chunk(2, dim=1)
    return _saturated(_rounded_shift(table.long()[gates + 128] * values, shift), torch.int8)


def integer_frequencies(
    logits: Tensor, fraction_bits: int, group_size: int, group: Tensor | None
) -> Tensor:
    """int32 cumulative tables ``[N, E + 1]``."""
    rows, symbols = logits.shape
    entries = logits.long()
    if group is not None:
        entries = entries.view(rows, -1, group_size)[torch.arange(rows), group]
    below = entries.amax(dim=1, keepdim=True) - entries
    weights = _exp2_of_negative(below.clamp(max=64 << fraction_bits) << (16 - fraction_bits))
    if group is None:
        weights = weights.view(rows, symbols // group_size, group_size).sum(dim=2)
    count = weights.shape[1]
    before = torch.cat([weights.new_zeros(rows, 1), weights.cumsum(dim=1)], dim=1)
    shares = before * (65536 - count) // before[:, -1:]
    return (shares + torch.arange(count + 1)).int()
