# SPDX-License-Identifier: Apache-2.0
"""A causal language model of transformers and its cache, fed with trees of guesses of which some are kept.

The cache is transformers' own, a ``DynamicCache`` or a ``StaticCache``. Sequences keep different numbers of guesses, so
each has its own length; what lies behind it is hidden by the mask, never zeroed (a key of zeros would still get
attention), and written over by the next guesses that are kept.
"""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from genaccel.ops import compact_rows_
from genaccel.skip_decoding.drafts.draft_tree import TreeShape
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


@lru_cache(maxsize=256)  # most trees come again in every round
def _tree_rows(
    shape: TreeShape, after: int, first: int, dtype: torch.dtype, device: torch.device
) -> tuple[Tensor, Tensor]:
    """What the nodes from ``after`` on add to the attention to those from ``first`` on, and their depths below it."""
    ancestors = shape.ancestor_mask()[after:, first:]
    hidden = torch.zeros(ancestors.shape, dtype=dtype).masked_fill_(
        ~ancestors, torch.finfo(dtype).min
    )
    depths = torch.tensor(shape.depths[after:], dtype=torch.long) - first
    return hidden.to(device), depths.to(device)


class CachedRows:
    """The model's memory of a batch of sequences.

    Args:
        model: A decoder-only language model of transformers, in evaluation mode.
        with_features: Whether outputs have the hidden states that logits are made of.
        cache: An empty ``DynamicCache``, or a ``StaticCache`` with a column for each token and each row of a tree; by
            default a ``DynamicCache`` of this model.

    Attributes:
        starts: First column of the cache that each sequence has, ``[B]``: behind the padding on its left.
        ends: Column behind its last one, ``[B]``.
        numbers: Place of each in the batch that was read first, ``[B]``; a model whose forward has an argument
            ``row_numbers`` is told them.
        with_features: As given; it may be changed between forwards.
        time: Of the model's forwards.

    Raises:
        TypeError: If the model keeps no cache that can be cut, or has sliding windows.
        ValueError: If the cache is not empty.
    """

    def __init__(self, model: Any, *, with_features: bool = False, cache: Any = None) -> None:
        from transformers import DynamicCache
        from transformers.cache_utils import DynamicLayer, StaticLayer

        from genaccel.skip_decoding.memory.growing_cache import GrowingLayer

        parameters = inspect.signature(model.forward).parameters
        # Renamed in transformers 5.24, where the former name warns.
        self._cache_name = "cache" if "cache" in parameters else "past_key_values"
        if self._cache_name not in parameters or "position_ids" not in parameters:
            raise TypeError(
                f"{type(model).__name__} cannot be decoded speculatively: its forward takes no cache or no position_ids"
            )
        self._model, self.with_features = model, with_features
        self.time = ModelTime()
        self._cache: Any = DynamicCache(config=model.config) if cache is None else cache
        layers: list[Any] = self._cache.layers
        if any(self._cache.is_linear):
            raise TypeError(
                f"{type(model).__name__} keeps a state instead of rows, which cannot forget a rejected guess"
            )
        if any(getattr(layer, "is_sliding", False) for layer in layers):
            raise TypeError(
                f"{type(model).__name__} attends to a sliding window, which forgets rows that a rejected guess would need"
            )
        is_static = bool(layers) and all(type(layer) is StaticLayer for layer in layers)
        if not is_static and any(
            type(layer) not in (DynamicLayer, GrowingLayer) for layer in layers
        ):
            kinds = sorted({type(layer).__name__ for layer in layers})
            raise TypeError(
                f"{type(model).__name__} keeps its memory in {', '.join(kinds)}, which cannot be cut"
            )
        if any(layer.is_initialized and int(layer.get_seq_length()) for layer in layers):
            raise ValueError("the cache has rows of another decoding: give an empty one")
        self._capacity: int | None = None  # columns that there are at all, and that a mask covers
        if is_static:
            self._capacity = layers[0].max_cache_len
            for layer in layers:  # which may be left of a batch of another size
                layer.is_initialized = False
        else:
            self._cache.layers = [GrowingLayer() for _ in layers]
            if self._cache.layer_class_to_replicate is not None:
                self._cache.layer_class_to_replicate = GrowingLayer
        self._tells_numbers = "row_numbers" in parameters
        self.starts = self.ends = self.numbers = torch.zeros(0, dtype=torch.long)
        self._columns = 0  # of the cache, without rows that wait for keep()
        # Of the kept columns: what they add to the attention [B, 1, 1, columns], and their number [B, 1].
        self._kept: tuple[Tensor, Tensor] | None = None

    def __len__(self) -> int:
        return len(self.starts)

    def _forward(
        self, tokens: Tensor, parts: list[Tensor], positions: Tensor, last: int, inputs: Any
    ) -> RowOutput:
        """Read rows; what columns add to the attention comes in parts ``[B, 1, R, columns]``."""
        if self._tells_numbers:
            inputs = {**inputs, "row_numbers": self.numbers}
        if self._capacity is not None:
            needed = sum(part.shape[3] for part in parts)
            if needed > self._capacity:
                raise ValueError(
                    f"the static cache has {self._capacity} columns, and {needed} are needed: give one for each token "
                    "and each row of a tree"
                )
            behind = parts[0].new_full((1, 1, 1, 1), torch.finfo(parts[0].dtype).min)
            shape = (*parts[0].shape[:3], self._capacity - needed)
            parts = [*parts, behind.expand(shape)]
        mask = torch.cat(parts, 3)
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
        features = output.hidden_states[-1] if self.with_features else None
        logits = output.logits
        return RowOutput(
            logits=logits if logits.dtype == torch.float64 else logits.float(), features=features
        )

    def _hidden(self, visible: Tensor) -> Tensor:
        """What columns add to the attention, by which of them are visible."""
        dtype = self._model.dtype
        zeros = torch.zeros(visible.shape, dtype=dtype, device=visible.device)
        return zeros.masked_fill_(~visible, torch.finfo(dtype).min)

    def prefill(
        self, tokens: Tensor, is_token: Tensor, *, last: int = 1, **inputs: Tensor
    ) -> RowOutput:
        """Read prompts that end in the same column.

        Args:
            tokens: ``[B, L]``, L at least 1, padded on the left.
            is_token: False for padding, bool ``[B, L]``.
            last: Rows to give logits of, from the end. Features are of all.
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
        output = self._forward(tokens, [self._hidden(visible)[:, None]], positions, last, inputs)
        self._columns, self._kept = length, None
        return output

    def begin_empty(self, count: int, device: torch.device) -> None:
        """Start sequences that have no prompt."""
        self.starts = self.ends = torch.zeros(count, dtype=torch.long, device=device)
        self.numbers = torch.arange(count, device=device)
        self._columns, self._kept = 0, None

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
        if self._kept is None:
            columns = torch.arange(self._columns, device=tokens.device)
            is_kept = (columns >= self.starts[:, None]) & (columns < self.ends[:, None])
            lengths = (self.ends - self.starts)[:, None]
            self._kept = self._hidden(is_kept)[:, None, None], lengths
        kept, lengths = self._kept
        tree, depths = _tree_rows(shape, after, first, kept.dtype, tokens.device)
        parts = [kept.expand(-1, -1, count, -1), tree.expand(len(self), 1, -1, -1)]
        return self._forward(tokens, parts, lengths + depths, count, inputs)

    def forget(self) -> None:
        """Forget all rows that were not kept."""
        for layer in self._cache.layers:
            if self._capacity is None:
                layer.length = self._columns
            elif layer.is_initialized:
                layer.cumulative_length.fill_(self._columns)

    def keep(self, path: Tensor, counts: Tensor) -> None:
        """Keep some of the rows of the last tree, in their order, and forget the others.

        Args:
            path: Nodes to keep, ``[B, K]``, rising; what is behind ``counts`` is not looked at.
            counts: How many each sequence keeps, ``[B]``, at least 1.
        """
        # Layers are alike, but for models on several devices or with keys and values of different widths.
        alike: dict[Any, list[Tensor]] = {}
        for layer in self._cache.layers:
            if layer.is_initialized:
                for states in (layer.keys, layer.values):
                    kind = states.shape, states.dtype, states.device
                    alike.setdefault(kind, []).append(states)
        sources = self._columns + path
        for (_, _, device), group in alike.items():
            compact_rows_(group, sources.to(device), self.ends.to(device), counts.to(device))
        self.ends = self.ends + counts
        self._columns, self._kept = int(self.ends.max()), None
        self.forget()

    def take_back(self, counts: Tensor) -> None:
        """Forget the last kept rows of each sequence, ``counts`` of them, ``[B]``."""
        self.ends = self.ends - counts
        self._columns, self._kept = int(self.ends.max()), None
        self.forget()

    def select(self, rows: Tensor) -> None:
        """Go on with some of the sequences, by their numbers ``[b]``."""
        self.starts, self.ends, self._kept = self.starts[rows], self.ends[rows], None
        self.numbers = self.numbers[rows]
        for layer in self._cache.layers:
            if layer.is_initialized:
                layer.keys, layer.values = (
                    states.index_select(0, rows.to(states.device))
                    for states in (layer.keys, layer.values)
                )
