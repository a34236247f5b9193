# SPDX-License-Identifier: Apache-2.0
"""What a drafter is, and what it is told."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Protocol

from torch import Tensor

from genaccel.skip_decoding.draft_tree import TreeShape
from genaccel.skip_decoding.sampling import SamplingRule, perturbed


@dataclass(frozen=True, kw_only=True, slots=True)
class Round:
    """What a round gave a drafter to learn from; only of sequences that go on.

    Attributes:
        shape: Of the tree that was read.
        tokens: Its tokens, ``[S, N]``.
        drawn: Token after each node, ``[S, N]``.
        path: Nodes that were reached, ``[S, D]``, -1 behind the last.
        counts: Their number, ``[S]``.
        features: Of the target's rows, ``[B, N, C]``; None if the drafter does not ask for them, or the round was not
            verified.
    """

    shape: TreeShape
    tokens: Tensor
    drawn: Tensor
    path: Tensor
    counts: Tensor
    features: Tensor | None


@dataclass(frozen=True, slots=True)
class Noise:
    """By what the target's tokens will be drawn, for drafters that draw alike.

    Attributes:
        rule: The distribution.
        seed: Of the noise.
        numbers: Of the sequences, ``[S]``.
        is_shared: Whether guesses are verified by the noise of their places. Where rejection sampling judges them, by
            noise that they must not know, the likeliest guess is the best one.
    """

    rule: SamplingRule
    seed: int
    numbers: Tensor
    is_shared: bool = True

    def likeliest(self, logits: Tensor, positions: Tensor, count: int) -> Tensor:
        """The tokens most likely to be drawn by these logits, ``[S, N, count]``, the likeliest first.

        Args:
            logits: ``[S, N, V]``, of both branches combined.
            positions: Of the token that is guessed, ``[S, N]``.
            count: How many.
        """
        if self.is_shared and self.rule.temperature > 0:
            sequences = self.numbers[:, None].expand_as(positions)
            weights = self.rule.log_weights(logits)
            logits = perturbed(weights, self.seed, sequences, positions)
        return logits.topk(count).indices

    def select(self, sequences: Tensor) -> Noise:
        """That of some of the sequences."""
        return replace(self, numbers=self.numbers[sequences])


class Drafter(Protocol):
    """Guesses what the target model will draw. Sequences are numbered as those that still go on."""

    needs_features: bool

    def begin(
        self, prompts: Tensor, is_token: Tensor, noise: Noise, features: Tensor | None
    ) -> None:
        """Start a decoding.

        Args:
            prompts: ``[B, L]``, padded on the left; with guidance the conditional ones, then the unconditional.
            is_token: False for padding, ``[B, L]``.
            noise: By what the target's tokens will be drawn.
            features: Of the prompts' rows, ``[B, L, C]``; None if the drafter does not ask for them.
        """

    def guess(self, history: Tensor, lengths: Tensor, depth: int) -> tuple[TreeShape, Tensor]:
        """A tree and its tokens.

        Args:
            history: Tokens that were drawn, ``[S, T]``, ``lengths`` of each; the last of them is the root.
            lengths: ``[S]``, at least 1.
            depth: Of the tree at most.

        Returns:
            The shape, and tokens ``[S, N]`` of which column 0 is the root and siblings differ.
        """

    def learn(self, round_: Round) -> None:
        """See what became of the guesses."""

    def select(self, sequences: Tensor, rows: Tensor) -> None:
        """Go on with some sequences; ``rows`` are their branches' numbers."""
