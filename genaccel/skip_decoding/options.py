# SPDX-License-Identifier: Apache-2.0
"""What may differ from the tokens that the target alone draws, and by which noise it draws."""

from __future__ import annotations

from dataclasses import dataclass, replace

from torch import Tensor

from genaccel.skip_decoding.acceptance import Relaxation
from genaccel.skip_decoding.skipping import (
    decaying_weights,
    path_similarity,
    skips_by_similarity,
    skips_uniformly,
)


@dataclass(frozen=True, kw_only=True, slots=True)
class SkipRule:
    """When a round commits guesses without verification (VVS, arXiv:2511.13587).

    The target reads them with the next tree, so that its memory is whole; it does not take them back.

    Attributes:
        interval: Every so many rounds one is skipped, at least 2.
        threshold: Instead of an interval: skip where the paths' guesses look as alike as this (0.65 to 0.7 is sensible).
        unit_codes: Code words of length 1, ``[K, C]``; needed for a threshold.
    """

    interval: int | None = 2
    threshold: float | None = None
    unit_codes: Tensor | None = None

    def __post_init__(self) -> None:
        if (self.interval is None) == (self.threshold is None):
            raise ValueError("give an interval or a threshold for skipping, not both")
        if self.interval is not None and self.interval < 2:
            raise ValueError(f"interval must be at least 2, got {self.interval}")
        if self.threshold is not None and self.unit_codes is None:
            raise ValueError("a threshold of similarity needs the code words")

    def is_due(self, round_number: int, num_tokens: int, guesses: Tensor) -> bool:
        """Whether to skip a round that does not follow a skipped one.

        Args:
            round_number: From 0, skipped ones counted.
            num_tokens: That the shortest sequence has.
            guesses: Tokens of the paths, without the root, ``[S, P, D]``, -1 behind the end.
        """
        if self.interval is not None:
            return skips_uniformly(round_number, self.interval, num_tokens)
        assert self.threshold is not None
        assert self.unit_codes is not None
        weights = decaying_weights(guesses.shape[2])
        similarities = [
            path_similarity(paths, self.unit_codes, weights=weights) for paths in guesses
        ]
        mean = sum(similarities) / len(similarities)
        return skips_by_similarity(
            mean, self.threshold, has_just_skipped=False, num_tokens=num_tokens
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class DecodingOptions:
    """How tokens are drawn.

    Attributes:
        seed: Of the noise.
        end_tokens: After one of these a sequence ends.
        pad_token: What stands behind its end.
        relaxation: Accept more guesses than the distribution allows, within a bound.
        skip: Commit some without verification.
    """

    seed: int = 0
    end_tokens: tuple[int, ...] = ()
    pad_token: int = 0
    relaxation: Relaxation | None = None
    skip: SkipRule | None = None

    @property
    def is_exact(self) -> bool:
        """Whether the tokens are those that the target alone draws."""
        return self.relaxation is None and self.skip is None

    def for_call(
        self, *, seed: int, end_tokens: tuple[int, ...], pad_token: int
    ) -> DecodingOptions:
        """These with the noise and the ends of one call."""
        return replace(self, seed=seed, end_tokens=end_tokens, pad_token=pad_token)

    def with_seed(self, seed: int) -> DecodingOptions:
        """These with another seed."""
        return replace(self, seed=seed)
