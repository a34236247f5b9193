# SPDX-License-Identifier: Apache-2.0
"""What a bitstream depends on: the entropy model and its tables, for whole windows at once.

A rival is the computation in floating point that an operator stands in for, where PyTorch has no integer kernel of it; so
the two agree to a unit or two.
"""

import math

import torch
from torch.nn import functional

from op_cases.case import OpCase

_TABLE = 65536
_TEMPERATURE_BITS = 26  # of integer_attention: octaves per unit of <query, key>


def _integers(dtype, *shape):
    """All values of the type."""
    limits = torch.iinfo(dtype)
    return torch.randint(limits.min, limits.max + 1, shape, dtype=dtype)


def _saturated(x):
    return x.clamp(-128, 127).to(torch.int8)


def _integer_linear_inputs(dtype, rows, inputs, outputs, output_bytes, with_bias):
    """Scales that spread the sums over the output's range."""
    deviation = round(inputs**0.5 * 74**2)
    scale = 2 ** (8 * output_bytes - 2) / deviation
    multiplier = torch.randint(0, 2**31 - 1, (outputs,), dtype=torch.int32)
    bias = torch.randint(-deviation, deviation, (outputs,), dtype=torch.int32)
    x, weight = _integers(dtype, rows, inputs), _integers(dtype, outputs, inputs)
    shift = max(32, 30 - round(math.log2(scale)))
    return x, weight, bias if with_bias else None, multiplier, shift, 8 * output_bytes


def _integer_linear_rival(x, weight, _no_bias, multiplier, shift, _8_bits):
    # _int_mm wants more rows than 16 and multiples of 8.
    if x.shape[0] > 16 and x.shape[1] % 8 == 0 and weight.shape[0] % 8 == 0:
        total = torch._int_mm(x, weight.T)
    else:
        total = (x.double() @ weight.double().T).int()
    return _saturated((total.float() * (multiplier.float() * 2.0**-shift)).round())


def _integer_rms_norm_inputs(dtype, rows, channels):
    """From rows of small numbers to rows of all of 32 bits."""
    scale = torch.arange(rows)[:, None] * 7 % 31
    x = _integers(torch.int32, rows, channels) >> scale.int()
    return x, 32 * round(channels**0.5), 50 * channels


def _integer_rms_norm_rival(x, gain, epsilon):
    wide = x.float()
    inverse = (wide.square().sum(1, keepdim=True) + epsilon).rsqrt() * gain
    return _saturated((wide * inverse).round())


def _integer_rotate_normalize_inputs(dtype, batch, tokens, heads, pairs, shrink=37):
    """The later a token, the smaller its numbers."""
    x = _integers(torch.int16, batch, tokens, heads, 2 * pairs)
    angles = torch.rand(tokens, pairs) * 6.3
    rotations = torch.stack([angles.cos(), angles.sin()], dim=-1).mul(32767).round().short()
    return x // (1 + shrink * torch.arange(tokens)[:, None, None]).short(), rotations


def _integer_rotate_normalize_rival(x, rotations):
    # Not complex numbers, which torch.compile makes no kernel for.
    even, odd = x.float().unflatten(-1, (-1, 2)).unbind(-1)
    cosine, sine = (rotations.float() / 32768)[:, None].unbind(-1)
    pairs = torch.stack([even * cosine - odd * sine, odd * cosine + even * sine], -1)
    turned = pairs.flatten(-2)
    inverse = 127 * turned.square().sum(-1, keepdim=True).clamp_min(1e-12).rsqrt()
    return _saturated((turned * inverse).round())


def _integer_attention_inputs(dtype, batch, tokens, keys, heads, channels, causal=False):
    query = _integers(dtype, batch, tokens, heads, channels)
    key, value = _integers(dtype, 2, batch, keys, heads, channels)
    if causal:
        visible = torch.arange(1, tokens + 1, dtype=torch.int32)
        # Weights fall by an octave over a hundredth of the largest score.
        octaves = round(2**_TEMPERATURE_BITS * 100 / (channels * 127**2))
        temperature = torch.full((heads,), octaves, dtype=torch.int32)
    else:
        visible = torch.randint(0, keys + 1, (tokens,), dtype=torch.int32)
        octaves = torch.tensor([40, 40000, 2**31 - 1, 0], dtype=torch.int32)
        temperature = octaves.repeat(heads)[:heads]
    return query, key.clone(), value.clone(), visible, temperature, 256 if causal else 700


def _integer_attention_rival(query, key, value, visible, temperature, gain):
    # [B, H, n, D]; half precision, as one would, loses the units that int8 has left.
    q, k, v = (t.transpose(1, 2).float() for t in (query, key, value))
    scale = temperature.float()[:, None, None] * (math.log(2) / 2**_TEMPERATURE_BITS)
    hidden = torch.arange(key.shape[1], device=key.device) >= visible[:, None]
    mixed = functional.scaled_dot_product_attention(q * scale, k, v, attn_mask=~hidden, scale=1.0)
    return _saturated((mixed * (gain / 256)).round()).transpose(1, 2)


def _integer_gate_inputs(dtype, rows, channels):
    return _integers(dtype, rows, 2 * channels), _integers(torch.int16, 256), 14


def _integer_gate_rival(x, table, shift):
    gates, values = x.int().chunk(2, dim=1)
    product = table.int()[gates + 128] * values
    return _saturated((product + (1 << (shift - 1))) >> shift)


def _integer_frequencies_inputs(dtype, rows, symbols, group_size, of_members):
    logits = torch.randn(rows, symbols).mul(4000).int()
    group = torch.randint(0, symbols // group_size, (rows,)) if of_members else None
    return logits, 10, group_size, group


def _integer_frequencies_rival(logits, fraction_bits, _single, _no_group):
    octaves = (logits - logits.amax(1, keepdim=True)).float() * 2.0**-fraction_bits
    before = functional.pad(octaves.exp2().cumsum(1), (1, 0))
    count = logits.shape[1]
    shares = (before * ((_TABLE - count) / before[:, -1:])).floor()
    return shares.int() + torch.arange(count + 1, dtype=torch.int32, device=logits.device)


CASES = (
    OpCase(
        name="integer_linear",
        make_inputs=_integer_linear_inputs,
        shapes=(
            {"rows": 1, "inputs": 1, "outputs": 1, "output_bytes": 1, "with_bias": 1},
            {"rows": 0, "inputs": 5, "outputs": 3, "output_bytes": 2, "with_bias": 0},
            {"rows": 3, "inputs": 7, "outputs": 0, "output_bytes": 1, "with_bias": 0},
            {"rows": 33, "inputs": 130, "outputs": 67, "output_bytes": 1, "with_bias": 1},
            {"rows": 66, "inputs": 48, "outputs": 129, "output_bytes": 2, "with_bias": 0},
            {"rows": 5, "inputs": 384, "outputs": 128, "output_bytes": 4, "with_bias": 1},
        ),
        dtypes=(torch.int8,),
        rival=_integer_linear_rival,
        flops=lambda rows, inputs, outputs, **_: 2 * rows * inputs * outputs,
        bound="matrix",
        large={"rows": 344064, "inputs": 384, "outputs": 1536},
        model={"rows": 8064, "inputs": 384, "outputs": 1536},
        tiny={"rows": 63, "inputs": 32, "outputs": 128},
        variants={"": {"output_bytes": 1, "with_bias": 0}},
        atol=1,
        rtol=0,
    ),
    OpCase(
        name="integer_rms_norm",
        make_inputs=_integer_rms_norm_inputs,
        shapes=(
            {"rows": 1, "channels": 1},
            {"rows": 0, "channels": 8},
            {"rows": 37, "channels": 33},
            {"rows": 35, "channels": 128},
            {"rows": 3, "channels": 4097},
        ),
        dtypes=(torch.int8,),
        rival=_integer_rms_norm_rival,
        flops=lambda rows, channels: 4 * rows * channels,
        bound="memory",
        large={"rows": 344064, "channels": 384},
        model={"rows": 8064, "channels": 384},
        tiny={"rows": 63, "channels": 32},
        atol=1,
        rtol=0,
    ),
    OpCase(
        name="integer_rotate_normalize",
        make_inputs=_integer_rotate_normalize_inputs,
        shapes=(
            {"batch": 1, "tokens": 1, "heads": 1, "pairs": 1},
            {"batch": 0, "tokens": 3, "heads": 2, "pairs": 4},
            {"batch": 2, "tokens": 0, "heads": 2, "pairs": 4},
            {"batch": 3, "tokens": 9, "heads": 3, "pairs": 7},
            {"batch": 2, "tokens": 16, "heads": 8, "pairs": 16},
        ),
        dtypes=(torch.int8,),
        rival=_integer_rotate_normalize_rival,
        flops=lambda batch, tokens, heads, pairs, **_: 14 * batch * tokens * heads * pairs,
        bound="memory",
        large={"batch": 1024, "tokens": 336, "heads": 8, "pairs": 24},
        model={"batch": 24, "tokens": 336, "heads": 8, "pairs": 24},
        tiny={"batch": 3, "tokens": 21, "heads": 4, "pairs": 4},
        variants={"": {"shrink": 0}},
        atol=2,
        rtol=0,
    ),
    OpCase(
        name="integer_attention",
        make_inputs=_integer_attention_inputs,
        shapes=(
            {"batch": 1, "tokens": 1, "keys": 1, "heads": 1, "channels": 1},
            {"batch": 0, "tokens": 3, "keys": 4, "heads": 2, "channels": 8},
            {"batch": 2, "tokens": 3, "keys": 0, "heads": 2, "channels": 8},
            {"batch": 2, "tokens": 5, "keys": 77, "heads": 4, "channels": 40},
            {"batch": 1, "tokens": 16, "keys": 336, "heads": 4, "channels": 32},
            {"batch": 1, "tokens": 2, "keys": 1023, "heads": 1, "channels": 256},
        ),
        dtypes=(torch.int8,),
        rival=_integer_attention_rival,
        # Queries read half of the keys on average.
        flops=lambda batch, tokens, heads, channels, **_: (
            2 * batch * heads * channels * tokens * (tokens + 1)
        ),
        bound="matrix",
        large={"batch": 1024, "tokens": 336, "keys": 336, "heads": 8, "channels": 48},
        model={"batch": 24, "tokens": 336, "keys": 336, "heads": 8, "channels": 48},
        tiny={"batch": 3, "tokens": 21, "keys": 21, "heads": 4, "channels": 8},
        variants={"": {"causal": True}},
        atol=2,
        rtol=0,
    ),
    OpCase(
        name="integer_gate",
        make_inputs=_integer_gate_inputs,
        shapes=(
            {"rows": 1, "channels": 1},
            {"rows": 0, "channels": 8},
            {"rows": 9, "channels": 131},
        ),
        dtypes=(torch.int8,),
        rival=_integer_gate_rival,
        flops=lambda rows, channels: 3 * rows * channels,
        bound="memory",
        large={"rows": 344064, "channels": 1536},
        model={"rows": 8064, "channels": 1536},
        tiny={"rows": 63, "channels": 128},
        atol=0,
        rtol=0,
    ),
    OpCase(
        name="integer_frequencies",
        make_inputs=_integer_frequencies_inputs,
        shapes=(
            {"rows": 1, "symbols": 1, "group_size": 1, "of_members": 1},
            {"rows": 0, "symbols": 4, "group_size": 2, "of_members": 0},
            {"rows": 5, "symbols": 1024, "group_size": 32, "of_members": 0},
            {"rows": 5, "symbols": 1024, "group_size": 32, "of_members": 1},
            {"rows": 7, "symbols": 1001, "group_size": 1, "of_members": 0},
            {"rows": 3, "symbols": 4095, "group_size": 65, "of_members": 1},
        ),
        dtypes=(torch.int8,),
        rival=_integer_frequencies_rival,
        flops=lambda rows, symbols, **_: 6 * rows * symbols,
        bound="other",
        # A table of 4096 entries for each token of 1024 windows would take 5 GB.
        large={"rows": 21504, "symbols": 4096},
        model={"rows": 504, "symbols": 4096},
        tiny={"rows": 3, "symbols": 48},
        variants={"": {"group_size": 1, "of_members": 0}},
        # Weights of 16 bits, whose roundings add up over the symbols before an entry.
        atol=0.005 * _TABLE,
        rtol=0,
    ),
)
