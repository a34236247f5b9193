# SPDX-License-Identifier: Apache-2.0
"""Which tokens of a cached transformer block to compute anew, in plain torch."""

import torch
from torch import Tensor

__all__ = ["select_tokens", "token_scores"]


def _wide(x: Tensor) -> Tensor:
    """At least float32."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def select_tokens(score: Tensor, k: int, groups: int) -> Tensor:
    """Ascending int64 indices ``[B, k]`` of the largest scores of ``[B, N]``, the lowest of equal ones first."""
    total, *others = score.chunk(groups) if len(score) else (score,)
    for other in others:
        total = total + other
    order = total.argsort(dim=1, descending=True, stable=True)  # [B / groups, N]
    return order[:, :k].sort(dim=1).values.repeat(groups if len(score) else 1, 1)


def token_scores(x: Tensor, reference: Tensor | None) -> Tensor:
    """float32 ``[B, N]``: magnitude of the mean over the channels of ``x`` ``[B, N, C]``, or of its change."""
    change = _wide(x) if reference is None else _wide(x) - _wide(reference)
    return change.mean(dim=2).abs().float()
