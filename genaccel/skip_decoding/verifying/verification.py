# SPDX-License-Identifier: Apache-2.0
"""What a target's logits make of a draft: which guesses stay, and which token is drawn after each node."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from genaccel.skip_decoding.drafts.draft_tree import accepted_path, parents_of
from genaccel.skip_decoding.drafts.drafting import Draft
from genaccel.skip_decoding.options import DecodingOptions
from genaccel.skip_decoding.sampling import SamplingRule, draw, keyed_uniform
from genaccel.skip_decoding.verifying.acceptance import accept_by_rejection, greedily_accepted

# Between the seeds of rounds: an odd number without a pattern, so that sums with other seeds do not meet.
_ROUND_STRIDE = 0xD1342543DE82EF95


@dataclass(frozen=True, kw_only=True, slots=True)
class Verdict:
    """What became of a draft.

    Attributes:
        path: Nodes that were reached, ``[S, max_depth + 1]``, -1 behind the last.
        drawn: Token after each node, ``[S, N]``; on the path, the guess that was accepted.
        substituted: Guesses of the path that stand for another token, or that only what they borrowed let pass, ``[S]``.
    """

    path: Tensor
    drawn: Tensor
    substituted: Tensor


def draft_seed(options: DecodingOptions) -> int:
    """Of the noise that guesses are drawn by: where they are coupled, the target's own."""
    return options.seed if options.picks == "coupled" else options.seed - _ROUND_STRIDE


def verify(
    draft: Draft,
    logits: Tensor,
    rule: SamplingRule,
    options: DecodingOptions,
    *,
    numbers: Tensor,
    lengths: Tensor,
    round_number: int,
) -> Verdict:
    """Judge guesses.

    Args:
        draft: The guesses.
        logits: Of the target after each node, ``[S, N, V]``, of both branches combined.
        rule: The distribution.
        options: How guesses were picked, and what may differ.
        numbers: Of the sequences, ``[S]``.
        lengths: Tokens of each up to the root, ``[S]``.
        round_number: Of this round.

    Raises:
        ValueError: If the drafter does not tell the distributions that the options need.
    """
    shape, tokens = draft.shape, draft.tokens
    parents = parents_of(shape, tokens.device)
    depths = torch.tensor(shape.depths, device=tokens.device)
    places = lengths[:, None] + depths
    is_coupled = options.picks == "coupled"
    # Noise that no guess has seen: one that was drawn by the noise of its place is no longer independent of it.
    seed = options.seed if is_coupled else options.seed + (round_number + 1) * _ROUND_STRIDE
    weights = rule.log_weights(logits)
    if options.ensemble_weight is not None and shape.num_nodes > 1:
        if rule.temperature == 0:
            logits = _ensembled(logits, draft.probabilities, options.ensemble_weight)
            weights = rule.log_weights(logits)
        else:
            weights = _ensembled(weights, draft.probabilities, options.ensemble_weight)
    relaxation = options.relaxation
    if not is_coupled and rule.temperature > 0 and draft.probabilities is not None:
        # Only a drafter without a model of its own learns from what is drawn off the path.
        drawn = torch.full_like(tokens, -1)
    else:
        drawn = draw(weights, seed, numbers[:, None].expand_as(places), places)
    stands_for = None
    if rule.temperature == 0:
        # Only the filters make one token of all; what is borrowed is the model's probability.
        agrees = tokens == drawn[:, parents]
        if relaxation is None:
            path = accepted_path(shape, tokens, drawn)[0]
        else:
            accepted = greedily_accepted(tokens, parents, logits.softmax(-1), relaxation)
            path = shape.longest_path(accepted)
    elif is_coupled:
        agrees = tokens == drawn[:, parents]
        if relaxation is not None:
            before = weights.softmax(-1)[:, parents]
            stands_for = relaxation.lends(before, tokens, drawn[:, parents])
        path = accepted_path(shape, tokens, drawn, stands_for)[0]
    else:
        path, residual, substituted = accept_by_rejection(
            shape,
            tokens,
            weights,
            keyed_uniform(~seed, numbers, lengths, shape.num_nodes),
            relaxation=relaxation,
            draft_probabilities=draft.probabilities if options.picks == "drawn" else None,
        )
        last = path.amax(1, keepdim=True)  # parents come before their children
        place = places.gather(1, last)[:, 0]
        drawn.scatter_(1, last, draw(residual.log(), seed, numbers, place)[:, None])
        return Verdict(path=path, drawn=_with_guesses(drawn, path, tokens), substituted=substituted)
    is_substituted = (path > 0) & ~agrees.gather(1, path.clamp(min=0))
    return Verdict(
        path=path, drawn=_with_guesses(drawn, path, tokens), substituted=is_substituted.sum(1)
    )


def _with_guesses(drawn: Tensor, path: Tensor, tokens: Tensor) -> Tensor:
    """What was drawn, but after the nodes of the path the guesses that are its next ones."""
    before, after = path[:, :-1], path[:, 1:]
    guesses = tokens.gather(1, after.clamp(min=0))
    # Behind the end nothing changes: what is written there falls into a column too many.
    spare = drawn.shape[1]
    index = torch.where(after >= 0, before, spare)
    wide = torch.nn.functional.pad(drawn, (0, 1)).scatter(1, index, guesses)
    return wide[:, :spare]


def _ensembled(weights: Tensor, probabilities: Tensor | None, weight: float) -> Tensor:
    """Log-weights of ``weight`` of the target's distribution and the rest of the drafter's, after nodes with children."""
    if probabilities is None:
        raise ValueError(
            "ensemble_weight needs a drafter that draws from a distribution, and this one has none"
        )
    inner = probabilities.shape[1]
    mixed = weight * weights[:, :inner].softmax(-1) + (1 - weight) * probabilities
    return torch.cat((mixed.log(), weights[:, inner:]), 1)
