# SPDX-License-Identifier: Apache-2.0
"""Index maps to range-coded bytes and back, with the probabilities of an integer entropy model.

All windows of an image are one batch, coded slice by slice: of each slice first the *groups* of all indices, then each
index's place among the members of its group. Two tables of sqrt(K) entries are faster to make than one of K, and the
slots that every entry of a table must have cost 0.001 bits per token, not 0.02 (K = 1024) or 0.09 (K = 4096).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from genaccel import _coder, ops
from genaccel.codec.windows import WindowGrid
from genaccel.errors import BitstreamError
from genaccel.models.integer_entropy_model import WINDOWS_AT_ONCE, IntegerEntropyModel

PRECISION = ops.integer.TABLE_BITS

# What both sides take for tokens outside the image.
_PADDING_INDEX = 0


def group_size_of(codebook_size: int) -> int:
    """Members of a group: the divisor of K that makes the two tables smallest together.

    Example:
        >>> group_size_of(1024), group_size_of(4096), group_size_of(1000)
        (32, 64, 25)
    """
    divisors = [m for m in range(1, codebook_size + 1) if codebook_size % m == 0]
    return min(divisors, key=lambda m: (m + codebook_size // m, m))


def _kept(values: Tensor, coded: Tensor | None) -> Tensor:
    """Rows ``[N, ...]`` of the coded tokens of ``[W, n, ...]``; None: of all."""
    return values.flatten(0, 1) if coded is None else values[coded]


def _int32(values: Tensor) -> NDArray[np.int32]:
    return np.ascontiguousarray(values.cpu().numpy(), dtype=np.int32)


class EntropyIndexCoder:
    """Codes the index maps of an image, coarse to fine.

    Args:
        model: Where it is, CPU or GPU, makes no difference to the bytes.
    """

    def __init__(self, model: IntegerEntropyModel) -> None:
        self._model = model
        self._group_size = group_size_of(model.params.entropy.codebook_size)

    def _grid(self, shapes: Sequence[tuple[int, ...]]) -> WindowGrid:
        return WindowGrid(
            map_shapes=tuple((int(h), int(w)) for h, w in shapes),
            grid_sides=self._model.slice_order.grid_sides,
        )

    def _coded(self, grid: WindowGrid) -> list[Tensor | None]:
        """For each slice which tokens of all windows are coded, bool ``[W, n]``: those inside; None: all."""
        model = self._model
        inside = ~grid.padded().to(model.embedding.device)
        if bool(inside.all()):
            return [None] * model.slice_order.num_slices
        return [inside[:, model.tokens_of_slice(t)] for t in range(model.slice_order.num_slices)]

    def _group_tables(self, logits: Tensor) -> Tensor:
        return ops.integer_frequencies(
            logits, self._model.params.fraction_bits, self._group_size
        )  # [N, K / M + 1]

    def _member_tables(self, logits: Tensor, groups: Tensor) -> Tensor:
        return ops.integer_frequencies(
            logits, self._model.params.fraction_bits, self._group_size, groups
        )  # [N, M + 1]

    @torch.no_grad()
    def encode(self, index_maps: Sequence[NDArray[np.integer[Any]]]) -> bytes:
        """Code one integer map ``[h, w]`` per scale.

        Raises:
            ValueError: If the maps do not fit the model's windows, or an index is not in [0, K).
        """
        model, size = self._model, self._group_size
        grid = self._grid([m.shape for m in index_maps])
        device = model.embedding.device
        maps = [torch.from_numpy(m.astype(np.int64))[None] for m in index_maps]
        windows = grid.cut(maps, fill=_PADDING_INDEX).to(device)  # [W, L]
        codebook_size = model.params.entropy.codebook_size
        if int(windows.min()) < 0 or int(windows.max()) >= codebook_size:
            raise ValueError(f"indices must be in [0, {codebook_size})")
        in_order = windows[:, model.by_slice]
        groups, members = in_order // size, in_order % size
        tables: list[tuple[Tensor, Tensor]] = []  # [w, L, entries + 1] each
        for begin in range(0, len(windows), WINDOWS_AT_ONCE):  # logits are 1.4 MB a window
            chunk = slice(begin, begin + WINDOWS_AT_ONCE)
            logits = model(windows[chunk], in_slice_order=True)
            tables.append((self._group_tables(logits), self._member_tables(logits, groups[chunk])))
        group_tables, member_tables = (torch.cat(parts) for parts in zip(*tables, strict=True))
        encoder = _coder.RansEncoder(lanes=1)
        starts = model.slice_order.slice_starts
        for t, coded in enumerate(self._coded(grid)):
            tokens = slice(starts[t], starts[t + 1])
            for symbols, rows in ((groups, group_tables), (members, member_tables)):
                encoder.push_cdfs(
                    _int32(_kept(symbols[:, tokens], coded)),
                    _int32(_kept(rows[:, tokens], coded)),
                    PRECISION,
                )
        return encoder.finish()

    @torch.no_grad()
    def decode(self, payload: bytes, shapes: Sequence[tuple[int, int]]) -> list[NDArray[np.int32]]:
        """Inverse of :meth:`encode`; every index is below K, whatever the payload holds.

        Args:
            payload: What ``encode`` returned, with a model of the same digest.
            shapes: Height and width of each map, coarse to fine.

        Raises:
            BitstreamError: If the payload is not the code of exactly so many indices.
            ValueError: If the shapes do not fit the model's windows.
        """
        model, size = self._model, self._group_size
        grid = self._grid(shapes)
        device = model.embedding.device
        state = model.begin(grid.num_windows)
        previous: Tensor | None = None
        slices = []
        try:
            decoder = _coder.RansDecoder(payload, lanes=1)
            for coded in self._coded(grid):
                predicted = model.step(state, previous)  # [W, n, K]
                logits = _kept(predicted, coded)
                tables = _int32(self._group_tables(logits))
                groups = torch.from_numpy(decoder.pull_cdfs(tables, PRECISION)).to(device).long()
                tables = _int32(self._member_tables(logits, groups))
                members = torch.from_numpy(decoder.pull_cdfs(tables, PRECISION)).to(device)
                indices = groups * size + members
                if coded is None:
                    previous = indices.view(predicted.shape[:2])
                else:
                    previous = torch.full_like(coded, _PADDING_INDEX, dtype=torch.int64)
                    previous[coded] = indices
                slices.append(previous)
            decoder.finish()
        except _coder.StreamError as error:
            raise BitstreamError(f"payload does not decode: {error}") from error
        windows = torch.cat(slices, dim=1)[:, model.from_slice]
        return [_int32(m[0]) for m in grid.merge(windows)]
