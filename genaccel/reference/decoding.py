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
    strikes_all: bool,
    depth: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """Nodes ``[S, depth + 1]`` that rejection sampling accepts, their number, and what is drawn by then, ``[S, V]``."""
    paths, residuals = [], torch.empty_like(log_weights[:, 0])
    for number in range(len(tokens)):
        path, looked_at, goes_on = [0], 0, True
        while goes_on:
            node, goes_on = path[-1], False
            row = log_weights[number, node].softmax(-1)
            guessed = None
            if draft_probabilities is not None:
                guessed = draft_probabilities[number, node].clone()
            for child in range(node + 1, len(parents)):
                if int(parents[child]) != node or len(path) > depth:
                    continue
                token = int(tokens[number, child])
                lent, struck = 0.0, torch.empty(0, dtype=torch.long)
                if neighbours is not None:
                    own = float(row[token])
                    sums = row[neighbours[token, :lenders]].cumsum(0)
                    count = int((sums <= (delta if delta <= 1 else (delta - 1) * own)).sum())
                    lent = float(sums[count - 1]) if count else 0.0
                    struck = neighbours[token, : lenders + 1 if strikes_all and count else count]
                mass = float(row[token]) + lent
                if guessed is not None:
                    mass = mass / float(guessed[token]) if float(guessed[token]) > 0 else 1.0
                looked_at += 1
                if float(uniforms[number, looked_at - 1]) <= mass:
                    path.append(child)
                    goes_on = True
                    break
                if guessed is None:
                    row[token] = 0
                    row[struck] = 0
                else:
                    taken = guessed.clone()
                    taken[struck] = 0
                    row = (row - taken).clamp(min=0)
                    guessed[token] = 0
                    guessed = _normalised(guessed)
                row = _normalised(row)
        paths.append(path)
        residuals[number] = row
    return *_padded(paths, depth), residuals


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
