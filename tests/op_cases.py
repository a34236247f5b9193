# SPDX-License-Identifier: Apache-2.0
"""One row per operator; ``tests/ops/test_conformance.py`` makes five checks of each row."""

from collections.abc import Callable
from dataclasses import dataclass, field

import torch


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
    mutates: tuple[
        int, ...
    ] = ()  # arguments that are outputs as well; the reference writes them too


def _nearest_code_inputs(dtype, rows, codes, dim):
    return torch.randn(rows, dim, dtype=dtype), torch.randn(codes, dim, dtype=dtype)


def _nearest_code_backward_inputs(dtype, rows, dim):
    return torch.randn(rows, dim, dtype=dtype), torch.randn(rows, dim, dtype=dtype)


def _pmf_to_cdf_inputs(dtype, rows, symbols, precision):
    return torch.rand(rows, symbols, dtype=dtype).pow(8), precision


def _select_tokens_inputs(dtype, batch, tokens, k, groups):
    # Few different scores: ties.
    return torch.randint(-5, 5, (batch, tokens)).to(dtype) / 4, k, groups


def _token_scores_inputs(dtype, batch, tokens, channels, with_reference):
    x = torch.randn(batch, tokens, channels, dtype=dtype)
    return x, x + torch.randn_like(x) / 4 if with_reference else None


def _index(batch, tokens, k):
    return torch.rand(batch, tokens).argsort(dim=1)[:, :k].contiguous()


def _gather_norm_modulate_inputs(dtype, batch, tokens, channels, k):
    x = torch.randn(batch, tokens, channels, dtype=dtype)
    shift, scale = torch.randn(2, batch, channels, dtype=dtype) / 2
    return x, _index(batch, tokens, k), shift, scale, 1e-6


def _scatter_gated_residual_inputs(dtype, batch, tokens, channels, k):
    residual, cache = torch.randn(2, batch, tokens, channels, dtype=dtype)
    rows = torch.randn(batch, k, channels, dtype=dtype)
    gate = torch.randn(batch, channels, dtype=dtype)
    return residual, cache.clone(), rows, _index(batch, tokens, k), gate


def _predict_add_inputs(dtype, tensors, history, size, with_bases):
    """The last tensor is longer than the others."""
    sizes = [size] * (tensors - 1) + [size if tensors == 1 else 2 * size + 1]
    bases = [torch.randn(n, dtype=dtype) for n in sizes] if with_bases else []
    terms = [torch.randn(n, dtype=dtype) for n in sizes for _ in range(history)]
    return bases, terms, torch.randn(len(terms)).tolist(), torch.randn(tensors).tolist()


def _normalized(features, codebook):
    """What the straight-through gradient is the gradient of."""
    del codebook
    return torch.nn.functional.normalize(features, dim=1)


HALF_TO_DOUBLE = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
TOKEN_SHAPES = (
    {"batch": 1, "tokens": 1, "channels": 1, "k": 1},
    {"batch": 0, "tokens": 4, "channels": 8, "k": 2},
    {"batch": 2, "tokens": 4, "channels": 8, "k": 0},
    {"batch": 3, "tokens": 5, "channels": 7, "k": 5},
    {"batch": 2, "tokens": 19, "channels": 72, "k": 6},
    {"batch": 1, "tokens": 9, "channels": 1155, "k": 4},
    {"batch": 1, "tokens": 3, "channels": 8320, "k": 2},  # more than a block keeps in registers
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
        name="gather_norm_modulate",
        make_inputs=_gather_norm_modulate_inputs,
        shapes=TOKEN_SHAPES,
        dtypes=HALF_TO_DOUBLE,
    ),
    OpCase(
        name="scatter_gated_residual",
        make_inputs=_scatter_gated_residual_inputs,
        shapes=TOKEN_SHAPES,
        dtypes=HALF_TO_DOUBLE,
        mutates=(1,),
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
