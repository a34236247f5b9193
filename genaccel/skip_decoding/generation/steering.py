# SPDX-License-Identifier: Apache-2.0
"""What else than the model has a say in a decoding."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor

from genaccel.skip_decoding.drafts.draft_tree import TreeShape


class Steering(Protocol):
    """Changes logits by what stands before them, and ends sequences.

    ``sequences`` ``[S]`` are the numbers of those that go on, by their place in the batch that the decoding began with.
    """

    def adjust(
        self,
        sequences: Tensor,
        history: Tensor,
        lengths: Tensor,
        shape: TreeShape,
        tokens: Tensor,
        logits: Tensor,
    ) -> Tensor:
        """The logits that tokens are drawn by, ``[S, N, V]``.

        Args:
            sequences: Numbers, ``[S]``.
            history: Tokens that were drawn, ``[S, T]``, ``lengths`` of each.
            lengths: ``[S]``; all 0 for the first token.
            shape: Of the tree; its root is the last token of the history, or of the prompt.
            tokens: Of the tree, ``[S, N]``; the root's is not looked at.
            logits: After each node, ``[S, N, V]``, of both branches combined.
        """

    def ends(self, sequences: Tensor, tokens: Tensor, lengths: Tensor) -> Tensor:
        """How many of its tokens each sequence keeps if it ends here, ``[S]``; -1 where it goes on.

        Args:
            sequences: Numbers, ``[S]``.
            tokens: What was drawn, ``[S, T]``, ``lengths`` of each.
            lengths: ``[S]``, at least 1.
        """
