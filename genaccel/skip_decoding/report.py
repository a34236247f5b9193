# SPDX-License-Identifier: Apache-2.0
"""What a decoding cost."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(kw_only=True)
class DecodingReport:
    """What a decoding cost, in the terms that servers report.

    Attributes:
        target_forwards: Of the target model, the reading of the prompt counted.
        rounds: Of a sequence with guesses, summed over sequences.
        drafted_tokens: Guesses, summed over sequences.
        accepted_tokens: Guesses that were drawn.
        substituted_tokens: Accepted guesses that stand for another token which the target drew, or that only what they
            borrowed let pass.
        unverified_tokens: Guesses that were committed without verification and stayed.
        rolled_back_tokens: Guesses that were committed without verification and taken back.
        generated_tokens: Of all sequences.
        acceptance_histogram: How many rounds of a sequence accepted 0, 1, 2, ... guesses.
        draft_seconds: Wall time in the drafter.
        target_seconds: In the target model's forwards.
        total_seconds: Of all.
    """

    target_forwards: int = 0
    rounds: int = 0
    drafted_tokens: int = 0
    accepted_tokens: int = 0
    substituted_tokens: int = 0
    unverified_tokens: int = 0
    rolled_back_tokens: int = 0
    generated_tokens: int = 0
    acceptance_histogram: list[int] = field(default_factory=list)
    draft_seconds: float = 0.0
    target_seconds: float = 0.0
    total_seconds: float = 0.0

    @property
    def mean_acceptance_length(self) -> float:
        """Tokens a round: 1 + accepted guesses a round."""
        return 1 + self.accepted_tokens / self.rounds if self.rounds else 1.0

    @property
    def draft_acceptance_rate(self) -> float:
        """Share of the guesses that were drawn."""
        return self.accepted_tokens / self.drafted_tokens if self.drafted_tokens else 0.0

    @property
    def unverified_fraction(self) -> float:
        """Share of the tokens that no forward of the target has judged."""
        return self.unverified_tokens / self.generated_tokens if self.generated_tokens else 0.0

    @property
    def substituted_fraction(self) -> float:
        """Share of the tokens that stand for another one."""
        return self.substituted_tokens / self.generated_tokens if self.generated_tokens else 0.0

    @property
    def overhead_seconds(self) -> float:
        """Wall time in neither model."""
        return self.total_seconds - self.draft_seconds - self.target_seconds

    def count(self, accepted: list[int], guesses: int) -> None:
        """Add a round."""
        self.rounds += len(accepted)
        self.drafted_tokens += guesses * len(accepted)
        self.accepted_tokens += sum(accepted)
        missing = max(accepted) + 1 - len(self.acceptance_histogram)
        self.acceptance_histogram += [0] * missing
        for number in accepted:
            self.acceptance_histogram[number] += 1
