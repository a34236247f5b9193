# SPDX-License-Identifier: Apache-2.0
"""Drafters that need no training of their own."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from genaccel.skip_decoding.drafts.draft_tree import TreeShape
from genaccel.skip_decoding.drafts.drafting import Draft, GuessedLevels, Noise, Round
from genaccel.skip_decoding.memory.cached_rows import CachedRows
from genaccel.skip_decoding.report import ModelTime


class JacobiDrafter:
    """Guesses what the last round drew behind the guesses that failed (speculative Jacobi decoding, arXiv:2410.01699).

    Since noise belongs to places, a guess that was drawn from a context nearly right is often drawn again. Places that no
    round has seen begin with the token above in the picture, or with the last one.

    Args:
        length: Guesses of a round.
        row_length: Tokens of a row of the picture; 0 for tokens that are no picture.

    Raises:
        ValueError: If a number is too small.
    """

    needs_features = False
    guesses_trees = False
    network = None

    def __init__(self, length: int = 4, *, row_length: int = 0) -> None:
        if length < 1:
            raise ValueError(f"length must be at least 1, got {length}")
        if row_length < 0:
            raise ValueError(f"row_length must be at least 0, got {row_length}")
        self.length, self.row_length = length, row_length
        self.model_time = ModelTime()
        self._ahead: Tensor | None = None  # [S, length] for the places behind the root, -1 for none

    def with_widths(self, widths: tuple[int, ...]) -> JacobiDrafter:
        """One that guesses as many tokens as there are widths.

        Raises:
            ValueError: If there are none, or one is not 1.
        """
        if any(width != 1 for width in widths):
            raise ValueError(f"a JacobiDrafter guesses chains, of widths 1, got {widths}")
        return JacobiDrafter(len(widths), row_length=self.row_length)

    def begin(
        self, prompts: Tensor, is_token: Tensor, noise: Noise, features: Tensor | None
    ) -> None:
        """Forget the last decoding."""
        self._ahead = None

    def guess(self, history: Tensor, lengths: Tensor, depth: int) -> Draft:
        """A chain; see :class:`genaccel.skip_decoding.decoding.Drafter`."""
        count = min(self.length, depth)
        steps = torch.arange(count, device=history.device)
        root = history.gather(1, lengths[:, None] - 1)
        above = lengths[:, None] + steps - self.row_length
        # A chain longer than a row would look up guesses: it takes the last token there.
        is_known = (above >= 0) & (above < lengths[:, None]) & (self.row_length > 0)
        first = torch.where(is_known, history.gather(1, above.clamp(0, history.shape[1] - 1)), root)
        if self._ahead is not None:
            ahead = self._ahead[:, :count]
            first = torch.where(ahead >= 0, ahead, first)
        return Draft(TreeShape.chain(count), torch.cat((root, first), 1))

    def learn(self, round_: Round) -> None:
        """Keep what was drawn behind the new root."""
        drawn = torch.nn.functional.pad(round_.drawn, (0, self.length + 1), value=-1)
        steps = torch.arange(self.length, device=drawn.device)
        self._ahead = drawn.gather(1, round_.counts[:, None] + steps)
        if round_.taken_back is not None:
            self._ahead[round_.taken_back > 0] = -1

    def select(self, sequences: Tensor, rows: Tensor) -> None:
        """Go on with some sequences."""
        if self._ahead is not None:
            self._ahead = self._ahead[sequences]


class ModelDrafter:
    """Guesses with a smaller language model of the same tokens, which picks them as they will be verified.

    Args:
        model: A decoder-only language model of transformers.
        widths: Children of a node at each depth: ``(1, 1, 1, 1)`` is a chain of four, ``(3, 2)`` a tree of nine; or a tree
            of another shape, whose nodes are numbered depth by depth.

    Raises:
        ValueError: If there is nothing to guess.
        TypeError: If the model cannot guess trees.
    """

    needs_features = False
    guesses_trees = True

    def __init__(self, model: Any, *, widths: tuple[int, ...] | TreeShape = (1, 1, 1, 1)) -> None:
        self._model, self._shape = model, TreeShape.for_drafter(widths)
        self._rows = CachedRows(model)
        self._num_read = 0

    @property
    def network(self) -> nn.Module:
        """The model."""
        model: nn.Module = self._model
        return model

    @property
    def model_time(self) -> ModelTime:
        """Of its forwards in the last decoding."""
        return self._rows.time

    def with_widths(self, widths: tuple[int, ...]) -> ModelDrafter:
        """One of the same model with other widths."""
        return ModelDrafter(self._model, widths=widths)

    def begin(
        self, prompts: Tensor, is_token: Tensor, noise: Noise, features: Tensor | None
    ) -> None:
        """Read the prompts."""
        vocabulary = self._model.config.vocab_size
        if int(prompts.max()) >= vocabulary:
            raise ValueError(
                f"the drafter knows {vocabulary} tokens, and a prompt has number {int(prompts.max())}: "
                "it belongs to another tokeniser"
            )
        self._noise, self._branches = noise, 2 if noise.rule.is_guided else 1
        self._rows = CachedRows(self._model)
        self._rows.prefill(prompts, is_token)

    def guess(self, history: Tensor, lengths: Tensor, depth: int) -> Draft:
        """A tree, level by level; see :class:`genaccel.skip_decoding.decoding.Drafter`."""
        shape = self._shape.cut(depth)
        root = history.gather(1, lengths[:, None] - 1)[:, 0]
        draft, tokens = GuessedLevels(root), root[:, None]
        done = 0
        for level in shape.expansions:
            part = TreeShape(shape.parents[: level.end - 1])
            output = self._rows.read(tokens.repeat(self._branches, 1), part, after=done)
            logits = self._noise.rule.combine(output.logits)
            positions = lengths[:, None] + shape.depths[level.begin]
            positions = positions.expand(-1, level.end - level.begin)
            tokens = draft.add(self._noise.guesses(logits, positions, level.width), level)
            done = level.end
        self._num_read = done
        return draft.draft(shape)

    def learn(self, round_: Round) -> None:
        """Keep the rows of what was drawn."""
        if int(round_.path.max()) >= self._num_read:  # a guess without children was drawn
            self._rows.read(
                round_.tokens[:, self._num_read :].repeat(self._branches, 1),
                round_.shape,
                after=self._num_read,
            )
        self._rows.keep(round_.path.repeat(self._branches, 1), round_.counts.repeat(self._branches))
        if round_.taken_back is not None:
            self._rows.take_back(round_.taken_back.repeat(self._branches))

    def select(self, sequences: Tensor, rows: Tensor) -> None:
        """Go on with some sequences."""
        self._noise = self._noise.select(sequences)
        self._rows.select(rows)
