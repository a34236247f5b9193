# SPDX-License-Identifier: Apache-2.0
"""When a verification is skipped, and what is committed without one (VVS, arXiv:2511.13587)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from genaccel import ops

# Tokens before which nothing is skipped: a drafter needs features of the target to go on from.
WARM_UP_TOKENS = 5

NEVER = 1024


def path_similarity(paths: Tensor, unit_codes: Tensor, *, weights: Sequence[float]) -> Tensor:
    """How alike the guesses of different paths look (equations 3 to 5), ``[S]``: 1 if they are the same at every depth.

    At each depth the mean is taken over the cosines of all pairs of paths, 0 for pairs of which one has ended; see
    :func:`genaccel.ops.path_similarity`.

    Args:
        paths: Tokens without the root, ``[S, P, D]``, -1 behind the end.
        unit_codes: Code words of length 1, float32 or float64 ``[K, C]``.
        weights: Of the depths, at least as many as the longest path is long; they are divided by their sum.

    Returns:
        0 for one path alone, or without guesses.
    """
    scale = torch.zeros(paths.shape[2], dtype=torch.float64)
    known = torch.tensor(list(weights[: len(scale)]), dtype=torch.float64)
    scale[: len(known)] = known
    return ops.path_similarity(paths, unit_codes, scale.to(paths.device))


def decaying_weights(depth: int, decay: float = 0.9) -> list[float]:
    """1, decay, decay^2, ..."""
    return [decay**level for level in range(depth)]


def skips_uniformly(round_number: int, interval: int, num_tokens: int) -> bool:
    """Whether a round skips its verification: the second of every ``interval`` rounds, skipped ones counted from 0.

    Args:
        round_number: Of this one.
        interval: At least 2, or two skips would follow each other; 1024, the authors' number for it, and more is never.
        num_tokens: That are there.
    """
    is_due = interval < NEVER and round_number % interval == 1
    return is_due and num_tokens > WARM_UP_TOKENS


def skips_by_similarity(
    similarity: float, threshold: float, *, has_just_skipped: bool, num_tokens: int
) -> bool:
    """Whether a round skips its verification: where it hardly matters which path is taken, and never twice in a row."""
    return num_tokens > WARM_UP_TOKENS and not has_just_skipped and similarity >= threshold


def likeliest_path(paths: Tensor, log_probabilities: Tensor) -> Tensor:
    """The path of the largest summed log-probability, ``[S]``.

    Args:
        paths: Nodes, ``[P, D]``, -1 behind the end.
        log_probabilities: Of each guess after its parent, ``[S, N]``.
    """
    each = torch.where(paths >= 0, log_probabilities[:, paths.clamp(min=0)], 0.0)
    return each.sum(2).argmax(1)


def unverified_limit(length: int, unverified: int, max_share: float) -> int:
    """Tokens that a sequence may commit without verification for their share to stay within a bound.

    Args:
        length: Of its tokens.
        unverified: Of these, how many were committed so.
        max_share: The bound.
    """
    if max_share >= 1:
        return NEVER * NEVER
    return int((max_share * length - unverified) / (1 - max_share) + 1e-9)


def unverified_length(path_lengths: Tensor, path: int) -> int:
    """Guesses of a path that are committed without verification (equation 1, gamma).

    Args:
        path_lengths: Guesses of each path, ``[N]``, the root not counted.
        path: The one that is taken.

    Returns:
        Its length, but no more than the mean length, rounded down.
    """
    mean = int(path_lengths.sum() + len(path_lengths)) // len(path_lengths) - 1
    return min(int(path_lengths[path]), mean)
