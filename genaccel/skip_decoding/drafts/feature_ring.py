# SPDX-License-Identifier: Apache-2.0
"""The last features that a target gave, for drafts that have to go on without new ones."""

from __future__ import annotations

import torch
from torch import Tensor


class FeatureRing:
    """The last features of each sequence, and no more than can be asked for.

    Args:
        features: The first ones, ``[B, n, C]``, the last of each sequence at the end.
        counts: How many of these each has, ``[B]``.
        length: Most that are kept.
    """

    def __init__(self, features: Tensor, counts: Tensor, length: int) -> None:
        self._length = length
        self._features = features[:, -length:]
        self._counts = counts.clamp(max=length)

    def append(self, features: Tensor, counts: Tensor) -> None:
        """Add the first ``counts``, ``[B]``, of features ``[B, n, C]``."""
        both = torch.cat((self._features, features), 1)
        self._counts = (self._counts + counts).clamp(max=self._length)
        width = min(self._length, both.shape[1])
        ends = self._features.shape[1] + counts
        columns = ends[:, None] - width + torch.arange(width, device=ends.device)
        self._features = _rows(both, columns.clamp(min=0))

    def last(self, counts: Tensor, width: int, *, older: int = 0) -> Tensor:
        """The last ``counts``, ``[B]``, of each in their order; where there are fewer, the last one again.

        Args:
            counts: How many.
            width: Of the result, whose columns behind ``counts`` are of no use.
            older: The ones that came so many before them.

        Returns:
            ``[B, width, C]``
        """
        end = self._features.shape[1]
        first = (end - older - counts).maximum(end - self._counts)
        columns = first[:, None] + torch.arange(width, device=counts.device)
        return _rows(
            self._features, columns.clamp(max=max(end - 1 - older, 0)).maximum(first[:, None])
        )

    def select(self, rows: Tensor) -> None:
        """Go on with some sequences."""
        self._features, self._counts = self._features[rows], self._counts[rows]


def _rows(features: Tensor, columns: Tensor) -> Tensor:
    return features.gather(1, columns[..., None].expand(-1, -1, features.shape[2]))
