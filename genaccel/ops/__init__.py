# SPDX-License-Identifier: Apache-2.0
"""Native operators, CPU and CUDA. ``genaccel.reference`` has the same names in plain torch."""

from genaccel.ops.entropy import pmf_to_cdf
from genaccel.ops.forecast import predict_add
from genaccel.ops.quantize import nearest_code
from genaccel.ops.tokens import (
    gather_norm_modulate,
    scatter_gated_residual,
    select_tokens,
    token_scores,
)

__all__ = [
    "gather_norm_modulate",
    "nearest_code",
    "pmf_to_cdf",
    "predict_add",
    "scatter_gated_residual",
    "select_tokens",
    "token_scores",
]
