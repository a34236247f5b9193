# SPDX-License-Identifier: Apache-2.0
"""Weighted sums of cached tensors in plain torch."""

import torch
from torch import Tensor

__all__ = ["predict_add"]


def predict_add(
    bases: list[Tensor], history: list[Tensor], coefficients: list[float], offsets: list[float]
) -> list[Tensor]:
    """For each offset its base (zeros if there is none) plus it plus its share of the weighted history."""
    terms = len(history) // len(offsets)
    results = []
    for t, offset in enumerate(offsets):
        like = bases[t] if bases else history[t * terms]
        wide = torch.promote_types(like.dtype, torch.float32)
        total = (bases[t].to(wide) if bases else torch.zeros_like(like, dtype=wide)) + offset
        for i in range(t * terms, (t + 1) * terms):
            if coefficients[i] != 0:
                total = total + coefficients[i] * history[i].to(wide)
        results.append(total.to(like.dtype))
    return results
