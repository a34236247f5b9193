# SPDX-License-Identifier: Apache-2.0
"""Vector quantisation in plain torch."""

import torch
import torch.nn.functional as functional
from torch import Tensor


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
