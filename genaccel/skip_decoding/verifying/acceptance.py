# SPDX-License-Identifier: Apache-2.0
"""Which guesses of a tree are accepted, by rejection sampling, exact or relaxed (LANTERN, arXiv:2410.03355 and 2502.06352).

Many image tokens look alike, so a model spreads its probability over them and guesses right about the picture are
rejected. LANTERN lends a guess the probability of its nearest code words, as long as what is lent stays below a bound: the
bound is how far, in total variation, the distribution that is drawn from may be from the model's.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from genaccel.ops import accept_tree_by_rejection
from genaccel.skip_decoding.drafts.draft_tree import TreeShape, parents_of


@dataclass(frozen=True, kw_only=True, slots=True)
class Relaxation:
    """How much probability a guess may borrow.

    Attributes:
        neighbours: Other code words by rising distance, int64 ``[K, n]``; see :func:`nearest_code_words`. What tokens there
            are besides borrow from none.
        count: Of them that lend, at least 1 and at most n.
        delta: Up to 1, the probability that all guesses after one token borrow at most together; above 1, ``delta - 1``
            times its own for each of them (LANTERN++).
        is_original: As the authors' code does: each guess may borrow delta anew, and a rejected one that could borrow
            takes all ``count + 1`` neighbours with it, not only those that lend.
    """

    neighbours: Tensor
    count: int
    delta: float
    is_original: bool = False

    def __post_init__(self) -> None:
        if self.neighbours.ndim != 2 or not 1 <= self.count <= self.neighbours.shape[1]:
            raise ValueError(
                f"neighbours must have shape [V, n] with n at least {self.count}, "
                f"got {tuple(self.neighbours.shape)}"
            )
        if not 0 <= self.delta < float("inf"):
            raise ValueError(f"delta must be at least 0, got {self.delta}")

    def borrowed(self, probabilities: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """What tokens ``[*]`` alone borrow under probabilities ``[*, V]``, and from how many code words.

        The longest run of the nearest code words is taken whose sum stays within the bound.

        Args:
            probabilities: The target's.
            tokens: The guesses.
        """
        sums = probabilities.gather(-1, self._nearest(tokens)).cumsum(-1)
        if self.delta > 1:
            limit = (self.delta - 1) * probabilities.gather(-1, tokens[..., None])
        else:
            limit = torch.full_like(sums[..., :1], self.delta)
        number = (sums <= limit).sum(-1).where(tokens < len(self.neighbours), 0)
        lent = sums.gather(-1, (number - 1).clamp(min=0)[..., None])[..., 0]
        return torch.where(number > 0, lent, 0.0), number

    def _nearest(self, tokens: Tensor) -> Tensor:
        """Code words that may lend, ``[*, count]``; any ones to what is no code word."""
        return self.neighbours[tokens.clamp(max=len(self.neighbours) - 1), : self.count]

    def lends(self, probabilities: Tensor, tokens: Tensor, lenders: Tensor) -> Tensor:
        """Whether code words ``lenders`` lend to tokens under these probabilities, bool ``[*]``.

        Args:
            probabilities: The target's, ``[*, V]``.
            tokens: The guesses, ``[*]``.
            lenders: ``[*]``.
        """
        number = self.borrowed(probabilities, tokens)[1]
        near = self._nearest(tokens)
        is_lender = torch.arange(self.count, device=near.device) < number[..., None]
        return ((near == lenders[..., None]) & is_lender).any(-1)


def nearest_code_words(codebook: Tensor, count: int) -> Tensor:
    """The code words nearest to each, without itself, by rising Euclidean distance: int64 ``[K, count]``.

    Args:
        codebook: ``[K, C]``.
        count: From 1 to K - 1.

    Raises:
        ValueError: If there are not as many others.
    """
    if not 1 <= count < len(codebook):
        raise ValueError(f"count must be from 1 to {len(codebook) - 1}, got {count}")
    distances = torch.cdist(codebook.double(), codebook.double())
    distances.fill_diagonal_(-1.0)
    return distances.argsort(dim=1, stable=True)[:, 1 : count + 1]


def accept_by_rejection(
    shape: TreeShape,
    tokens: Tensor,
    log_weights: Tensor,
    uniforms: Tensor,
    *,
    relaxation: Relaxation | None = None,
    draft_probabilities: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Accept guesses from the root down, the siblings one after the other.

    :func:`genaccel.reference.accept_tree_by_rejection` is the rule in full, and :mod:`genaccel.ops` computes it.

    Args:
        shape: Of the tree.
        tokens: Its guesses, ``[S, N]``.
        log_weights: Of the target after each node, filtered as they will be drawn from, float32 or float64 ``[S, N, V]``.
        uniforms: Numbers in [0, 1) for the guesses in the order in which they are looked at, float64 ``[S, N]``.
        relaxation: Without one, the token that comes out is distributed as the target says.
        draft_probabilities: Where guesses were drawn, the drafter's after each node, ``[S, M, V]``; leaves may be missing.

    Returns:
        Nodes that were reached, ``[S, max_depth + 1]`` and -1 behind the last; probabilities that the token after the last
        one is drawn from, ``[S, V]``; and guesses of the path that only what they borrowed let pass, ``[S]``.
    """
    borrowing: dict[str, Any] = {}
    if relaxation is not None:
        borrowing = {
            "neighbours": relaxation.neighbours,
            "lenders": relaxation.count,
            "delta": relaxation.delta,
            "is_original": relaxation.is_original,
        }
    if draft_probabilities is not None:
        # The drafter may compute in another format than the target.
        draft_probabilities = draft_probabilities.to(log_weights.dtype)
    path, _, residual, substituted = accept_tree_by_rejection(
        parents_of(shape, tokens.device),
        tokens,
        log_weights,
        uniforms,
        shape.max_depth,
        draft_probabilities=draft_probabilities,
        **borrowing,
    )
    return path, residual, substituted


def greedily_accepted(
    tokens: Tensor, parents: Tensor, probabilities: Tensor, relaxation: Relaxation | None
) -> Tensor:
    """Whether each guess is the likeliest token once it has borrowed, bool ``[S, N]``; always so for the root.

    Args:
        tokens: Guesses, ``[S, N]``.
        parents: Of the nodes, the root's itself, ``[N]``.
        probabilities: Of the target after each node, ``[S, N, V]``.
        relaxation: Without one, only the likeliest token itself is accepted.
    """
    before = probabilities[:, parents]
    if relaxation is not None:
        lent = relaxation.borrowed(before, tokens)[0]
        before = before.scatter_add(2, tokens[..., None], lent[..., None])
    agrees = before.argmax(-1) == tokens
    agrees[:, 0] = True
    return agrees


def accept_greedily(
    shape: TreeShape, tokens: Tensor, log_weights: Tensor, *, relaxation: Relaxation | None = None
) -> tuple[int, ...]:
    """The longest path of guesses that are each the likeliest token once they have borrowed: its nodes.

    Of paths of one length, the one whose nodes come first.

    Args:
        shape: Of the tree.
        tokens: Its guesses, ``[N]``.
        log_weights: Of the target after each node, ``[N, V]``.
        relaxation: Without one, only the likeliest token itself is accepted.
    """
    parents = parents_of(shape, tokens.device)
    agrees = greedily_accepted(tokens[None], parents, log_weights.softmax(-1)[None], relaxation)
    return tuple(node for node in shape.longest_path(agrees)[0].tolist() if node >= 0)
