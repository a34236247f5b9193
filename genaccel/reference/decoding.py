# SPDX-License-Identifier: Apache-2.0
"""Speculative decoding in plain torch."""

import torch
from torch import Tensor

__all__ = [
    "accept_tree",
    "accept_tree_by_rejection",
    "compact_rows_",
    "draw_keyed",
    "path_similarity",
]

# The increment and the multipliers of splitmix64 (Steele, Lea and Flood, OOPSLA 2014), as signed integers.
_INCREMENT = 0x9E3779B97F4A7C15 - (1 << 64)
_MULTIPLIERS = (0xBF58476D1CE4E5B9 - (1 << 64), 0x94D049BB133111EB - (1 << 64))


def _padded(paths: list[list[int]], depth: int) -> tuple[Tensor, Tensor]:
    """``[S, depth + 1]``, -1 behind the end, and lengths ``[S]``."""
    rows = [path + [-1] * (depth + 1 - len(path)) for path in paths]
    counts = torch.tensor([len(path) for path in paths], dtype=torch.long)
    return torch.tensor(rows, dtype=torch.long).reshape(len(paths), depth + 1), counts


def accept_tree(
    parents: Tensor, tokens: Tensor, drawn: Tensor, depth: int
) -> tuple[Tensor, Tensor]:
    """Nodes ``[S, depth + 1]`` that what was drawn, ``[S, N]``, reaches in a tree of guesses, and their number."""
    paths = []
    for guesses, wanted in zip(tokens.tolist(), drawn.tolist(), strict=True):
        path = [0]
        while len(path) <= depth:
            node = path[-1]
            children = [
                child
                for child, parent in enumerate(parents.tolist())
                if child > node and parent == node and guesses[child] == wanted[node]
            ]
            if not children:
                break
            path.append(children[0])
        paths.append(path)
    return _padded(paths, depth)


def _normalised(weights: Tensor) -> Tensor:
    """Divided by their sum; where nothing is left, all tokens alike."""
    total = weights.sum()
    return weights / total if float(total) > 0 else torch.full_like(weights, 1 / len(weights))


def accept_tree_by_rejection(
    parents: Tensor,
    tokens: Tensor,
    log_weights: Tensor,
    uniforms: Tensor,
    neighbours: Tensor | None,
    draft_probabilities: Tensor | None,
    lenders: int,
    delta: float,
    is_original: bool,
    depth: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Accept guesses from the root down, the siblings one after the other.

    Without ``draft_probabilities`` the guesses count as deterministic (q = 1): a rejected one is struck out of the
    target's distribution with the code words that lent to it. What is borrowed after one token is at most delta together:
    the i-th sibling borrows ``lent`` with the probability that none before it was accepted, at most ``reach``, so that
    it may borrow what is ``left`` of delta over ``reach``.

    With them, siblings were drawn without replacement, and a rejected one takes what the drafter gave it out of the
    distribution (SpecInfer, arXiv:2305.09781). There the guess that borrows is itself drawn, and each could borrow delta,
    so that what is drawn could be as far from the target as the drafter is; hence a guess x borrows no more than the share
    ``min(1, delta / sum [q - p]+)`` of its own ``[q(x) - p(x)]+``. Summed over all x that is at most delta. Among m
    siblings each has delta / m.

    Neither bound holds with ``is_original`` or a delta above 1.

    Args:
        parents: Of each node, ``[N]``; the root's is not looked at.
        tokens: Guesses, ``[S, N]``.
        log_weights: Of the target after each node, ``[S, N, V]``.
        uniforms: Numbers in [0, 1), the i-th for the i-th guess that is looked at, ``[S, N]``.
        neighbours: Of the first K tokens the others by rising distance, ``[K, n]``; None if none lend.
        draft_probabilities: Of the drafter after the first M nodes, ``[S, M, V]``.
        lenders: Of the neighbours that lend at most.
        delta: Up to 1, borrowed at most; above, ``delta - 1`` times the guess's own.
        is_original: Each guess borrows delta anew, and takes ``lenders + 1`` neighbours with it.
        depth: Guesses of the longest path.

    Returns:
        Nodes, ``[S, depth + 1]`` and -1 behind the last; their number, ``[S]``; what the next token is drawn by,
        ``[S, V]``; and the accepted guesses that only what they borrowed let pass, ``[S]``.
    """
    paths, residuals = [], torch.empty_like(log_weights[:, 0])
    substituted = torch.zeros(len(tokens), dtype=torch.long)
    shares_bound = neighbours is not None and delta <= 1 and not is_original
    for number in range(len(tokens)):
        path, looked_at, goes_on = [0], 0, True
        while goes_on:
            node, goes_on = path[-1], False
            children = [n for n in range(node + 1, len(parents)) if int(parents[n]) == node]
            residual, guessed = log_weights[number, node].softmax(-1), None
            if draft_probabilities is not None and children:
                guessed = draft_probabilities[number, node].clone()
            # Borrowed at most by those who come, and how probable it is at most that none before was accepted.
            left, reach = delta, 1.0
            for child in children if len(path) <= depth else ():
                token = int(tokens[number, child])
                own, chance = float(residual[token]), 1.0
                if guessed is not None:
                    chance = float(guessed[token])
                lent, num_lent = 0.0, 0
                if neighbours is not None and token < len(neighbours):
                    limit = delta if delta <= 1 else (delta - 1) * own
                    if shares_bound and guessed is None:
                        limit = min(limit, left / max(reach, 1e-30))
                    sums = residual[neighbours[token, :lenders]].cumsum(0)
                    num_lent = int((sums <= limit).sum())
                    lent = float(sums[num_lent - 1]) if num_lent else 0.0
                if shares_bound and guessed is None:
                    left = max(0.0, left - reach * lent)
                    reach *= max(0.0, 1 - own - lent)
                elif shares_bound and guessed is not None:
                    excess = (guessed - residual).clamp(min=0)
                    total = float(excess.sum())
                    share = left / len(children) / max(reach * total, 1e-30)
                    lent = min(lent, min(1.0, share) * float(excess[token]))
                    reach *= total
                uniform = float(uniforms[number, looked_at])
                looked_at += 1
                if chance > 0 and uniform <= (own + lent) / chance:
                    substituted[number] += uniform > own / chance
                    path.append(child)
                    goes_on = True
                    break
                struck = torch.empty(0, dtype=torch.long)
                if neighbours is not None and num_lent:
                    struck = neighbours[token, : lenders + 1 if is_original else num_lent]
                if guessed is None:
                    residual[token], residual[struck] = 0, 0
                elif chance > 0:  # a guess that the drafter could not draw says nothing
                    taken = guessed.clone()
                    if is_original:
                        taken[struck] = 0
                    residual = (residual - taken).clamp(min=0)
                    guessed[token] = 0
                    guessed = guessed / guessed.sum().clamp(min=1e-30)
                residual = _normalised(residual)
        paths.append(path)
        residuals[number] = residual
    return *_padded(paths, depth), residuals, substituted


def compact_rows_(states: list[Tensor], sources: Tensor, starts: Tensor, counts: Tensor) -> None:
    """Write the rows ``sources[b, k]`` of tensors ``[B, H, L, C]`` to ``starts[b] + k``, for k below ``counts[b]``."""
    for tensor in states:
        for sequence, count in enumerate(counts.tolist()):
            rows = tensor[sequence, :, sources[sequence, :count]]
            first = int(starts[sequence])
            tensor[sequence, :, first : first + count] = rows


def _mixed(values: Tensor) -> Tensor:
    def shifted(bits: int) -> Tensor:
        """Logical shift to the right: torch's own keeps the sign."""
        return (values >> bits) & ((1 << (64 - bits)) - 1)

    values = (values ^ shifted(30)) * _MULTIPLIERS[0]
    values = (values ^ shifted(27)) * _MULTIPLIERS[1]
    return values ^ shifted(31)


def draw_keyed(log_weights: Tensor, seed: int, sequences: Tensor, positions: Tensor) -> Tensor:
    """Tokens ``[R]`` with the largest sum of log-weight, ``[R, V]``, and the Gumbel number of their place."""
    key = _mixed(sequences * _INCREMENT + seed)
    key = _mixed(key + (positions + 1) * _INCREMENT)
    numbers = torch.arange(1, log_weights.shape[1] + 1, device=key.device) * _INCREMENT
    bits = (_mixed(key[:, None] + numbers) >> 12) & ((1 << 52) - 1)
    uniform = (bits.double() + 0.5) * 2.0**-52
    return (log_weights.double() - (-uniform.log()).log()).argmax(1)


def path_similarity(paths: Tensor, unit_codes: Tensor, weights: Tensor) -> Tensor:
    """Mean cosine ``[S]`` of the pairs of paths in ``[S, P, D]``, 0 where one has ended, averaged over the depths."""
    results = []
    for members in paths:
        count, is_there = len(members), members >= 0
        depth = (
            int((is_there.any(0) * torch.arange(1, paths.shape[2] + 1)).amax())
            if members.numel()
            else 0
        )
        if count < 2 or depth == 0:
            results.append(0.0)
            continue
        codes = unit_codes.double()[members[:, :depth].clamp(min=0)] * is_there[:, :depth, None]
        cosines = torch.einsum("adc,bdc->abd", codes, codes)
        cosines[range(count), range(count)] = 0
        mean = cosines.sum((0, 1)) / (count * (count - 1))
        results.append(float((mean * weights[:depth]).sum() / weights[:depth].sum()))
    return torch.tensor(results, dtype=torch.float64)
