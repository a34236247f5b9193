# SPDX-License-Identifier: Apache-2.0
"""Tables of entropy coders."""

import torch
from torch.nn import functional

from op_cases.case import OpCase


def _pmf_to_cdf_inputs(dtype, rows, symbols, precision):
    return torch.rand(rows, symbols, dtype=dtype).pow(8), precision


def _pmf_to_cdf_rival(pmf, precision):
    """Shares rounded down, a slot for each symbol; whatever is left goes to the last one."""
    count = pmf.shape[1]
    cumulative = functional.pad(pmf.double().cumsum(1), (1, 0))
    shares = cumulative * ((2**precision - count) / cumulative[:, -1:])
    return shares.int() + torch.arange(count + 1, dtype=torch.int32, device=pmf.device)


CASES = (
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
        rival=_pmf_to_cdf_rival,
        flops=lambda rows, symbols, precision: 6 * rows * symbols,
        bound="other",
        large={"rows": 21504, "symbols": 4096, "precision": 16},
        model={"rows": 504, "symbols": 4096, "precision": 16},
        tiny={"rows": 3, "symbols": 48, "precision": 16},
        # The left-over slots go to the largest remainders, which rounding down here ignores.
        atol=128,
        rtol=0,
    ),
)
