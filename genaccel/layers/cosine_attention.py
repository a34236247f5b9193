# SPDX-License-Identifier: Apache-2.0
"""Self-attention on unit queries and keys with a learned scale per head (RDVQ, arXiv 2604.10546)."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as functional
from torch import Tensor, nn

from genaccel.layers.rotary_position import rotate_pairs

_MAX_LOG_SCALE = math.log(100)
_INITIAL_LOG_SCALE = math.log(4)


class KeyValueCache:
    """Keys and values of the tokens so far, in one allocation of full length.

    Args:
        batch: Sequences B.
        heads: Attention heads H.
        length: Tokens of a whole sequence.
        head_dim: Channels of a head.
        like: A tensor of the device and dtype to use.
    """

    def __init__(self, batch: int, heads: int, length: int, head_dim: int, like: Tensor) -> None:
        self._keys = like.new_empty(batch, heads, length, head_dim)
        self._values = torch.empty_like(self._keys)
        self.batch = batch
        self.length = 0

    def append(self, keys: Tensor, values: Tensor) -> None:
        """Add ``[B, H, n, D]`` of the next n tokens."""
        end = self.length + keys.shape[2]
        self._keys[:, :, self.length : end] = keys
        self._values[:, :, self.length : end] = values
        self.length = end

    def contents(self) -> tuple[Tensor, Tensor]:
        """Keys and values ``[B, H, length, D]`` so far; views."""
        return self._keys[:, :, : self.length], self._values[:, :, : self.length]


class CosineAttention(nn.Module):
    """Multi-head attention with logits ``exp(min(a_h, ln 100)) <q, k>`` between unit vectors.

    Queries and keys are normalised first and turned by their positions after. Parameter names are those of the
    published checkpoints.

    Args:
        width: Channels of a token.
        heads: Attention heads H.
        dropout: Probability for the output, in training.
    """

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.dropout = dropout
        self.scale_mul_1H11 = nn.Parameter(torch.full((1, heads, 1, 1), _INITIAL_LOG_SCALE))
        self.wqkv = nn.Linear(width, 3 * width, bias=False)
        self.wo = nn.Linear(width, width, bias=False)

    def _project(self, x: Tensor, rotations: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        batch, tokens, width = x.shape
        heads = self.wqkv(x).view(batch, tokens, 3, self.heads, width // self.heads)
        pair = heads[:, :, :2]
        if pair.dtype in (torch.float16, torch.bfloat16):  # too coarse for positions
            pair = pair.float()
        turned = functional.normalize(pair, dim=-1)
        turned = rotate_pairs(turned.permute(2, 0, 3, 1, 4), rotations)  # [2, B, H, N, D]
        scale = self.scale_mul_1H11.clamp(max=_MAX_LOG_SCALE).exp()
        value = heads[:, :, 2].transpose(1, 2)  # [B, H, N, D]
        return (turned[0] * scale).to(value.dtype), turned[1].to(value.dtype), value

    def _attend(self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
        mixed = functional.scaled_dot_product_attention(
            query, key, value, attn_mask=mask, scale=1.0
        )
        output = self.wo(mixed.transpose(1, 2).flatten(2))
        return functional.dropout(output, self.dropout, self.training)

    def forward(self, x: Tensor, rotations: Tensor, mask: Tensor) -> Tensor:
        """All tokens at once.

        Args:
            x: ``[B, N, width]``.
            rotations: ``[N, D / 2, 2]``, as :func:`genaccel.layers.rotary_position.grid_rotations` makes them.
            mask: bool ``[N, N]``, True where a row may read a column.

        Returns:
            ``[B, N, width]``.
        """
        return self._attend(*self._project(x, rotations), mask)

    def step(
        self, x: Tensor, rotations: Tensor, cache: KeyValueCache, *, attends_own: bool
    ) -> Tensor:
        """The next tokens of a sequence, which are added to the cache.

        Args:
            x: ``[B, n, width]``.
            rotations: ``[n, D / 2, 2]``.
            cache: Keys and values of the tokens before; not empty unless ``attends_own``.
            attends_own: Whether the n tokens read each other too.

        Returns:
            ``[B, n, width]``.
        """
        query, key, value = self._project(x, rotations)
        before = cache.contents()
        cache.append(key, value)
        return self._attend(query, *(cache.contents() if attends_own else before), None)
