# SPDX-License-Identifier: Apache-2.0
"""Integer tables in plain torch."""

import torch
from torch import Tensor

__all__ = ["pmf_to_cdf"]


def pmf_to_cdf(pmf: Tensor, precision: int) -> Tensor:
    """int32 ``[rows, S + 1]`` for probabilities ``[rows, S]``, in exact Python integers after one rounding."""
    one = 2 ** (62 - precision)
    tables = []
    for row in pmf.double():
        values = [p if p > 0 and p != float("inf") else 0.0 for p in row.tolist()]
        largest = max(values)
        weights = [round(p / largest * one) if largest > 0 else one for p in values]
        free_slots = 2**precision - len(weights)
        shares = [divmod(weight * free_slots, sum(weights)) for weight in weights]
        frequencies = [1 + whole for whole, _ in shares]
        left_over = 2**precision - sum(frequencies)
        by_remainder = sorted(range(len(shares)), key=lambda s: (-shares[s][1], s))
        for symbol in by_remainder[:left_over]:
            frequencies[symbol] += 1
        cumulative = [0]
        for frequency in frequencies:
            cumulative.append(cumulative[-1] + frequency)
        tables.append(cumulative)
    return torch.tensor(tables, dtype=torch.int32).view(pmf.shape[0], pmf.shape[1] + 1)
