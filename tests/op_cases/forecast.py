# SPDX-License-Identifier: Apache-2.0
"""Weighted sums of cached tensors."""

import random

import torch

from op_cases.case import HALF_TO_DOUBLE, OpCase


def _predict_add_inputs(dtype, tensors, history, size, with_bases, with_offsets=1):
    """The last tensor is longer than the others."""
    sizes = [size] * (tensors - 1) + [size if tensors == 1 else 2 * size + 1]
    bases = [torch.randn(n, dtype=dtype) for n in sizes] if with_bases else []
    terms = [torch.randn(n, dtype=dtype) for n in sizes for _ in range(history)]
    coefficients = [random.gauss(0, 1) for _ in terms]
    return bases, terms, coefficients, [random.gauss(0, 1) * with_offsets for _ in sizes]


def _rival_of_one_tensor_and_two_terms(bases, history, coefficients, _zero_offset):
    first = torch.add(bases[0], history[0], alpha=coefficients[0])
    return [first.add_(history[1], alpha=coefficients[1])]


CASES = (
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
        rival=_rival_of_one_tensor_and_two_terms,
        flops=lambda size, history, **_: 2 * history * size,
        bound="memory",
        large={"size": 128 * 1024 * 1152},
        model={"size": 8 * 256 * 1152},
        tiny={"size": 4 * 24 * 48},
        variants={
            "of 2 terms": {"tensors": 1, "history": 2, "with_bases": 1, "with_offsets": 0},
        },
        bench_dtype=torch.bfloat16,
    ),
)
