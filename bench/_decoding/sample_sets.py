# SPDX-License-Identifier: Apache-2.0
"""Tokens of many pictures in files, chunk by chunk, so that a run that was stopped goes on where it was."""

from __future__ import annotations

import random
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor

from bench._decoding.generator import Generator, Mode
from genaccel.files.atomic import write_atomically

# Pictures that are drawn anew to see whether a chunk is what it says; so many of them must be the same. In another batch
# a draw between two tokens that are all but equal may fall the other way.
_CHECKED, _SAME = 4, 3


@dataclass(frozen=True, kw_only=True)
class SampleSets:
    """Sets of pictures of one generator, of which chunk ``c`` is drawn with seed ``c`` and the classes in turn.

    Attributes:
        generator: What draws.
        folder: Of the files.
        chunk: Pictures of each.
        commit: Of the code, for new files.
    """

    generator: Generator
    folder: Path
    chunk: int
    commit: str

    def path(self, mode: Mode, number: int) -> Path:
        """File of a chunk."""
        return self.folder / f"{mode.name}-{number:03d}.safetensors"

    def labels(self, count: int, first: int = 0) -> list[int]:
        """Classes of pictures."""
        return self.generator.labels(first, count)

    def tokens(self, mode: Mode, chunks: range) -> Tensor:
        """Tokens of the pictures of some chunks, ``[S, T]``; what is missing is drawn.

        Raises:
            ValueError: If a file is of other settings.
        """
        missing = [number for number in chunks if not self.path(mode, number).is_file()]
        self._check(mode, [number for number in chunks if number not in missing])
        begin = time.monotonic()
        for done, number in enumerate(missing, 1):
            self._draw(mode, number)
            left = (time.monotonic() - begin) / done * (len(missing) - done)
            _say(
                f"{self.generator.name}, {mode.name}: chunk {number}, {done} of {len(missing)}, {left / 60:.0f} min left"
            )
        return torch.cat([self._read(mode, number)[0] for number in chunks])

    def _draw(self, mode: Mode, number: int) -> None:
        labels = self.labels(self.chunk, number * self.chunk)
        drawn = self.generator.draw(mode, labels, number)
        provenance = {"mode": mode.name, "settings": mode.settings, "commit": self.commit}
        data = save({"tokens": drawn.tokens.to(torch.int16)}, metadata=provenance)
        write_atomically(self.path(mode, number), data, overwrite=True, parents=True)

    def _read(self, mode: Mode, number: int) -> tuple[Tensor, dict[str, str]]:
        with safe_open(self.path(mode, number), "pt") as file:
            return file.get_tensor("tokens").long(), file.metadata() or {}

    def _check(self, mode: Mode, numbers: list[int]) -> None:
        """Whether files are of this mode, and one of those that other code made is what this code makes."""
        others = []
        for number in numbers:
            tokens, provenance = self._read(mode, number)
            if tokens.shape != (self.chunk, self.generator.num_tokens):
                raise ValueError(
                    f"{self.path(mode, number)} has tokens of shape {list(tokens.shape)}"
                )
            if provenance.get("settings", mode.settings) != mode.settings:
                raise ValueError(f"{self.path(mode, number)} is of other settings: remove it")
            if provenance.get("commit") != self.commit or self.commit.endswith("+"):
                others.append(number)
        if not others:
            return
        number = random.Random(self.commit).choice(others)
        # Without a drafter a picture is the same in every batch; where a batch skips together, all of it is needed.
        count = _CHECKED if mode.options(self.generator).is_exact else self.chunk
        again = self.generator.draw(mode, self.labels(count, number * self.chunk), number).tokens[
            :_CHECKED
        ]
        same = int((again == self._read(mode, number)[0][:_CHECKED]).all(1).sum())
        if same < min(_SAME, len(again)):
            raise ValueError(
                f"{self.path(mode, number)} is not what this code draws: {same} of its first {len(again)} pictures; "
                f"remove the files of {mode.name}"
            )
        _say(f"{self.generator.name}, {mode.name}: chunk {number} was drawn again and is the same")

    def pictures(self, tokens: Tensor) -> Iterator[Tensor]:
        """Pictures ``[n, 3, H, W]`` in [-1, 1] of tokens, a few at a time."""
        side = self.generator.row_length
        for part in tokens.split(50):
            yield self.generator.pipeline.decode_tokens(part, side, side).clamp(-1, 1)


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
