# SPDX-License-Identifier: Apache-2.0
"""The pieces of a transformer in integers, for networks that a bitstream depends on.

Sums of integers do not depend on their order, and no floating-point number takes part: every machine, number of
threads, batch, and device gives the same results. Products are rescaled by ``(x * multiplier) >> shift``, rounded to
the nearest, halves upwards. None has a gradient; ``genaccel.models.quantization_aware`` trains for them.
"""

from __future__ import annotations

import torch
from torch import Tensor

from genaccel import _library
from genaccel.ops._validate import require_dimensions, require_dtype, require_int, require_shape

_library.load()

__all__ = [
    "integer_attention",
    "integer_frequencies",
    "integer_gate",
    "integer_linear",
    "integer_rms_norm",
    "integer_rotate_normalize",
]

MIN_SHIFT, MAX_SHIFT = 32, 62  # of integer_linear
MAX_GAIN = 8191  # of integer_rms_norm
MAX_KEYS = 1023
MAX_HEAD_CHANNELS = 256
MAX_ATTENTION_GAIN = 16383
GAIN_BITS = 8  # fraction bits of the gain of integer_attention
TEMPERATURE_BITS = 26  # fraction bits of its temperatures
UNIT = 127  # length of what integer_rotate_normalize makes
MAX_SYMBOLS = 32768
TABLE_BITS = 16  # of the tables of integer_frequencies

_OUTPUT_DTYPES = {8: torch.int8, 16: torch.int16, 32: torch.int32}


def _require_in_range(name: str, value: object, lowest: int, highest: int) -> None:
    require_int(name, value)
    assert isinstance(value, int)
    if not lowest <= value <= highest:
        raise ValueError(f"{name} must be in [{lowest}, {highest}], got {value}")


def _require_with_rows(name: str, value: object, dtype: torch.dtype, most: int) -> None:
    """At least one dimension, with 1 to ``most`` channels in the last."""
    require_dtype(name, value, dtype)
    assert isinstance(value, Tensor)
    if value.ndim == 0 or not 1 <= value.shape[-1] <= most:
        raise ValueError(
            f"{name} must have 1 to {most} channels in its last dimension, "
            f"got shape {tuple(value.shape)}"
        )


def _require_vector(name: str, value: object, dtype: torch.dtype, size: int) -> None:
    require_dtype(name, value, dtype)
    assert isinstance(value, Tensor)
    require_shape(name, value, (size,))


def _rows(x: Tensor) -> Tensor:
    return x.reshape(x.shape[:-1].numel(), x.shape[-1]).contiguous()


def integer_linear(
    x: Tensor,
    weight: Tensor,
    multiplier: Tensor,
    shift: int,
    output_bits: int = 8,
    bias: Tensor | None = None,
) -> Tensor:
    """Matrix product of int8, rescaled: ``((x @ weight.T + bias) * multiplier) >> shift``, saturated.

    Args:
        x: int8 ``[..., I]``, I at most 32768.
        weight: int8 ``[O, I]``.
        multiplier: int32 ``[O]``, a scale per output.
        shift: 32 to 62, so that every scale is below 1/2.
        output_bits: 8, 16 or 32.
        bias: int32 ``[O]``, in the unit of the products. Sums of 32 bits wrap around: see that none does.

    Returns:
        int8, int16 or int32 ``[..., O]``.

    Raises:
        TypeError: For another dtype, or a number that is no int.
        ValueError: For another shape, or a number out of range.

    Example:
        >>> import torch
        >>> x = torch.tensor([[100, -3]], dtype=torch.int8)
        >>> half = torch.tensor([2**30], dtype=torch.int32)  # 2**30 >> 32 is a quarter
        >>> integer_linear(x, torch.tensor([[1, 2]], dtype=torch.int8), half, 32)
        tensor([[24]], dtype=torch.int8)
    """
    _require_with_rows("x", x, torch.int8, 32768)
    require_dtype("weight", weight, torch.int8)
    require_dimensions("weight", weight, 2)
    require_shape("weight", weight, (weight.shape[0], x.shape[-1]))
    _require_vector("multiplier", multiplier, torch.int32, weight.shape[0])
    _require_in_range("shift", shift, MIN_SHIFT, MAX_SHIFT)
    if output_bits not in _OUTPUT_DTYPES:
        raise ValueError(f"output_bits must be 8, 16 or 32, got {output_bits}")
    if bias is not None:
        _require_vector("bias", bias, torch.int32, weight.shape[0])
        bias = bias.contiguous()
    result: Tensor = torch.ops.genaccel.integer_linear.default(
        _rows(x), weight.contiguous(), bias, multiplier.contiguous(), shift, output_bits
    )
    return result.view(*x.shape[:-1], weight.shape[0])


@torch.library.register_fake("genaccel::integer_linear")
def _integer_linear_fake(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    multiplier: Tensor,
    shift: int,
    output_bits: int,
) -> Tensor:
    return x.new_empty(x.shape[0], weight.shape[0], dtype=_OUTPUT_DTYPES[output_bits])


def integer_rms_norm(x: Tensor, gain: int, epsilon: int = 0) -> Tensor:
    """Rows of int32 scaled to one length: ``x * gain / sqrt(sum(x**2) + epsilon)``, rounded and saturated.

    Rows are shifted to 15 bits first, and the inverse root has 15 bits too; the error is below 1/16 of a unit.

    Args:
        x: int32 ``[..., D]``, D at most 65536.
        gain: 1 to 8191: ``sqrt(D)`` times the int8 units of a root mean square of 1. Gains per channel belong into
            the weights that follow.
        epsilon: In units of ``x**2``, summed over the channels; 0 to ``2**62 - 1``.

    Returns:
        int8 ``[..., D]``. A row of zeros stays one.

    Raises:
        TypeError: For another dtype, or a number that is no int.
        ValueError: For another shape, or a number out of range.

    Example:
        >>> import torch
        >>> integer_rms_norm(torch.tensor([[3000, 4000]], dtype=torch.int32), gain=100)
        tensor([[60, 80]], dtype=torch.int8)
    """
    _require_with_rows("x", x, torch.int32, 65536)
    _require_in_range("gain", gain, 1, MAX_GAIN)
    _require_in_range("epsilon", epsilon, 0, 2**62 - 1)
    result: Tensor = torch.ops.genaccel.integer_rms_norm.default(_rows(x), gain, epsilon)
    return result.view(x.shape)


@torch.library.register_fake("genaccel::integer_rms_norm")
def _integer_rms_norm_fake(x: Tensor, gain: int, epsilon: int) -> Tensor:
    return x.new_empty(x.shape, dtype=torch.int8)


def integer_rotate_normalize(x: Tensor, rotations: Tensor) -> Tensor:
    """Queries or keys turned by their positions, each head scaled to length 127.

    Args:
        x: int16 ``[B, n, H, D]``, D even and at most 65536. Only its direction counts.
        rotations: int16 ``[n, D / 2, 2]``: 32767 times the cosine and the sine for the channels (2k, 2k + 1).

    Returns:
        int8 ``[B, n, H, D]``. A head of zeros stays one.

    Raises:
        TypeError: For another dtype.
        ValueError: For another shape.

    Example:
        >>> import torch
        >>> x = torch.tensor([1000, 0], dtype=torch.int16).view(1, 1, 1, 2)
        >>> quarter_turn = torch.tensor([[[0, 32767]]], dtype=torch.int16)
        >>> integer_rotate_normalize(x, quarter_turn).flatten()
        tensor([  0, 127], dtype=torch.int8)
    """
    require_dtype("x", x, torch.int16)
    require_dimensions("x", x, 4)
    tokens, channels = x.shape[1], x.shape[3]
    if channels % 2 or not 2 <= channels <= 65536:
        raise ValueError(f"x must have an even number of channels up to 65536, got {channels}")
    require_dtype("rotations", rotations, torch.int16)
    require_shape("rotations", rotations, (tokens, channels // 2, 2))
    return torch.ops.genaccel.integer_rotate_normalize.default(
        x.contiguous(), rotations.contiguous()
    )


@torch.library.register_fake("genaccel::integer_rotate_normalize")
def _integer_rotate_normalize_fake(x: Tensor, rotations: Tensor) -> Tensor:
    return x.new_empty(x.shape, dtype=torch.int8)


def integer_attention(
    query: Tensor, key: Tensor, value: Tensor, visible: Tensor, temperature: Tensor, gain: int = 256
) -> Tensor:
    """Attention of each query on the first keys of a cache.

    Weights are ``2**-(temperature * (largest score - score))`` in 14 bits; their weighted sum of the values is exact,
    and divided by the sum of the weights.

    Args:
        query: int8 ``[B, n, H, D]``, D at most 256.
        key: int8 ``[B, L, H, D]``, L at most 1023.
        value: int8 ``[B, L, H, D]``.
        visible: int32 ``[n]``: how many keys a query reads. Of none the output is zero; more than L mean L.
        temperature: int32 ``[H]``, not negative: octaves per unit of ``<query, key>``, 26 fraction bits.
        gain: 1 to 16383: output units per value unit, 8 fraction bits.

    Returns:
        int8 ``[B, n, H, D]``.

    Raises:
        TypeError: For another dtype, or a number that is no int.
        ValueError: For another shape, or a number out of range.

    Example:
        >>> import torch
        >>> query = torch.zeros(1, 1, 1, 2, dtype=torch.int8)
        >>> value = torch.tensor([[10, 20], [30, 60]], dtype=torch.int8).view(1, 2, 1, 2)
        >>> one = torch.ones(1, dtype=torch.int32)
        >>> integer_attention(query, value, value, 2 * one, one).flatten()
        tensor([20, 40], dtype=torch.int8)
    """
    for name, tensor in (("query", query), ("key", key), ("value", value)):
        require_dtype(name, tensor, torch.int8)
        require_dimensions(name, tensor, 4)
    batch, tokens, heads, channels = query.shape
    if not 1 <= channels <= MAX_HEAD_CHANNELS:
        raise ValueError(f"query must have 1 to {MAX_HEAD_CHANNELS} channels, got {channels}")
    if key.shape[1] > MAX_KEYS:
        raise ValueError(f"key must have at most {MAX_KEYS} tokens, got {key.shape[1]}")
    for name, tensor in (("key", key), ("value", value)):
        require_shape(name, tensor, (batch, key.shape[1], heads, channels))
    _require_vector("visible", visible, torch.int32, tokens)
    _require_vector("temperature", temperature, torch.int32, heads)
    _require_in_range("gain", gain, 1, MAX_ATTENTION_GAIN)
    return torch.ops.genaccel.integer_attention.default(
        query.contiguous(),
        key.contiguous(),
        value.contiguous(),
        visible.contiguous(),
        temperature.contiguous(),
        gain,
    )


@torch.library.register_fake("genaccel::integer_attention")
def _integer_attention_fake(
    query: Tensor, key: Tensor, value: Tensor, visible: Tensor, temperature: Tensor, gain: int
) -> Tensor:
    return torch.empty_like(query)


def integer_gate(x: Tensor, table: Tensor, shift: int) -> Tensor:
    """Gated activation: ``(table[gate + 128] * value) >> shift``, saturated.

    Args:
        x: int8 ``[..., 2 C]``: C gates, then C values.
        table: int16 ``[256]``: the activation of every gate, with the scales of both factors.
        shift: 1 to 30.

    Returns:
        int8 ``[..., C]``.

    Raises:
        TypeError: For another dtype, or a number that is no int.
        ValueError: For another shape, or a number out of range.

    Example:
        >>> import torch
        >>> identity = torch.arange(-128, 128, dtype=torch.int16)
        >>> integer_gate(torch.tensor([6, -5], dtype=torch.int8), identity, 1)
        tensor([-15], dtype=torch.int8)
    """
    _require_with_rows("x", x, torch.int8, 2**31)
    if x.shape[-1] % 2:
        raise ValueError(f"x must have an even number of channels, got {x.shape[-1]}")
    _require_vector("table", table, torch.int16, 256)
    _require_in_range("shift", shift, 1, 30)
    result: Tensor = torch.ops.genaccel.integer_gate.default(_rows(x), table.contiguous(), shift)
    return result.view(*x.shape[:-1], x.shape[-1] // 2)


@torch.library.register_fake("genaccel::integer_gate")
def _integer_gate_fake(x: Tensor, table: Tensor, shift: int) -> Tensor:
    return x.new_empty(x.shape[0], x.shape[1] // 2)


def integer_frequencies(
    logits: Tensor, fraction_bits: int, group_size: int = 1, group: Tensor | None = None
) -> Tensor:
    """Cumulative 16-bit tables of integer logits, of all symbols or in two levels.

    Weights are ``2**(logit - largest logit)`` in 16 bits. With C(e) the weights before entry e of E, W those of all and
    ``F = 2**16 - E``, an entry starts at ``e + floor(C(e) * F / W)``: each has a slot, and none is left over.

    A large alphabet is better coded in two steps, the group of a symbol and then the symbol of the group: tables of
    ``sqrt(K)`` entries instead of K, and a symbol may have as little as ``2**-32``, so that the slots that each entry
    must have cost next to nothing (0.02 bits per token for K = 1024 in one step).

    Args:
        logits: int32 ``[..., K]`` in octaves, K at most 32768.
        fraction_bits: Of the logits, 0 to 16.
        group_size: Consecutive symbols M of an entry; divides K.
        group: int64 ``[...]``, 0 to K / M - 1: tabulate the M members of this group of each row, and not the groups.

    Returns:
        int32 ``[..., E + 1]`` from 0 to 65536, strictly increasing; E is K / M, or M for the members of a group.

    Raises:
        TypeError: For another dtype, or a number that is no int.
        ValueError: For another shape, or a number out of range.
        RuntimeError: For a group out of range, on the CPU. On a GPU it is group 0, for looking would stall it.

    Example:
        >>> import torch
        >>> logits = torch.tensor([[0, 0, 1, -2]], dtype=torch.int32)
        >>> integer_frequencies(logits, 0)
        tensor([[    0, 15420, 30840, 61680, 65536]], dtype=torch.int32)
        >>> integer_frequencies(logits, 0, 2, torch.tensor([1]))
        tensor([[    0, 58253, 65536]], dtype=torch.int32)
    """
    _require_with_rows("logits", logits, torch.int32, MAX_SYMBOLS)
    _require_in_range("fraction_bits", fraction_bits, 0, 16)
    symbols = logits.shape[-1]
    _require_in_range("group_size", group_size, 1, symbols)
    if symbols % group_size:
        raise ValueError(f"group_size must divide the {symbols} symbols, got {group_size}")
    if group is not None:
        require_dtype("group", group, torch.int64)
        require_shape("group", group, logits.shape[:-1])
        group = group.reshape(-1).contiguous()
    tables: Tensor = torch.ops.genaccel.integer_frequencies.default(
        _rows(logits), fraction_bits, group_size, group
    )
    return tables.view(*logits.shape[:-1], tables.shape[-1])


@torch.library.register_fake("genaccel::integer_frequencies")
def _integer_frequencies_fake(
    logits: Tensor, fraction_bits: int, group_size: int, group: Tensor | None
) -> Tensor:
    entries = logits.shape[1] // group_size if group is None else group_size
    return logits.new_empty(logits.shape[0], entries + 1)
