# SPDX-License-Identifier: Apache-2.0
"""What a drafter is, and what it is told."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal, NamedTuple, Protocol, Self, runtime_checkable

import torch
from torch import Tensor, nn

from genaccel.skip_decoding.drafts.draft_tree import Level, TreeShape
from genaccel.skip_decoding.report import ModelTime
from genaccel.skip_decoding.sampling import SamplingRule, draw, perturbed

Guessing = Literal["coupled", "drawn", "likeliest"]


class Draft(NamedTuple):
    """A tree of guesses.

    Attributes:
        shape: Of the tree.
        tokens: ``[S, N]``; column 0 is the root, and siblings differ.
        probabilities: That guesses were drawn from, after all nodes but those of the last depth: ``[S, M, V]``.
        log_probabilities: Of each guess after its parent, as the drafter holds it, ``[S, N]``, 0 for the root; None where
            nobody asks.
    """

    shape: TreeShape
    tokens: Tensor
    probabilities: Tensor | None = None
    log_probabilities: Tensor | None = None


class Guesses(NamedTuple):
    """Children of nodes; see :meth:`Noise.guesses`.

    Attributes:
        tokens: ``[S, N, count]``, the best first.
        probabilities: That they were drawn from, ``[S, N, V]``; None where nobody asks.
        log_probabilities: Of them, ``[S, N, count]``; None where nobody asks.
    """

    tokens: Tensor
    probabilities: Tensor | None
    log_probabilities: Tensor | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Round:
    """What a round gave a drafter to learn from; only of sequences that go on.

    Attributes:
        shape: Of the tree.
        tokens: Its tokens, ``[S, N]``.
        drawn: Token after each node, ``[S, N]``; -1 where none is known.
        path: Nodes that were reached, ``[S, D]``, -1 behind the last.
        counts: Their number, ``[S]``.
        features: Of the rows that the target read: those that an unverified round left it, then the tree's,
            ``[B, P + N, C]``; None if the drafter does not ask for them, or the round was not verified.
        num_pending: Rows before the tree's, P.
        rows: Of those, in their order, that stay in the target's memory, ``[S, K]``.
        num_rows: Their number, ``[S]``.
        taken_back: Tokens of the unverified round that were taken back, ``[S]``, whereupon the tree was not looked at: it
            counts as its root alone, and ``taken_back`` rows fewer are true than would be behind it; None for none at all.
    """

    shape: TreeShape
    tokens: Tensor
    drawn: Tensor
    path: Tensor
    counts: Tensor
    features: Tensor | None = None
    num_pending: int = 0
    rows: Tensor | None = None
    num_rows: Tensor | None = None
    taken_back: Tensor | None = None


@dataclass(frozen=True, slots=True)
class Noise:
    """How guesses are picked, so that they fit how they will be verified.

    Attributes:
        rule: By which the target's tokens are drawn.
        seed: Of the noise.
        numbers: Of the sequences, ``[S]``.
        guessing: ``"coupled"``: guesses are drawn by the noise of their places, by which the target draws too.
            ``"drawn"``: siblings are drawn without replacement by noise of their own. ``"likeliest"``: they are the
            likeliest tokens.
        tells_probabilities: Whether verification needs the distributions that guesses are drawn from.
        tells_likelihoods: Whether paths are chosen by how likely the drafter holds their guesses.
    """

    rule: SamplingRule
    seed: int
    numbers: Tensor
    guessing: Guessing = "coupled"
    tells_probabilities: bool = False
    tells_likelihoods: bool = False

    def guesses(self, logits: Tensor, positions: Tensor, count: int) -> Guesses:
        """Children of nodes.

        Args:
            logits: ``[S, N, V]``, of both branches combined.
            positions: Of the token that is guessed, ``[S, N]``.
            count: Children of each node.

        Raises:
            ValueError: If there are not as many tokens.
        """
        if count > logits.shape[-1]:
            raise ValueError(
                f"a tree with {count} guesses after one token needs as many tokens, and there are {logits.shape[-1]}"
            )
        weights = self.rule.log_weights(logits) if self.rule.temperature > 0 else logits
        if self.guessing != "likeliest" and self.rule.temperature > 0:
            # Those of largest perturbed weight are draws without replacement in their order (arXiv:1903.06059).
            sequences = self.numbers[:, None].expand_as(positions)
            if count > 1:
                scores = perturbed(weights, self.seed, sequences, positions)
                tokens = scores.topk(count).indices
            else:  # the same without a number stored for each token
                tokens = draw(weights, self.seed, sequences, positions)[..., None]
        else:
            tokens = weights.topk(count).indices
        return Guesses(
            tokens,
            weights.softmax(-1) if self.tells_probabilities else None,
            weights.log_softmax(-1).gather(-1, tokens) if self.tells_likelihoods else None,
        )

    def select(self, sequences: Tensor) -> Noise:
        """That of some of the sequences."""
        return replace(self, numbers=self.numbers[sequences])


class GuessedLevels:
    """A draft that grows level by level.

    Args:
        root: Tokens, ``[S]``.
    """

    def __init__(self, root: Tensor) -> None:
        self._tokens = [root[:, None]]
        self._probabilities: list[Tensor | None] = []
        self._log_probabilities: list[Tensor | None] = []

    def add(self, guesses: Guesses, level: Level) -> Tensor:
        """Take the children of the last level's nodes, of each as many as it has; returns their tokens, ``[S, n]``."""
        tokens, log_probabilities = (
            _picked(values, level) for values in (guesses.tokens, guesses.log_probabilities)
        )
        assert tokens is not None
        self._tokens.append(tokens)
        self._probabilities.append(guesses.probabilities)
        self._log_probabilities.append(log_probabilities)
        return tokens

    def draft(self, shape: TreeShape) -> Draft:
        """All of it."""
        of_nodes = _known(self._probabilities)
        of_guesses = _known(self._log_probabilities)
        return Draft(
            shape,
            torch.cat(self._tokens, 1),
            torch.cat(of_nodes, 1) if of_nodes else None,
            torch.cat((torch.zeros_like(of_guesses[0][:, :1]), *of_guesses), 1)
            if of_guesses
            else None,
        )


def _picked(values: Tensor | None, level: Level) -> Tensor | None:
    """Of values ``[S, N, count]`` those of a level's nodes, ``[S, n]``."""
    if values is None:
        return None
    return values.flatten(1) if level.takes_all else values.flatten(1)[:, list(level.picks)]


def _known(levels: list[Tensor | None]) -> list[Tensor]:
    return [level for level in levels if level is not None]


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
            noise: How guesses are picked.
            features: Of the prompts' rows, ``[B, L, C]``; None if the drafter does not ask for them.
        """

    def guess(self, history: Tensor, lengths: Tensor, depth: int) -> Draft | None:
        """A tree and its tokens.

        Args:
            history: Tokens that were drawn, ``[S, T]``, ``lengths`` of each; the last of them is the root.
            lengths: ``[S]``, at least 1.
            depth: Of the tree at most; 0 for the root alone.

        Returns:
            None to end drafting: the drafter is not called again in this decoding.
        """

    def learn(self, round_: Round) -> None:
        """See what became of the guesses."""

    def select(self, sequences: Tensor, rows: Tensor) -> None:
        """Go on with some sequences; ``rows`` are their branches' numbers."""


@runtime_checkable
class TimedDrafter(Drafter, Protocol):
    """A drafter that tells how long its model took in the last decoding."""

    @property
    def model_time(self) -> ModelTime:
        """Of its model's forwards; of no forwards if it has none."""


@runtime_checkable
class AdjustableDrafter(TimedDrafter, Protocol):
    """A drafter that can guess trees of other widths."""

    guesses_trees: bool  # or chains alone

    @property
    def network(self) -> nn.Module | None:
        """What tells it from another of its class; None if nothing does."""

    def with_widths(self, widths: tuple[int, ...]) -> Self:
        """One that guesses so many children of a node at each depth, with the same network and no memory."""
