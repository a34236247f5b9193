# SPDX-License-Identifier: Apache-2.0
"""Nearest code words and the relaxed rate."""

import math

import torch
from torch.nn import functional

from genaccel import reference
from op_cases.case import HALF_TO_DOUBLE, OpCase


def _nearest_code_inputs(dtype, rows, codes, dim):
    return torch.randn(rows, dim, dtype=dtype), torch.randn(codes, dim, dtype=dtype)


def _nearest_code_rival(features, codebook):
    unit_codes = functional.normalize(codebook, dim=1)
    indices = (functional.normalize(features, dim=1) @ unit_codes.T).argmax(1)
    return unit_codes[indices], indices


def _normalized(features, codebook):
    """What the straight-through gradient is the gradient of."""
    del codebook
    return functional.normalize(features, dim=1)


def _nearest_code_backward_inputs(dtype, rows, dim):
    return torch.randn(rows, dim, dtype=dtype), torch.randn(rows, dim, dtype=dtype)


def _nearest_code_backward_rival(grad, features):
    inverse = features.norm(dim=1, keepdim=True).clamp_min(1e-12).reciprocal()
    unit_rows = features * inverse
    return (grad - (grad * unit_rows).sum(1, keepdim=True) * unit_rows) * inverse


def _soft_cross_entropy_inputs(dtype, rows, codes, dim, temperature=1.0):
    """Nearly unit vectors, so that no rounding of a score is blown up; features are never 16 bits wide."""
    wide = torch.promote_types(dtype, torch.float32)
    features = torch.randn(rows, dim, dtype=wide) / dim**0.5
    codebook = torch.randn(codes, dim, dtype=wide) / dim**0.5
    return features, codebook, torch.randn(rows, codes, dtype=wide).mul(2).to(dtype), temperature


def _scores(features, codebook):
    return torch.addmm(codebook.square().sum(1), features, codebook.T, beta=-0.5)


def _soft_cross_entropy_rival(features, codebook, logits, temperature):
    score = _scores(features, codebook)
    soft = functional.softmax(score * (2 / temperature), dim=1)
    rate = functional.cross_entropy(logits, soft, reduction="none")
    return rate / math.log(2), score.argmax(1)


def _rate(*inputs):
    return reference.soft_cross_entropy(*inputs)[0]


def _soft_cross_entropy_backward_inputs(dtype, rows, codes, dim, wanted, temperature=1.0):
    """``wanted``: bits for features, codebook and logits."""
    inputs = _soft_cross_entropy_inputs(dtype, rows, codes, dim, temperature)
    exact = [tensor.double() for tensor in inputs[:3]]
    # Not the reference, which would store [rows, codes, dim].
    _, indices, statistics = torch.ops.genaccel.soft_cross_entropy(*exact, temperature)
    statistics = statistics.to(inputs[0].dtype)
    # As in a mean over tokens: nothing is larger than 1, by which the error is measured.
    grad = torch.randn(rows, dtype=inputs[0].dtype) / 32
    flags = [bool(wanted & bit) for bit in (1, 2, 4)]
    return grad, *inputs[:3], indices, statistics, temperature, *flags


def _soft_cross_entropy_backward_rival(
    grad, features, codebook, logits, _indices, _statistics, temperature, *_all_wanted
):
    soft = functional.softmax(_scores(features, codebook) * (2 / temperature), dim=1)
    log_model = functional.log_softmax(logits, dim=1)
    in_bits = grad[:, None] / math.log(2)
    mean = (soft * log_model).sum(1, keepdim=True)
    to_scores = soft * (mean - log_model) * in_bits * (2 / temperature)
    to_codes = to_scores.T @ features - to_scores.sum(0)[:, None] * codebook
    return to_scores @ codebook, to_codes, (log_model.exp() - soft) * in_bits


def _matrix_bytes(rows, codes, **_):
    return 4 * rows * codes


SIZES = {
    "large": {"rows": 86016, "codes": 4096, "dim": 32},
    "model": {"rows": 5376, "codes": 4096, "dim": 32},
    "tiny": {"rows": 64, "codes": 48, "dim": 8},
}
SOFT_SHAPES = (
    {"rows": 0, "codes": 5, "dim": 3},
    {"rows": 1, "codes": 1, "dim": 1},
    {"rows": 5, "codes": 12, "dim": 3},
    {"rows": 7, "codes": 33, "dim": 5},
    {"rows": 131, "codes": 257, "dim": 32},
    {"rows": 66, "codes": 520, "dim": 8},
    {"rows": 35, "codes": 31, "dim": 100},
)
CASES = (
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
        rival=_nearest_code_rival,
        flops=lambda rows, codes, dim: 2 * rows * codes * dim,
        bound="matrix",
        **SIZES,
        atol=1e-4,
        may_differ=0.01,
        rival_bytes=_matrix_bytes,
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
        rival=_nearest_code_backward_rival,
        flops=lambda rows, dim: 8 * rows * dim,
        bound="memory",
        large={"rows": 86016, "dim": 32},
        model={"rows": 5376, "dim": 32},
        tiny={"rows": 64, "dim": 8},
        atol=1e-4,
    ),
    OpCase(
        name="soft_cross_entropy",
        make_inputs=_soft_cross_entropy_inputs,
        shapes=SOFT_SHAPES,
        dtypes=HALF_TO_DOUBLE,
        differentiable=(0, 1, 2),
        gradcheck_of=_rate,
        rival=_soft_cross_entropy_rival,
        flops=lambda rows, codes, dim, **_: 2 * rows * codes * (dim + 4),
        bound="matrix",
        **SIZES,
        variants={"": {"temperature": 0.1}},
        bench_dtype=torch.float32,
        atol=1e-3,
        may_differ=0.01,
        compared=2,
        rival_bytes=_matrix_bytes,
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
        rival=_soft_cross_entropy_backward_rival,
        # Scores again, and the products to features and to code words.
        flops=lambda rows, codes, dim, **_: 2 * rows * codes * (3 * dim + 4),
        bound="matrix",
        **SIZES,
        variants={"": {"temperature": 0.1, "wanted": 7}},
        bench_dtype=torch.float32,
        atol=1e-3,
        rival_bytes=_matrix_bytes,
    ),
)
