# SPDX-License-Identifier: Apache-2.0
"""A layer of transformers' ``DynamicCache`` with room behind what it holds, so that a new row costs no copy of the old ones."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from transformers.cache_utils import DynamicLayer

# Columns by which room grows.
ROOM = 128


class GrowingLayer(DynamicLayer):
    """Keys and values of a layer, ``[B, heads, columns, channels]``, of which the first ``length`` columns count.

    Rows that come are written behind these, over whatever stands there.

    Attributes:
        length: Columns that count; it may be lowered at any time.
    """

    keys: Any
    values: Any
    length = 0

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Append rows ``[B, heads, rows, channels]``; returns views of all that count."""
        begin, end = self.length, self.length + key_states.shape[2]
        if not self.is_initialized or end > self.keys.shape[2]:
            columns = (end + ROOM - 1) // ROOM * ROOM
            self.keys = self._with_room(self.keys, key_states, columns)
            self.values = self._with_room(self.values, value_states, columns)
            self.device, self.is_initialized = key_states.device, True
        self.keys.narrow(2, begin, end - begin).copy_(key_states)
        self.values.narrow(2, begin, end - begin).copy_(value_states)
        self.length = end
        return self.keys.narrow(2, 0, end), self.values.narrow(2, 0, end)

    def _with_room(self, old: Tensor | None, added: Tensor, columns: int) -> Tensor:
        # Zeros, since a column that is hidden still takes part in sums, where it must not be NaN.
        grown = added.new_zeros(*added.shape[:2], columns, added.shape[3])
        if old is not None:
            grown[:, :, : self.length] = old[:, :, : self.length]
        return grown

    def get_seq_length(self) -> int:
        """Columns that count."""
        return self.length

    def crop(self, tokens_to_remove: int) -> None:
        """Let ``-tokens_to_remove`` columns less count."""
        self.length -= abs(tokens_to_remove)

    def reset(self) -> None:
        """Forget all."""
        super().reset()
        self.length = 0
