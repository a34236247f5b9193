# SPDX-License-Identifier: Apache-2.0
"""Vector quantisation in plain torch."""

import math

import torch
import torch.nn.functional as functional
from torch import Tensor

__all__ = [
    "nearest_code",
    "nearest_code_backward",
    "soft_cross_entropy",
    "soft_cross_entropy_backward",
]


def nearest_code(features: Tensor, codebook: Tensor) -> tuple[Tensor, Tensor]:
    """Code words ``[N, C]`` and indices ``[N]`` of ``features`` ``[N, C]`` in ``codebook`` ``[K, C]``."""
    codes = functional.normalize(codebook, dim=1)  # [K, C]
    unit = functional.normalize(features, dim=1)  # [N, C]
    with torch.no_grad():
        indices = (unit @ codes.T).argmax(dim=1)  # [N]
        chosen = codes[indices]
    return unit + (chosen - unit).detach(), indices


def nearest_code_backward(grad: Tensor, features: Tensor) -> Tensor:
    """Gradient ``[N, C]`` of the normalisation of ``features`` for ``grad`` ``[N, C]``."""
    norm = features.norm(dim=1, keepdim=True)
    unit = features / norm.clamp_min(1e-12)
    along = (grad * unit).sum(dim=1, keepdim=True)
    return torch.where(norm > 0, (grad - along * unit) / norm.clamp_min(1e-12), 0.0)


def soft_cross_entropy(
    features: Tensor, codebook: Tensor, logits: Tensor, temperature: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Rate ``[N]`` in bits, nearest indices ``[N]``, and the statistics ``[N, 5]`` that the backward takes."""
    wide = logits.to(features.dtype)
    distance = (features[:, None] - codebook[None]).square().sum(dim=2)  # [N, K]
    soft = functional.softmax(-distance / temperature, dim=1)
    rate = -(soft * functional.log_softmax(wide, dim=1)).sum(dim=1) / math.log(2)
    with torch.no_grad():
        score = features @ codebook.T - codebook.square().sum(dim=1) / 2  # [N, K]
        best, largest = score.amax(dim=1), wide.amax(dim=1)
        relative = wide - largest[:, None]
        soft_sum = (2 / temperature * (score - best[:, None])).exp().sum(dim=1)
        mean = (soft * relative).sum(dim=1)
        statistics = torch.stack([best, soft_sum, largest, relative.exp().sum(dim=1), mean], dim=1)
    return rate, score.argmax(dim=1), statistics


def soft_cross_entropy_backward(
    grad: Tensor,
    features: Tensor,
    codebook: Tensor,
    logits: Tensor,
    indices: Tensor,
    statistics: Tensor,
    temperature: float,
    with_features: bool,
    with_codebook: bool,
    with_logits: bool,
) -> tuple[Tensor, ...]:
    """Gradients to features, codebook and logits; those that are not wanted have no elements."""
    del indices, statistics
    wanted = (with_features, with_codebook, with_logits)
    with torch.enable_grad():
        y, c, z = (t.detach().requires_grad_() for t in (features, codebook, logits))
        rate, _, _ = soft_cross_entropy(y, c, z, temperature)
        gradients = torch.autograd.grad(rate, (y, c, z), grad)
    return tuple(g if w else g.new_empty(0) for g, w in zip(gradients, wanted, strict=True))
