# SPDX-License-Identifier: Apache-2.0
"""One row per operator; ``tests/ops/test_conformance.py`` makes five checks of each, ``bench/gpu_ops.py`` measures it."""

from op_cases import decoding, entropy, forecast, frequency, integer, quantize, tokens
from op_cases.case import OpCase

OP_CASES: tuple[OpCase, ...] = (
    *quantize.CASES,
    *entropy.CASES,
    *integer.CASES,
    *tokens.CASES,
    *forecast.CASES,
    *decoding.CASES,
    *frequency.CASES,
)
