# SPDX-License-Identifier: Apache-2.0
"""One row per operator; ``tests/ops/test_conformance.py`` makes five checks of each row."""

from collections.abc import Callable
from dataclasses import dataclass, field

import torch

from genaccel import reference


@dataclass(frozen=True, kw_only=True)
class OpCase:
    """How to test ``torch.ops.genaccel.<name>`` against ``genaccel.reference.<name>``.

    ``shapes`` holds keyword arguments for ``make_inputs(dtype, **shape)``; empty, single and odd ones included.
    ``exact`` outputs must be equal to the bit, on every device; others may have twice the error of plain torch.
    """

    name: str
    make_inputs: Callable[..., tuple]
    shapes: tuple[dict, ...]
    dtypes: tuple[torch.dtype, ...] = (torch.float32, torch.float64)
    differentiable: tuple[int, ...] = field(default=())  # arguments that get a gradient
    gradcheck_of: Callable[..., torch.Tensor] | None = None  # its gradient is that of the op


def _nearest_code_inputs(dtype, rows, codes, dim):
    return torch.randn(rows, dim, dtype=dtype), torch.randn(codes, dim, dtype=dtype)


def _nearest_code_backward_inputs(dtype, rows, dim):
    return torch.randn(rows, dim, dtype=dtype), torch.randn(rows, dim, dtype=dtype)


def _soft_cross_entropy_inputs(dtype, rows, codes, dim):
    """Nearly unit vectors, so that no rounding of a score is blown up; features are never 16 bits wide."""
    wide = torch.promote_types(dtype, torch.float32)
    features = torch.randn(rows, dim, dtype=wide) / dim**0.5
    codebook = torch.randn(codes, dim, dtype=wide) / dim**0.5
    return features, codebook, torch.randn(rows, codes, dtype=wide).mul(2).to(dtype), 1.0


def _soft_cross_entropy_backward_inputs(dtype, rows, codes, dim, wanted):
    """``wanted``: bits for features, codebook and logits."""
    inputs = _soft_cross_entropy_inputs(dtype, rows, codes, dim)
    exact = [tensor.double() for tensor in inputs[:3]]
    _, indices, statistics = reference.soft_cross_entropy(*exact, inputs[3])
    statistics = statistics.to(inputs[0].dtype)
    # As in a mean over tokens: nothing is larger than 1, by which the error is measured.
    grad = torch.randn(rows, dtype=inputs[0].dtype) / 32
    flags = [bool(wanted & bit) for bit in (1, 2, 4)]
    return grad, *inputs[:3], indices, statistics, inputs[3], *flags


def _rate(*inputs):
    return reference.soft_cross_entropy(*inputs)[0]


def _pmf_to_cdf_inputs(dtype, rows, symbols, precision):
    return torch.rand(rows, symbols, dtype=dtype).pow(8), precision


def _select_tokens_inputs(dtype, batch, tokens, k, groups):
    # Few different scores: ties.
    return torch.randint(-5, 5, (batch, tokens)).to(dtype) / 4, k, groups


def _token_scores_inputs(dtype, batch, tokens, channels, with_reference):
    x = torch.randn(batch, tokens, channels, dtype=dtype)
    return x, x + torch.randn_like(x) / 4 if with_reference else None


def _predict_add_inputs(dtype, tensors, history, size, with_bases):
    """The last tensor is longer than the others."""
    sizes = [size] * (tensors - 1) + [size if tensors == 1 else 2 * size + 1]
    bases = [torch.randn(n, dtype=dtype) for n in sizes] if with_bases else []
    terms = [torch.randn(n, dtype=dtype) for n in sizes for _ in range(history)]
    return bases, terms, torch.randn(len(terms)).tolist(), torch.randn(tensors).tolist()


def _integers(dtype, *shape):
    """All values of the type."""
    limits = torch.iinfo(dtype)
    return torch.randint(limits.min, limits.max + 1, shape, dtype=dtype)


def _integer_linear_inputs(dtype, rows, inputs, outputs, output_bytes, with_bias):
    multiplier = torch.randint(0, 2**31 - 1, (outputs,), dtype=torch.int32)
    bias = torch.randint(-(2**20), 2**20, (outputs,), dtype=torch.int32) if with_bias else None
    x, weight = _integers(dtype, rows, inputs), _integers(dtype, outputs, inputs)
    return x, weight, bias, multiplier, {1: 48, 2: 42, 4: 34}[output_bytes], 8 * output_bytes


def _integer_rms_norm_inputs(dtype, rows, channels):
    """From rows of small numbers to rows of all of 32 bits."""
    scale = torch.arange(rows)[:, None] * 7 % 31
    x = _integers(torch.int32, rows, channels) >> scale.int()
    return x, 32 * round(channels**0.5), 50 * channels


def _integer_rotate_normalize_inputs(dtype, batch, tokens, heads, pairs):
    x = _integers(torch.int16, batch, tokens, heads, 2 * pairs)
    angles = torch.rand(tokens, pairs) * 6.3
    rotations = torch.stack([angles.cos(), angles.sin()], dim=-1).mul(32767).round().short()
    return x // (1 + 37 * torch.arange(tokens)[:, None, None]).short(), rotations


def _integer_attention_inputs(dtype, batch, tokens, keys, heads, channels):
    query = _integers(dtype, batch, tokens, heads, channels)
    key, value = _integers(dtype, 2, batch, keys, heads, channels)
    visible = torch.randint(0, keys + 1, (tokens,), dtype=torch.int32)
    temperature = torch.tensor([40, 40000, 2**31 - 1, 0], dtype=torch.int32).repeat(heads)[:heads]
    return query, key.clone(), value.clone(), visible, temperature, 700


def _integer_gate_inputs(dtype, rows, channels):
    return _integers(dtype, rows, 2 * channels), _integers(torch.int16, 256), 14


def _integer_frequencies_inputs(dtype, rows, symbols, group_size, of_members):
    logits = torch.randn(rows, symbols).mul(4000).int()
    group = torch.randint(0, symbols // group_size, (rows,)) if of_members else None
    return logits, 10, group_size, group


def _normalized(features, codebook):
    """What the straight-through gradient is the gradient of."""
    del codebook
    return torch.nn.functional.normalize(features, dim=1)


HALF_TO_DOUBLE = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
SOFT_SHAPES = (
    {"rows": 0, "codes": 5, "dim": 3},
    {"rows": 1, "codes": 1, "dim": 1},
    {"rows": 5, "codes": 12, "dim": 3},
    {"rows": 7, "codes": 33, "dim": 5},
    {"rows": 131, "codes": 257, "dim": 32},
    {"rows": 66, "codes": 520, "dim": 8},
    {"rows": 35, "codes": 31, "dim": 100},
)
OP_CASES = (
    OpCase(
        name="nearest_code",
        make_inputs=_nearest_code_inputs,
        shapes=(
            {"rows": 0, "codes": 5, "dim": 3},
            {"rows": 1, "codes": 1, "dim": 1},
            {"rows": 7, "codes": 33, "dim": 5},
            {"rows": 131, "codes": 257, "dim": 8},
            {"rows": 260, "codes": 512, "dim": 32},
            {"rows": 65, "codes": 31, "dim": 100},
        ),
        differentiable=(0,),
        gradcheck_of=_normalized,
    ),
    OpCase(
        name="nearest_code_backward",
        make_inputs=_nearest_code_backward_inputs,
        shapes=(
            {"rows": 0, "dim": 3},
            {"rows": 1, "dim": 1},
            {"rows": 7, "dim": 5},
            {"rows": 1030, "dim": 33},
        ),
    ),
    OpCase(
        name="soft_cross_entropy",
        make_inputs=_soft_cross_entropy_inputs,
        shapes=SOFT_SHAPES,
        dtypes=HALF_TO_DOUBLE,
        differentiable=(0, 1, 2),
        gradcheck_of=_rate,
    ),
    OpCase(
        name="soft_cross_entropy_backward",
        make_inputs=_soft_cross_entropy_backward_inputs,
        shapes=(
            {"rows": 1, "codes": 1, "dim": 1, "wanted": 1},
            *({**shape, "wanted": 7} for shape in SOFT_SHAPES),
            *({**SOFT_SHAPES[3], "wanted": wanted} for wanted in (0, 2, 4, 5)),
        ),
        dtypes=HALF_TO_DOUBLE,
    ),
    OpCase(
        name="pmf_to_cdf",
        make_inputs=_pmf_to_cdf_inputs,
        shapes=(
            {"rows": 0, "symbols": 4, "precision": 8},
            {"rows": 1, "symbols": 1, "precision": 1},
            {"rows": 3, "symbols": 256, "precision": 8},
            {"rows": 5, "symbols": 257, "precision": 16},
            {"rows": 2, "symbols": 1000, "precision": 24},
        ),
    ),
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
    ),
    OpCase(
        name="select_tokens",
        make_inputs=_select_tokens_inputs,
        shapes=(
            {"batch": 1, "tokens": 1, "k": 1, "groups": 1},
            {"batch": 0, "tokens": 4, "k": 2, "groups": 2},
            {"batch": 2, "tokens": 4, "k": 0, "groups": 1},
            {"batch": 2, "tokens": 0, "k": 0, "groups": 1},
            {"batch": 3, "tokens": 7, "k": 7, "groups": 1},
            {"batch": 6, "tokens": 257, "k": 100, "groups": 3},
            {"batch": 4, "tokens": 1000, "k": 999, "groups": 2},
            {"batch": 2, "tokens": 8193, "k": 3000, "groups": 2},
        ),
        dtypes=(torch.float32,),
    ),
    OpCase(
        name="token_scores",
        make_inputs=_token_scores_inputs,
        shapes=(
            {"batch": 1, "tokens": 1, "channels": 1, "with_reference": 1},
            {"batch": 0, "tokens": 3, "channels": 8, "with_reference": 0},
            {"batch": 2, "tokens": 3, "channels": 5, "with_reference": 0},
            {"batch": 2, "tokens": 9, "channels": 40, "with_reference": 1},
            {"batch": 3, "tokens": 7, "channels": 1155, "with_reference": 0},
            {"batch": 1, "tokens": 65, "channels": 1152, "with_reference": 1},
        ),
        dtypes=HALF_TO_DOUBLE,
    ),
    OpCase(
        name="predict_add",
        make_inputs=_predict_add_inputs,
        shapes=(
            {"tensors": 1, "history": 1, "size": 1, "with_bases": 1},
            {"tensors": 2, "history": 2, "size": 0, "with_bases": 1},
            {"tensors": 2, "history": 0, "size": 5, "with_bases": 1},
            {"tensors": 3, "history": 3, "size": 77, "with_bases": 0},
            {"tensors": 61, "history": 2, "size": 40, "with_bases": 1},  # more than one launch
            {"tensors": 1, "history": 128, "size": 1155, "with_bases": 0},
        ),
        dtypes=HALF_TO_DOUBLE,
    ),
)
