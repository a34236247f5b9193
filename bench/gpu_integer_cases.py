# SPDX-License-Identifier: Apache-2.0
"""The integer operators for ``bench/gpu.py``: what a bitstream depends on.

Plain torch is the computation in floating point that they stand in for, where PyTorch has no integer kernel of it; so the
two sides agree to a unit or two.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from bench.gpu_cases import GpuCase, Size

_GATE_SHIFT = 14
_FRACTION_BITS = 10
_TABLE = 65536
# Of ops.integer.integer_attention: octaves per unit of <query, key>, and output units per value unit.
_TEMPERATURE_BITS, _GAIN = 26, 256


def integer_cases(size: Size) -> list[GpuCase]:
    """Of the entropy model and its tables, for whole windows at once."""
    rows, width = size.windows * size.window_tokens, size.width
    inner = 4 * width
    heads, channels = size.heads, width // size.heads
    b, n = size.windows, size.window_tokens
    # A table of 4096 entries for each token of 1024 windows would take 5 GB.
    symbols, tables = size.codes, max(rows // 16, 2)

    def integers(device: torch.device, *shape: int, dtype: torch.dtype = torch.int8) -> Tensor:
        limits = torch.iinfo(dtype)
        return torch.randint(limits.min, limits.max + 1, shape, dtype=dtype, device=device)

    def linear_inputs(device: torch.device) -> tuple[Any, ...]:
        # Scales that spread the sums over the output's range: sqrt(I) * 74**2 is their deviation.
        scale = 30 / (math.sqrt(width) * 74**2)
        multiplier = torch.full((inner,), round(scale * 2**40), dtype=torch.int32, device=device)
        return (
            integers(device, rows, width),
            integers(device, inner, width),
            None,
            multiplier,
            40,
            8,
        )

    def plain_linear(
        x: Tensor, weight: Tensor, _: None, multiplier: Tensor, shift: int, _bits: int
    ) -> Tensor:
        # _int_mm wants more rows than 16 and multiples of 8.
        if x.shape[0] > 16 and x.shape[1] % 8 == 0 and weight.shape[0] % 8 == 0:
            total = torch._int_mm(x, weight.T)
        else:
            total = (x.double() @ weight.double().T).int()
        scaled = total.float() * (multiplier.float() * 2.0**-shift)
        return scaled.round().clamp(-128, 127).to(torch.int8)

    def plain_rms_norm(x: Tensor, gain: int, epsilon: int) -> Tensor:
        wide = x.float()
        inverse = (wide.square().sum(1, keepdim=True) + epsilon).rsqrt() * gain
        return (wide * inverse).round().clamp(-128, 127).to(torch.int8)

    def rotations(device: torch.device) -> Tensor:
        angles = torch.rand(n, channels // 2, device=device) * (2 * math.pi)
        turned = torch.stack([angles.cos(), angles.sin()], dim=-1)
        return turned.mul(32767).round().short()

    def plain_rotate(x: Tensor, rotations: Tensor) -> Tensor:
        # Not complex numbers, which torch.compile makes no kernel for.
        even, odd = x.float().unflatten(-1, (-1, 2)).unbind(-1)
        cosine, sine = (rotations.float() / 32768)[:, None].unbind(-1)
        turned = torch.stack([even * cosine - odd * sine, odd * cosine + even * sine], -1).flatten(
            -2
        )
        inverse = 127 * turned.square().sum(-1, keepdim=True).clamp_min(1e-12).rsqrt()
        return (turned * inverse).round().clamp(-128, 127).to(torch.int8)

    # Weights fall by an octave over a hundredth of the largest score.
    temperature = round(2**_TEMPERATURE_BITS * 100 / (channels * 127**2))

    def attention_inputs(device: torch.device) -> tuple[Any, ...]:
        query, key, value = (integers(device, b, n, heads, channels) for _ in range(3))
        visible = torch.arange(1, n + 1, dtype=torch.int32, device=device)
        factors = torch.full((heads,), temperature, dtype=torch.int32, device=device)
        return query, key, value, visible, factors, _GAIN

    def plain_attention(
        query: Tensor,
        key: Tensor,
        value: Tensor,
        visible: Tensor,
        factors: Tensor,
        gain: int,
    ) -> Tensor:
        # [B, H, n, D]; half precision, as one would, loses the units that int8 has left.
        q, k, v = (t.transpose(1, 2).float() for t in (query, key, value))
        scale = factors.float()[:, None, None] * (math.log(2) / 2**_TEMPERATURE_BITS)
        hidden = torch.arange(key.shape[1], device=key.device) >= visible[:, None]
        mixed = torch.nn.functional.scaled_dot_product_attention(
            q * scale, k, v, attn_mask=~hidden, scale=1.0
        )
        averages = (mixed * (gain / 256)).round().clamp(-128, 127)
        return averages.to(torch.int8).transpose(1, 2)

    def plain_gate(x: Tensor, table: Tensor, shift: int) -> Tensor:
        gates, values = x.int().chunk(2, dim=1)
        product = table.int()[gates + 128] * values
        return ((product + (1 << (shift - 1))) >> shift).clamp(-128, 127).to(torch.int8)

    def gate_table(device: torch.device) -> Tensor:
        z = torch.arange(-128, 128, device=device) / 32
        return (z.sigmoid() * 2**_GATE_SHIFT).round().short()

    def plain_frequencies(logits: Tensor, bits: int, _size: int, _group: None) -> Tensor:
        octaves = (logits - logits.amax(1, keepdim=True)).float() * 2.0**-bits
        weights = octaves.exp2()
        before = torch.nn.functional.pad(weights.cumsum(1), (1, 0))
        count = logits.shape[1]
        shares = (before * ((_TABLE - count) / before[:, -1:])).floor()
        return shares.int() + torch.arange(count + 1, dtype=torch.int32, device=logits.device)

    def frequency_inputs(device: torch.device) -> tuple[Any, ...]:
        logits = torch.randn(tables, symbols, device=device) * (3 << _FRACTION_BITS)
        return logits.int(), _FRACTION_BITS, 1, None

    head_rows = b * n * heads
    # Queries read half of the keys on average.
    products = b * heads * channels * n * (n + 1) // 2
    return [
        GpuCase(
            op="integer_linear",
            label="integer_linear",
            bound="matrix",
            make=linear_inputs,
            plain=plain_linear,
            bytes=rows * width + inner * width + 4 * inner + rows * inner,
            flops=2 * rows * width * inner,
            atol=1,
            rtol=0,
        ),
        GpuCase(
            op="integer_rms_norm",
            label="integer_rms_norm",
            bound="memory",
            make=lambda device: (
                integers(device, rows, width, dtype=torch.int32) >> 10,
                round(32 * math.sqrt(width)),
                0,
            ),
            plain=plain_rms_norm,
            bytes=5 * rows * width,
            flops=4 * rows * width,
            atol=1,
            rtol=0,
        ),
        GpuCase(
            op="integer_rotate_normalize",
            label="integer_rotate_normalize",
            bound="memory",
            make=lambda device: (
                integers(device, b, n, heads, channels, dtype=torch.int16),
                rotations(device),
            ),
            plain=plain_rotate,
            bytes=3 * head_rows * channels + 2 * n * channels,
            flops=7 * head_rows * channels,
            atol=2,
            rtol=0,
        ),
        GpuCase(
            op="integer_attention",
            label="integer_attention",
            bound="matrix",
            make=attention_inputs,
            plain=plain_attention,
            bytes=4 * head_rows * channels + 4 * n + 4 * heads,
            flops=4 * products,
            atol=2,
            rtol=0,
        ),
        GpuCase(
            op="integer_gate",
            label="integer_gate",
            bound="memory",
            make=lambda device: (
                integers(device, rows, 2 * inner),
                gate_table(device),
                _GATE_SHIFT,
            ),
            plain=plain_gate,
            bytes=3 * rows * inner + 2 * 256,
            flops=3 * rows * inner,
            atol=0,
            rtol=0,
        ),
        GpuCase(
            op="integer_frequencies",
            label="integer_frequencies",
            bound="other",
            make=frequency_inputs,
            plain=plain_frequencies,
            bytes=4 * tables * (2 * symbols + 1),
            flops=6 * tables * symbols,
            # Weights of 16 bits, whose roundings add up over the symbols before an entry.
            atol=0.005 * _TABLE,
            rtol=0,
        ),
        GpuCase(
            op="pmf_to_cdf",
            label="pmf_to_cdf",
            bound="other",
            make=lambda device: (
                torch.rand(tables, symbols, device=device).pow(8),
                16,
            ),
            plain=_plain_tables,
            bytes=4 * tables * (2 * symbols + 1),
            flops=6 * tables * symbols,
            # The left-over slots go to the largest remainders, which rounding down here ignores.
            atol=symbols,
            rtol=0,
        ),
    ]


def _plain_tables(pmf: Tensor, precision: int) -> Tensor:
    """Shares rounded down, a slot for each symbol; whatever is left goes to the last one."""
    count = pmf.shape[1]
    cumulative = torch.nn.functional.pad(pmf.double().cumsum(1), (1, 0))
    shares = cumulative * ((2**precision - count) / cumulative[:, -1:])
    return shares.int() + torch.arange(count + 1, dtype=torch.int32, device=pmf.device)
