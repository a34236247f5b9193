# SPDX-License-Identifier: Apache-2.0
"""A drafter whose paths are not all of one length, as those of EAGLE-2 are not: only there does gamma cut anything."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from genaccel.skip_decoding.draft_tree import TreeShape
from genaccel.skip_decoding.drafting import Draft, Noise, Round


class RaggedDrafter:
    """Guesses as another drafter, of which only the first guess of each depth keeps what hangs below it.

    Args:
        drafter: One that learns by what the target read, not by its own nodes.
    """

    def __init__(self, drafter: Any) -> None:
        self._drafter = drafter
        self.needs_features = drafter.needs_features

    def begin(
        self, prompts: Tensor, is_token: Tensor, noise: Noise, features: Tensor | None
    ) -> None:
        """Start a decoding."""
        self._drafter.begin(prompts, is_token, noise, features)

    def guess(self, history: Tensor, lengths: Tensor, depth: int) -> Draft:
        """The part of the other's tree; see :class:`genaccel.skip_decoding.drafting.Drafter`."""
        draft = self._drafter.guess(history, lengths, depth)
        shape, kept = ragged(draft.shape)
        chosen = torch.tensor(kept, device=draft.tokens.device)
        log_probabilities = draft.log_probabilities
        return draft._replace(
            shape=shape,
            tokens=draft.tokens[:, chosen],
            log_probabilities=None if log_probabilities is None else log_probabilities[:, chosen],
        )

    def learn(self, round_: Round) -> None:
        """See what became of the guesses."""
        self._drafter.learn(round_)

    def select(self, sequences: Tensor, rows: Tensor) -> None:
        """Go on with some sequences."""
        self._drafter.select(sequences, rows)


def ragged(shape: TreeShape) -> tuple[TreeShape, list[int]]:
    """The tree without what hangs below a guess that is not the first of its depth, and the nodes that stay.

    Example:
        >>> ragged(TreeShape.of_widths((2, 2)))
        (TreeShape(parents=(0, 0, 1, 1)), [0, 1, 2, 3, 4])
    """
    first = {level[0] for level in shape.levels()}
    kept = [0]
    for node, parent in enumerate(shape.parents, 1):
        if parent in first and parent in kept:
            kept.append(node)
    number = {node: place for place, node in enumerate(kept)}
    return TreeShape(tuple(number[shape.parents[node - 1]] for node in kept[1:])), kept
