# SPDX-License-Identifier: Apache-2.0
"""Native operators, CPU and CUDA. ``genaccel.reference`` has the same names in plain torch."""

from genaccel.ops.entropy import pmf_to_cdf
from genaccel.ops.forecast import predict_add
from genaccel.ops.integer import (
    integer_attention,
    integer_frequencies,
    integer_gate,
    integer_linear,
    integer_rms_norm,
    integer_rotate_normalize,
)
from genaccel.ops.quantize import nearest_code, soft_cross_entropy
from genaccel.ops.tokens import select_tokens, token_scores

__all__ = [
    "integer_attention",
    "integer_frequencies",
    "integer_gate",
    "integer_linear",
    "integer_rms_norm",
    "integer_rotate_normalize",
    "nearest_code",
    "pmf_to_cdf",
    "predict_add",
    "select_tokens",
    "soft_cross_entropy",
    "token_scores",
]
