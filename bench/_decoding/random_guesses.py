# SPDX-License-Identifier: Apache-2.0
"""A drafter that knows nothing: what a measure of quality must condemn when its guesses are committed unverified."""

from __future__ import annotations

import torch
from torch import Tensor

from genaccel.skip_decoding.drafts.draft_tree import TreeShape
from genaccel.skip_decoding.drafts.drafting import Draft, Noise, Round
from genaccel.skip_decoding.sampling import keyed_uniform


class RandomDrafter:
    """Guesses chains of tokens that are all equally likely.

    Args:
        vocabulary: Tokens to choose from.
        length: Guesses of a round.
    """

    needs_features = False

    def __init__(self, vocabulary: int, length: int = 4) -> None:
        self._vocabulary, self._length = vocabulary, length

    def begin(
        self, prompts: Tensor, is_token: Tensor, noise: Noise, features: Tensor | None
    ) -> None:
        """Take the sequences' numbers."""
        # Not the noise that the target draws by.
        self._numbers, self._seed = noise.numbers, noise.seed ^ 0x5DEECE66D

    def guess(self, history: Tensor, lengths: Tensor, depth: int) -> Draft:
        """A chain; see :class:`genaccel.skip_decoding.drafts.drafting.Drafter`."""
        count = min(self._length, depth)
        uniform = keyed_uniform(self._seed, self._numbers, lengths, count)
        guesses = (uniform * self._vocabulary).long()
        root = history.gather(1, lengths[:, None] - 1)
        return Draft(TreeShape.chain(count), torch.cat((root, guesses), 1))

    def learn(self, round_: Round) -> None:
        """Learn nothing."""

    def select(self, sequences: Tensor, rows: Tensor) -> None:
        """Go on with some sequences."""
        self._numbers = self._numbers[sequences]
