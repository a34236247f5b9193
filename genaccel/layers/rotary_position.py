# SPDX-License-Identifier: Apache-2.0
"""Rotary position embedding on normalised 2-D coordinates (RDVQ, arXiv 2604.10546; RoPE, arXiv 2104.09864)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

# Span of the coordinates and base of the frequencies, of the published code: part of the model.
_SPAN = 1000.0
_BASE = 1000.0


def grid_rotations(grid_sides: Sequence[int], head_dim: int) -> Tensor:
    """Cosine and sine of the angle of every channel pair at every token of a pyramid of square grids.

    Coordinates are fractions of the grid's side, so that tokens of different scales at the same place of the
    image have the same angles. The first half of the pairs turns with y, the second with x.

    Args:
        grid_sides: Tokens on a side of each grid.
        head_dim: Channels of an attention head, a multiple of 4.

    Returns:
        float32 ``[L, head_dim / 2, 2]``, grid by grid, row-major.

    Raises:
        ValueError: If ``head_dim`` is no positive multiple of 4.

    Example:
        >>> grid_rotations([4, 8, 16], head_dim=96).shape
        torch.Size([336, 48, 2])
    """
    if head_dim < 4 or head_dim % 4:
        raise ValueError(f"head_dim must be a positive multiple of 4, got {head_dim}")
    half = head_dim // 2
    # As published, every step is rounded to fp32: angles reach 937 radians, where that is part of the model. Quotients
    # and products in fp32 are the same on every machine; powers, cosines and sines are not, and the last bit of a
    # frequency moves an angle by 3e-5. Those are taken in fp64 and rounded once.
    exponents = np.arange(0, half, 2, dtype=np.float32) / np.float32(half)
    powers = np.power(_BASE, exponents.astype(np.float64)).astype(np.float32)
    frequencies = np.float32(1) / powers  # [head_dim / 4]
    tables = []
    for side in grid_sides:
        coordinates = np.arange(side, dtype=np.float32) / np.float32(side) * np.float32(_SPAN)
        angles = np.outer(coordinates, frequencies)  # [side, head_dim / 4]
        y = np.broadcast_to(angles[:, None], (side, side, len(frequencies)))
        x = np.broadcast_to(angles[None], (side, side, len(frequencies)))
        tables.append(np.concatenate([y, x], axis=2).reshape(side**2, half))
    exact = np.concatenate(tables).astype(np.float64)
    return torch.tensor(np.stack([np.cos(exact), np.sin(exact)], axis=2).astype(np.float32))


def rotate_pairs(x: Tensor, rotations: Tensor) -> Tensor:
    """Turn the channel pairs (2k, 2k + 1).

    Args:
        x: ``[..., N, D]``.
        rotations: ``[N, D / 2, 2]``, cosine and sine.

    Returns:
        ``[..., N, D]``.

    Example:
        >>> rotate_pairs(torch.tensor([[1.0, 0.0]]), torch.tensor([[[0.0, 1.0]]]))
        tensor([[0., 1.]])
    """
    cosine, sine = rotations[..., 0], rotations[..., 1]
    even, odd = x[..., 0::2], x[..., 1::2]
    turned = torch.stack([even * cosine - odd * sine, odd * cosine + even * sine], dim=-1)
    return turned.flatten(-2)
