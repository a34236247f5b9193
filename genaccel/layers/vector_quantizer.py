# SPDX-License-Identifier: Apache-2.0
"""Vector quantisation with unit-norm code words (RDVQ, arXiv 2604.10546, equations 3 to 5)."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as functional
from torch import Tensor, nn

from genaccel import ops


class Quantized(NamedTuple):
    """Result of quantising one map of features: code words, their indices, and losses."""

    values: Tensor  # [B, C, H, W] unit-norm code words; straight-through gradient to the features
    indices: Tensor  # [B, H, W] int64
    codebook_loss: Tensor  # scalar: code words move towards the features
    commitment_loss: Tensor  # scalar: features move towards the code words


class VectorQuantizer(nn.Module):
    """Nearest code word of a shared codebook, on L2-normalised features.

    With unit vectors the squared distance is ``2 - 2 <y, c>``, so the nearest code word is the one with the
    largest cosine. The gradient of the output passes straight through to the normalised features.

    Args:
        codebook_size: Number of code words K.
        codebook_dim: Channels C of a code word.
    """

    def __init__(self, codebook_size: int, codebook_dim: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(codebook_size, codebook_dim)
        with torch.no_grad():
            self.embedding.weight.copy_(
                functional.normalize(torch.randn(codebook_size, codebook_dim))
            )

    @property
    def codebook(self) -> Tensor:
        """Unit-norm code words, ``[K, C]``; differentiable."""
        return functional.normalize(self.embedding.weight, dim=1)

    def forward(self, features: Tensor) -> Quantized:
        """Quantise ``features`` ``[B, C, H, W]``.

        Raises:
            ValueError: If the channels differ from the codebook's dimension.
        """
        batch, channels, height, width = features.shape
        if channels != self.embedding.embedding_dim:
            raise ValueError(
                f"features must have {self.embedding.embedding_dim} channels, got {channels}"
            )
        # Distances in 8 bits of mantissa would pick other code words than the codec does: always fp32.
        rows = features.permute(0, 2, 3, 1).reshape(-1, channels)  # [N, C]
        if rows.dtype in (torch.float16, torch.bfloat16):
            rows = rows.float()
        values, indices = ops.nearest_code(rows, self.embedding.weight)
        unit_rows = functional.normalize(rows, dim=1)
        codes = self.codebook[indices]  # [N, C], gradient to the code words
        codebook_loss = functional.mse_loss(codes, unit_rows.detach())
        commitment_loss = functional.mse_loss(unit_rows, codes.detach())
        return Quantized(
            values=values.to(features.dtype)
            .view(batch, height, width, channels)
            .permute(0, 3, 1, 2),
            indices=indices.view(batch, height, width),
            codebook_loss=codebook_loss,
            commitment_loss=commitment_loss,
        )

    def lookup(self, indices: Tensor) -> Tensor:
        """Code words ``[B, C, H, W]`` for ``indices`` ``[B, H, W]``."""
        return self.codebook[indices].permute(0, 3, 1, 2)
