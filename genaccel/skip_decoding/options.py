# SPDX-License-Identifier: Apache-2.0
"""What may differ from the tokens that the target alone draws, and by which noise it draws."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from torch import Tensor

from genaccel.skip_decoding.drafts.drafting import Guessing
from genaccel.skip_decoding.verifying.acceptance import Relaxation
from genaccel.skip_decoding.verifying.skipping import (
    decaying_weights,
    path_similarity,
    skips_by_similarity,
    skips_uniformly,
)


@dataclass(frozen=True, kw_only=True, slots=True)
class SkipRule:
    """When a round commits guesses without verification (VVS, arXiv:2511.13587).

    The target reads them with the next tree, so that its memory is whole. As in the paper it does not take them back,
    unless ``rollback_below`` says so.

    Attributes:
        interval: Every so many rounds one is skipped, at least 2.
        threshold: Instead of an interval: skip where the paths' guesses look as alike as this (0.65 to 0.7 is sensible).
        unit_codes: Code words of length 1, ``[K, C]``; needed for a threshold.
        path: Which path is committed: one of them, each as probable (``"uniform"``), or the likeliest one under the drafter
            (``"confidence"``).
        truncates: Whether no more guesses are committed than paths are long in the mean (gamma).
        max_unverified: Share of a sequence's tokens that are committed without verification at most.
        rollback_below: Take back the first of these tokens whose probability under the target turns out to be less than
            this, and those behind it; the target's own token takes its place. 0 takes none back. At 1 and with coupled
            guesses the tokens are those that the target alone draws.
    """

    interval: int | None = 2
    threshold: float | None = None
    unit_codes: Tensor | None = None
    path: Literal["uniform", "confidence"] = "uniform"
    truncates: bool = True
    max_unverified: float = 1.0
    rollback_below: float = 0.0

    def __post_init__(self) -> None:
        if (self.interval is None) == (self.threshold is None):
            raise ValueError("give an interval or a threshold for skipping, not both")
        if self.interval is not None and self.interval < 2:
            raise ValueError(f"interval must be at least 2, got {self.interval}")
        if self.threshold is not None and self.unit_codes is None:
            raise ValueError("a threshold of similarity needs the code words")
        if self.path not in ("uniform", "confidence"):
            raise ValueError(f'path must be "uniform" or "confidence", got {self.path!r}')
        for name in ("max_unverified", "rollback_below"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must be from 0 to 1, got {getattr(self, name)}")

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
        similarity = float(path_similarity(guesses, self.unit_codes, weights=weights).mean())
        return skips_by_similarity(
            similarity, self.threshold, has_just_skipped=False, num_tokens=num_tokens
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class DecodingOptions:
    """How tokens are drawn.

    Attributes:
        seed: Of the noise.
        end_tokens: After one of these a sequence ends.
        pad_token: What stands behind its end.
        guessing: How drafters pick guesses, and so how these are verified. ``"coupled"``: both draw by the noise of a place,
            and a guess is accepted if it is what the target draws there: the tokens are those that the target alone draws.
            ``"drawn"``: guesses are drawn by noise of their own and judged by rejection sampling: the tokens are
            distributed as the target's. ``"likeliest"``: the same for the drafter's likeliest tokens, as EAGLE-2 and LANTERN
            have it, which image models seldom accept. By default drawn where there is a relaxation, else coupled.
        relaxation: Accept more guesses than the distribution allows: those that borrow from code words that look like them,
            or, where guesses are coupled, those that stand for such a code word which was drawn.
        ensemble_weight: Draw from this much of the target's distribution and the rest of the drafter's, above 0 and below 1,
            as transformers' ``assistant_ensemble_weight`` (arXiv:2604.07622): at most ``1 - ensemble_weight`` times their
            distance in total variation from the target's.
        skip: Commit some without verification.

    Raises:
        ValueError: If options do not go together.
    """

    seed: int = 0
    end_tokens: tuple[int, ...] = ()
    pad_token: int = 0
    guessing: Guessing | None = None
    relaxation: Relaxation | None = None
    ensemble_weight: float | None = None
    skip: SkipRule | None = None

    def __post_init__(self) -> None:
        if self.guessing not in (None, "coupled", "drawn", "likeliest"):
            raise ValueError(
                f'guessing must be "coupled", "drawn" or "likeliest", got {self.guessing!r}'
            )
        if self.ensemble_weight is not None:
            if not 0 < self.ensemble_weight < 1:
                raise ValueError(
                    f"ensemble_weight must be above 0 and below 1, got {self.ensemble_weight}"
                )
            if self.guessing == "likeliest":
                raise ValueError("ensemble_weight needs guesses that are drawn, not the likeliest")

    @property
    def is_exact(self) -> bool:
        """Whether the tokens are those that the target alone draws."""
        has_rest = self.relaxation is not None or self.ensemble_weight is not None
        return self.picks == "coupled" and not has_rest and self.skip is None

    @property
    def picks(self) -> Guessing:
        """How drafters pick guesses, the default filled in."""
        return self.guessing or ("coupled" if self.relaxation is None else "drawn")

    def for_call(
        self, *, seed: int, end_tokens: tuple[int, ...], pad_token: int
    ) -> DecodingOptions:
        """These with the noise and the ends of one call."""
        return replace(self, seed=seed, end_tokens=end_tokens, pad_token=pad_token)

    def with_seed(self, seed: int) -> DecodingOptions:
        """These with another seed."""
        return replace(self, seed=seed)
