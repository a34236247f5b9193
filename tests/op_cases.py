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


def _nearest_code_inputs(dtype, rows, codes, dim):
    return torch.randn(rows, dim, dtype=dtype), torch.randn(codes, dim, dtype=dtype)


def _nearest_code_backward_inputs(dtype, rows, dim):
    return torch.randn(rows, dim, dtype=dtype), torch.randn(rows, dim, dtype=dtype)


def _pmf_to_cdf_inputs(dtype, rows, symbols, precision):
    return torch.rand(rows, symbols, dtype=dtype).pow(8), precision


def _normalized(features, codebook):
    """What the straight-through gradient is the gradient of."""
    del codebook
    return torch.nn.functional.normalize(features, dim=1)


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
)
