# SPDX-License-Identifier: Apache-2.0
"""Which guesses of a tree are accepted, by rejection sampling, exact or relaxed (LANTERN, arXiv:2410.03355 and 2502.06352).

Many image tokens look alike, so a model spreads its probability over them and guesses right about the picture are
rejected. LANTERN lends a guess the probability of its nearest code words, as long as what is lent stays below a bound: the
bound is how far, in total variation, the distribution that is drawn from may be from the model's.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from genaccel.skip_decoding.draft_tree import TreeShape


@dataclass(frozen=True, kw_only=True, slots=True)
class Relaxation:
    """How much probability a guess may borrow.

    Attributes:
        neighbours: Other code words by rising distance, int64 ``[V, n]``; see :func:`nearest_code_words`.
        count: Of them that lend, at least 1 and at most n.
        delta: Up to 1, the probability that is borrowed at most; above 1, ``delta - 1`` times the guess's own
            (LANTERN++).
    """

    neighbours: Tensor
    count: int
    delta: float

    def __post_init__(self) -> None:
        if self.neighbours.ndim != 2 or not 1 <= self.count <= self.neighbours.shape[1]:
            raise ValueError(
                f"neighbours must have shape [V, n] with n at least {self.count}, "
                f"got {tuple(self.neighbours.shape)}"
            )
        if not 0 <= self.delta < float("inf"):
            raise ValueError(f"delta must be at least 0, got {self.delta}")

    def borrowed(self, probabilities: Tensor, token: int) -> tuple[float, bool]:
        """What a token borrows under probabilities ``[V]``, and whether from any code word at all.

        The longest run of the nearest code words is taken whose sum stays within the bound.
        """
        own = float(probabilities[token])
        bound = self.delta if self.delta <= 1 else (self.delta - 1) * own
        sums = probabilities[self.neighbours[token, : self.count]].cumsum(0)
        number = int((sums <= bound).sum())
        return (float(sums[number - 1]) if number else 0.0), number > 0

    def family(self, token: int) -> Tensor:
        """What is struck out with a token that had borrowed: as the authors do, one neighbour more than lend."""
        return self.neighbours[token, : self.count + 1]


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


@dataclass(frozen=True, kw_only=True, slots=True)
class Accepted:
    """What became of a tree.

    Attributes:
        path: Nodes from the root to the last one accepted.
        residual: Probabilities that the token after it is drawn from, ``[V]``.
    """

    path: tuple[int, ...]
    residual: Tensor


def accept_by_rejection(
    shape: TreeShape,
    tokens: Tensor,
    log_weights: Tensor,
    uniforms: Iterator[float],
    *,
    relaxation: Relaxation | None = None,
    draft_probabilities: Tensor | None = None,
) -> Accepted:
    """Accept guesses from the root down, the siblings one after the other.

    Without ``draft_probabilities`` the guesses count as deterministic (q = 1): a rejected one is struck out of the
    target's distribution. With them, siblings were drawn without replacement, and a rejected one takes what the drafter
    gave it out of the distribution (SpecInfer, arXiv:2305.09781).

    Args:
        shape: Of the tree.
        tokens: Its guesses, ``[N]``.
        log_weights: Of the target after each node, ``[N, V]``, filtered as they will be drawn from.
        uniforms: Numbers in [0, 1), one for each guess that is looked at.
        relaxation: Without one, the token that comes out is distributed as the target says.
        draft_probabilities: Of the drafter after each node, ``[N, V]``.
    """
    path = [0]
    while True:
        node = path[-1]
        children = [n for n, parent in enumerate(shape.parents, 1) if parent == node]
        residual = log_weights[node].softmax(-1)
        if not children:
            return Accepted(path=tuple(path), residual=residual)
        guessed = None if draft_probabilities is None else draft_probabilities[node].clone()
        for child in children:
            token = int(tokens[child])
            lent, lenders = 0.0, torch.empty(0, dtype=torch.long, device=residual.device)
            if relaxation is not None:
                lent, has_lent = relaxation.borrowed(residual, token)
                lenders = relaxation.family(token) if has_lent else lenders
            mass = float(residual[token]) + lent
            if guessed is not None:
                mass = mass / float(guessed[token]) if float(guessed[token]) > 0 else 1.0
            if next(uniforms) <= mass:
                path.append(child)
                break
            if guessed is None:
                residual[token] = 0
                residual[lenders] = 0
            else:
                taken = guessed.clone()
                taken[lenders] = 0
                residual = (residual - taken).clamp(min=0)
                guessed[token] = 0
                guessed = _normalised(guessed)
            residual = _normalised(residual)
        else:
            return Accepted(path=tuple(path), residual=residual)


def _normalised(weights: Tensor) -> Tensor:
    """Divided by their sum; where nothing is left, all tokens alike."""
    total = weights.sum()
    return weights / total if float(total) > 0 else torch.full_like(weights, 1 / len(weights))


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
    paths: dict[int, tuple[int, ...]] = {0: (0,)}
    for node, parent in enumerate(shape.parents, 1):
        if parent in paths:
            probabilities = log_weights[parent].softmax(-1)
            token = int(tokens[node])
            if relaxation is not None:
                probabilities[token] += relaxation.borrowed(probabilities, token)[0]
            if int(probabilities.argmax()) == token:
                paths[node] = (*paths[parent], node)
    return max(sorted(paths.values()), key=len)
