# SPDX-License-Identifier: Apache-2.0
"""Partial updates of cached transformer blocks in plain torch."""

import torch
import torch.nn.functional as functional
from torch import Tensor


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


def gather_norm_modulate(
    x: Tensor, index: Tensor, shift: Tensor, scale: Tensor, eps: float
) -> Tensor:
    """Rows ``[B, k, C]`` of ``x`` ``[B, N, C]``, normalised, times ``1 + scale``, plus ``shift``."""
    channels = x.shape[2]
    rows = x.gather(1, index[:, :, None].expand(-1, -1, channels))
    normalized = functional.layer_norm(_wide(rows), (channels,), eps=eps)
    return (normalized * (1 + _wide(scale)[:, None]) + _wide(shift)[:, None]).to(x.dtype)


def scatter_gated_residual(
    residual: Tensor, cache: Tensor, rows: Tensor, index: Tensor, gate: Tensor
) -> Tensor:
    """``residual + gate * cache`` ``[B, N, C]`` after ``rows`` ``[B, k, C]`` were written into the cache."""
    cache.scatter_(1, index[:, :, None].expand(-1, -1, cache.shape[2]), rows)
    return (_wide(residual) + _wide(gate)[:, None] * _wide(cache)).to(residual.dtype)
