# SPDX-License-Identifier: Apache-2.0
"""Distributions of what is drawn, without drawing."""

import itertools

import torch
from torch import Tensor

from genaccel.skip_decoding.drafts.draft_tree import TreeShape
from genaccel.skip_decoding.verifying.acceptance import Relaxation, accept_by_rejection


def next_token(
    num_siblings: int,
    tokens: Tensor,
    target: Tensor,
    relaxation: Relaxation | None,
    draft: Tensor | None = None,
) -> Tensor:
    """Distribution of the token after the root, ``[S, V]``, by enumeration: each sibling is accepted or not.

    Args:
        num_siblings: Guesses.
        tokens: These, ``[S, siblings]``.
        target: Probabilities, ``[V]``.
        relaxation: What they may borrow.
        draft: Of the drafter, ``[V]``.
    """
    shape, count = TreeShape((0,) * num_siblings), len(tokens)
    all_tokens = torch.cat((torch.zeros(count, 1, dtype=torch.long), tokens), 1)
    weights = target.log().expand(count, shape.num_nodes, -1)
    drafts = None if draft is None else draft.expand(count, 1, -1)

    def judged(uniforms: Tensor) -> tuple[Tensor, Tensor]:
        path, residual, _ = accept_by_rejection(
            shape,
            all_tokens,
            weights,
            uniforms,
            relaxation=relaxation,
            draft_probabilities=drafts,
        )
        return path[:, 1], residual

    # A uniform number of 2 rejects what can be; what is accepted below a number then has it as its probability.
    rejecting = torch.full((count, shape.num_nodes), 2.0, dtype=torch.float64)
    total = torch.zeros(count, len(target), dtype=torch.float64)
    reach = torch.ones(count, dtype=torch.float64)
    for sibling in range(num_siblings):
        low, high = torch.zeros_like(reach), torch.ones_like(reach)
        for _ in range(32):
            middle = (low + high) / 2
            uniforms = rejecting.clone()
            uniforms[:, sibling] = middle
            is_accepted = judged(uniforms)[0] == sibling + 1
            low = torch.where(is_accepted, middle, low)
            high = torch.where(is_accepted, high, middle)
        total.scatter_add_(1, tokens[:, sibling, None], (reach * low)[:, None])
        reach = reach * (1 - low)
    return total + reach[:, None] * judged(rejecting)[1]


def ordered_draws(draft: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """All ways to draw tokens without replacement, ``[S, count]``, and how probable they are, ``[S]``."""
    tokens = torch.tensor(list(itertools.permutations(range(len(draft)), count)))
    chance = torch.ones(len(tokens), dtype=torch.float64)
    left = torch.ones_like(chance)
    for number in range(count):
        own = draft[tokens[:, number]]
        chance, left = chance * own / left, left - own
    return tokens, chance


def of_fixed_guesses(
    siblings: int, target: Tensor, draft: Tensor, relaxation: Relaxation | None
) -> Tensor:
    """:func:`next_token` after the drafter's likeliest guesses."""
    tokens = draft.topk(siblings).indices[None]
    return next_token(siblings, tokens, target, relaxation)[0]


def of_drawn_guesses(
    siblings: int, target: Tensor, draft: Tensor, relaxation: Relaxation | None
) -> Tensor:
    """:func:`next_token` after guesses that the drafter draws without replacement."""
    tokens, chance = ordered_draws(draft, siblings)
    return chance @ next_token(siblings, tokens, target, relaxation, draft)
