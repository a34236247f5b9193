# SPDX-License-Identifier: Apache-2.0
"""A causal language model of transformers and its cache, fed with trees of guesses of which some are kept.

The cache is transformers' own ``DynamicCache``. Sequences keep different numbers of guesses, so each has its own length;
what lies behind it is hidden by the mask, never zeroed (a key of zeros would still get attention), and written over by
the next guesses that are kept.
"""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from genaccel.skip_decoding.draft_tree import TreeShape
from genaccel.skip_decoding.report import ModelTime


@dataclass(frozen=True, kw_only=True, slots=True)
class RowOutput:
    """What a model says about rows.

    Attributes:
        logits: Of the token after each row, ``[B, R, V]``, float32 or float64.
        features: Last hidden state of each row, after the final norm, ``[B, R, C]``; None unless asked for.
    """

    logits: Tensor
    features: Tensor | None


class CachedRows:
    """The model's memory of a batch of sequences.

    Args:
        model: A decoder-only language model of transformers, in evaluation mode.
        with_features: Whether outputs have the hidden states that logits are made of.

    Attributes:
        starts: First column of the cache that each sequence has, ``[B]``: behind the padding on its left.
        ends: Column behind its last one, ``[B]``.
        numbers: Place of each in the batch that was read first, ``[B]``; a model whose forward has an argument
            ``row_numbers`` is told them.
        with_features: As given; it may be changed between forwards.
        time: Of the model's forwards.

    Raises:
        TypeError: If the model keeps no cache that can be cut, or has sliding windows.
    """

    def __init__(self, model: Any, *, with_features: bool = False) -> None:
        from transformers import DynamicCache

        parameters = inspect.signature(model.forward).parameters
        # Renamed in transformers 5.24, where the former name warns.
        self._cache_name = "cache" if "cache" in parameters else "past_key_values"
        if self._cache_name not in parameters or "position_ids" not in parameters:
            raise TypeError(
                f"{type(model).__name__} cannot be decoded speculatively: its forward takes no cache or no position_ids"
            )
        self._model, self.with_features = model, with_features
        self.time = ModelTime()
        self._cache: Any = DynamicCache(config=model.config)
        if any(self._cache.is_linear):
            raise TypeError(
                f"{type(model).__name__} keeps a state instead of rows, which cannot forget a rejected guess"
            )
        if any(getattr(layer, "is_sliding", False) for layer in self._cache.layers):
            raise TypeError(
                f"{type(model).__name__} attends to a sliding window, which forgets rows that a rejected guess would need"
            )
        self._tells_numbers = "row_numbers" in parameters
        self.starts = self.ends = self.numbers = torch.zeros(0, dtype=torch.long)
        self._columns = 0  # of the cache, without rows that wait for keep()

    def __len__(self) -> int:
        return len(self.starts)

    def _forward(
        self, tokens: Tensor, visible: Tensor, positions: Tensor, last: int, inputs: Any
    ) -> RowOutput:
        dtype = self._model.dtype
        if self._tells_numbers:
            inputs = {**inputs, "row_numbers": self.numbers}
        mask = torch.zeros(visible.shape, dtype=dtype, device=visible.device)
        mask = mask.masked_fill(~visible, torch.finfo(dtype).min)[:, None]  # [B, 1, R, columns]
        with self.time.measured():
            output = self._model(
                input_ids=tokens,
                attention_mask=mask,
                position_ids=positions,
                use_cache=True,
                logits_to_keep=last,
                output_hidden_states=self.with_features,
                **{self._cache_name: self._cache},
                **inputs,
            )
        features = output.hidden_states[-1][:, -last:] if self.with_features else None
        logits = output.logits
        return RowOutput(
            logits=logits if logits.dtype == torch.float64 else logits.float(), features=features
        )

    def prefill(
        self, tokens: Tensor, is_token: Tensor, *, last: int = 1, **inputs: Tensor
    ) -> RowOutput:
        """Read prompts that end in the same column.

        Args:
            tokens: ``[B, L]``, L at least 1, padded on the left.
            is_token: False for padding, bool ``[B, L]``.
            last: Rows to give logits and features of, from the end.
            inputs: What else the model's forward takes, of the same rows.

        Returns:
            For the last rows of each.
        """
        length = tokens.shape[1]
        self.starts = length - is_token.sum(1)
        self.ends = torch.full_like(self.starts, length)
        self.numbers = torch.arange(len(tokens), device=tokens.device)
        columns = torch.arange(length, device=tokens.device)
        positions = (columns - self.starts[:, None]).clamp(min=0)
        visible = (columns[:, None] >= columns) & is_token[:, None, :]
        # Padding sees itself: a row that sees nothing has no softmax.
        visible |= torch.eye(length, dtype=torch.bool, device=tokens.device)
        output = self._forward(tokens, visible, positions, last, inputs)
        self._columns = length
        return output

    def begin_empty(self, count: int, device: torch.device) -> None:
        """Start sequences that have no prompt."""
        self.starts = self.ends = torch.zeros(count, dtype=torch.long, device=device)
        self.numbers = torch.arange(count, device=device)
        self._columns = 0

    def read(
        self,
        tokens: Tensor,
        shape: TreeShape,
        *,
        after: int = 0,
        root_is_kept: bool = False,
        **inputs: Tensor,
    ) -> RowOutput:
        """Logits after the nodes of a tree that hangs behind each sequence's last kept row.

        Args:
            tokens: ``[B, N]``.
            shape: Of the tree.
            after: Rows of an earlier ``read``, not yet kept, that are a part of the tree: its first nodes. Only the
                nodes from there on are computed, and ``tokens`` are only theirs.
            root_is_kept: The tree's root is the last kept row itself, and no row of the tree; ``after`` counts it.
            inputs: What else the model's forward takes, of the same rows.

        Returns:
            For the nodes that are computed.
        """
        first = 1 if root_is_kept else 0
        after = max(after, first)
        count = shape.num_nodes - after
        device = tokens.device
        columns = torch.arange(self._columns, device=device)
        kept = (columns >= self.starts[:, None]) & (columns < self.ends[:, None])  # [B, columns]
        ancestors = shape.ancestor_mask()[after:, first:].to(device)
        visible = torch.cat(
            (
                kept[:, None].expand(-1, count, -1),
                ancestors.expand(len(self), -1, -1),
            ),
            2,
        )
        depths = torch.tensor(shape.depths[after:], device=device) - first
        positions = (self.ends - self.starts)[:, None] + depths
        return self._forward(tokens, visible, positions, count, inputs)

    def forget(self) -> None:
        """Forget all rows that were not kept."""
        for layer in self._cache.layers:
            if layer.is_initialized:
                layer.keys = layer.keys[:, :, : self._columns]
                layer.values = layer.values[:, :, : self._columns]

    def keep(self, path: Tensor, counts: Tensor) -> None:
        """Keep some of the rows of the last tree, in their order, and forget the others.

        Args:
            path: Nodes to keep, ``[B, K]``, rising; what is behind ``counts`` is not looked at.
            counts: How many each sequence keeps, ``[B]``, at least 1.
        """
        places = torch.arange(path.shape[1], device=path.device)
        # What is not kept is the first row again, copied to the same place with the same values.
        is_kept = places < counts[:, None]
        sources = self._columns + torch.where(is_kept, path, path[:, :1])
        targets = self.ends[:, None] + torch.where(is_kept, places, 0)
        self.ends = self.ends + counts
        self._columns = int(self.ends.max())
        for layer in self._cache.layers:
            for name in ("keys", "values"):
                states = getattr(layer, name)  # [B, heads, columns, channels]
                index = sources[:, None, :, None].expand(-1, states.shape[1], -1, states.shape[3])
                rows = states.gather(2, index)
                index = targets[:, None, :, None].expand_as(index)
                states.scatter_(2, index, rows)
                setattr(layer, name, states[:, :, : self._columns])

    def take_back(self, counts: Tensor) -> None:
        """Forget the last kept rows of each sequence, ``counts`` of them, ``[B]``."""
        self.ends = self.ends - counts
        self._columns = int(self.ends.max())
        self.forget()

    def select(self, rows: Tensor) -> None:
        """Go on with some of the sequences, by their numbers ``[b]``."""
        self.starts, self.ends = self.starts[rows], self.ends[rows]
        self.numbers = self.numbers[rows]
        self._cache.batch_select_indices(rows)
