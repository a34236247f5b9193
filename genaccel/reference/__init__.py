# SPDX-License-Identifier: Apache-2.0
"""The operators of ``genaccel.ops`` in plain torch: the specification. Nothing but tests imports it."""

from genaccel.reference.entropy import pmf_to_cdf
from genaccel.reference.forecast import predict_add
from genaccel.reference.integer import (
    integer_attention,
    integer_frequencies,
    integer_gate,
    integer_linear,
    integer_rms_norm,
    integer_rotate_normalize,
)
from genaccel.reference.quantize import (
    nearest_code,
    nearest_code_backward,
    soft_cross_entropy,
    soft_cross_entropy_backward,
)
from genaccel.reference.tokens import select_tokens, token_scores

__all__ = [
    "integer_attention",
    "integer_frequencies",
    "integer_gate",
    "integer_linear",
    "integer_rms_norm",
    "integer_rotate_normalize",
    "nearest_code",
    "nearest_code_backward",
    "pmf_to_cdf",
    "predict_add",
    "select_tokens",
    "soft_cross_entropy",
    "soft_cross_entropy_backward",
    "token_scores",
]
