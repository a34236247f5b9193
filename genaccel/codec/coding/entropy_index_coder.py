# SPDX-License-Identifier: Apache-2.0
"""Index maps to range-coded bytes and back, with the probabilities of an integer entropy model.

All windows of an image are one batch, coded slice by slice: of each slice first the *groups* of all indices, then each
index's place among the members of its group. Two tables of sqrt(K) entries are faster to make than one of K, and the
slots that every entry of a table must have cost 0.001 bits per token, not 0.02 (K = 1024) or 0.09 (K = 4096).

Slices run from the coarsest scale to the finest, so the first of them alone make an image: what is missing is made up
from the entropy model (:mod:`genaccel.codec.coding.missing_slices`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import islice
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from genaccel import _coder, ops
from genaccel.codec.coding.missing_slices import DEFAULT_SEED, draws, most_likely, pick
from genaccel.codec.coding.window_chunks import WindowChunks
from genaccel.codec.coding.window_grid import PADDING_INDEX, WindowGrid
from genaccel.codec.format.limits import check_time
from genaccel.errors import BitstreamError, OptionError
from genaccel.models.integer_entropy_model import WINDOWS_AT_ONCE, IntegerEntropyModel

PRECISION = ops.integer.TABLE_BITS

IndexMaps = list[NDArray[np.int32]]


class DecodedPrefix(NamedTuple):
    """Index maps of a payload, and how much of it was read.

    Attributes:
        index_maps: int32 ``[h, w]`` per scale, coarse to fine; indices of missing slices are made up.
        num_slices: Slices that were read.
        slice_ends: For each of these slices the bytes of the payload up to its end.
    """

    index_maps: IndexMaps
    num_slices: int
    slice_ends: list[int]


class SliceTables(NamedTuple):
    """Symbols of the N coded tokens of one slice for the range coder, int32 ``[N]``, with a row of a table for each."""

    groups: NDArray[np.int32]
    group_tables: NDArray[np.int32]  # [N, K / M + 1]
    members: NDArray[np.int32]
    member_tables: NDArray[np.int32]  # [N, M + 1]


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


def _spread(indices: Tensor, coded: Tensor | None, shape: torch.Size) -> Tensor:
    """Inverse of :func:`_kept` for indices ``[N]``: int64 ``[W, n]``."""
    if coded is None:
        return indices.view(shape)
    spread = torch.full(shape, PADDING_INDEX, dtype=torch.int64, device=indices.device)
    spread[coded] = indices
    return spread


def _int32(values: Tensor) -> NDArray[np.int32]:
    return np.ascontiguousarray(values.cpu().numpy(), dtype=np.int32)


class EntropyIndexCoder:
    """Codes the index maps of an image, coarse to fine.

    Args:
        model: The entropy model, on a CPU or GPU, which makes no difference to the bytes.
    """

    def __init__(self, model: IntegerEntropyModel) -> None:
        self._model = model
        self._group_size = group_size_of(model.params.entropy.codebook_size)

    @property
    def model(self) -> IntegerEntropyModel:
        """The entropy model whose probabilities it codes with."""
        return self._model

    @property
    def num_slices(self) -> int:
        """Slices of a whole image."""
        return self._model.slice_order.num_slices

    def grid(self, shapes: Sequence[tuple[int, ...]]) -> WindowGrid:
        """The grid of windows that maps of these shapes are cut into.

        Raises:
            ValueError: If they do not fit the model's windows.
        """
        return WindowGrid(
            map_shapes=tuple((int(h), int(w)) for h, w in shapes),
            grid_sides=self._model.slice_order.grid_sides,
        )

    def _require_slices(self, num_slices: int | None) -> int:
        if num_slices is None:
            return self.num_slices
        if not 1 <= num_slices <= self.num_slices:
            raise OptionError(
                f"number of slices must be in [1, {self.num_slices}], got {num_slices}"
            )
        return num_slices

    def coded_tokens(self, grid: WindowGrid) -> list[Tensor | None]:
        """For each slice which tokens are coded, bool ``[W, n]``: those that are not padding; None where all are."""
        model = self._model
        inside = ~grid.padded().to(model.embedding.device)
        if bool(inside.all()):
            return [None] * self.num_slices
        return [inside[:, model.tokens_of_slice(t)] for t in range(self.num_slices)]

    def _group_tables(self, logits: Tensor) -> Tensor:
        return ops.integer_frequencies(
            logits, self._model.params.fraction_bits, self._group_size
        )  # [N, K / M + 1]

    def _member_tables(self, logits: Tensor, groups: Tensor) -> Tensor:
        return ops.integer_frequencies(
            logits, self._model.params.fraction_bits, self._group_size, groups
        )  # [N, M + 1]

    def _windows(self, index_maps: Sequence[NDArray[np.integer[Any]]]) -> tuple[WindowGrid, Tensor]:
        grid = self.grid([m.shape for m in index_maps])
        maps = [torch.from_numpy(m.astype(np.int64))[None] for m in index_maps]
        windows = grid.cut(maps, fill=PADDING_INDEX)  # [W, L]
        codebook_size = self._model.params.entropy.codebook_size
        if int(windows.min()) < 0 or int(windows.max()) >= codebook_size:
            raise ValueError(f"indices must be in [0, {codebook_size})")
        return grid, windows.to(self._model.embedding.device)

    @torch.no_grad()
    def encode(
        self, index_maps: Sequence[NDArray[np.integer[Any]]], num_slices: int | None = None
    ) -> bytes:
        """Code one integer map ``[h, w]`` per scale.

        Args:
            index_maps: Coarse to fine.
            num_slices: How many slices to code, 1 to all of them; None codes all.

        Raises:
            ValueError: If the maps do not fit the model's windows, an index is not in [0, K), or there are not
                so many slices.
        """
        model, size = self._model, self._group_size
        self._require_slices(num_slices)
        grid, windows = self._windows(index_maps)
        in_order = windows[:, model.by_slice]
        groups, members = in_order // size, in_order % size
        tables: list[tuple[Tensor, Tensor]] = []  # [w, L, entries + 1] each
        for begin in range(0, len(windows), WINDOWS_AT_ONCE):  # logits are 1.4 MB a window
            check_time()
            chunk = slice(begin, begin + WINDOWS_AT_ONCE)
            logits = model(windows[chunk], in_slice_order=True)
            tables.append((self._group_tables(logits), self._member_tables(logits, groups[chunk])))
        group_tables, member_tables = (torch.cat(parts) for parts in zip(*tables, strict=True))
        starts = model.slice_order.slice_starts
        whole = (groups, group_tables, members, member_tables)
        return self.encode_tables(
            (
                SliceTables(
                    *(_int32(_kept(part[:, starts[t] : starts[t + 1]], coded)) for part in whole)
                )
                for t, coded in enumerate(self.coded_tokens(grid))
            ),
            num_slices,
        )

    def tables_of_slice(self, logits: Tensor, indices: Tensor, coded: Tensor | None) -> SliceTables:
        """Make the symbols and tables that code a slice.

        Args:
            logits: int32 ``[W, n, K]``, from the model's ``step``.
            indices: int64 ``[W, n]``, the indices of the slice.
            coded: Which of these tokens are coded, from :meth:`coded_tokens`; None for all.
        """
        rows, chosen = _kept(logits, coded), _kept(indices, coded)
        groups, members = chosen // self._group_size, chosen % self._group_size
        return SliceTables(
            _int32(groups),
            _int32(self._group_tables(rows)),
            _int32(members),
            _int32(self._member_tables(rows, groups)),
        )

    def encode_tables(self, slices: Iterable[SliceTables], num_slices: int | None = None) -> bytes:
        """Code slices whose tables are known, to the bytes that :meth:`encode` gives for the same indices.

        Args:
            slices: Symbols and tables of all slices of the image, in their order.
            num_slices: How many of them to code; None codes all.

        Raises:
            OptionError: If there are not so many slices.
        """
        encoder = _coder.RansEncoder(lanes=1)
        for part in islice(slices, self._require_slices(num_slices)):
            encoder.push_cdfs(part.groups, part.group_tables, PRECISION)
            encoder.push_cdfs(part.members, part.member_tables, PRECISION)
        return encoder.finish()

    def _read(
        self,
        decoder: _coder.RansDecoder,
        predictions: Iterable[Tensor],
        coded: Sequence[Tensor | None],
    ) -> list[Tensor]:
        """Read the next slice of the stream, first all groups and then all members; int64 ``[w, n]`` of each chunk.

        Args:
            decoder: The stream.
            predictions: Logits ``[w, n, K]``, chunk by chunk.
            coded: Which of their tokens are coded.
        """
        known = []  # of all windows: a table of members is 32 times smaller than logits
        for logits, mask in zip(predictions, coded, strict=True):
            rows = _kept(logits, mask)
            drawn = decoder.pull_cdfs(_int32(self._group_tables(rows)), PRECISION)
            groups = torch.from_numpy(drawn).to(logits.device).long()
            known.append((logits.shape[:2], groups, _int32(self._member_tables(rows, groups))))
        slices = []
        for (shape, groups, tables), mask in zip(known, coded, strict=True):
            members = torch.from_numpy(decoder.pull_cdfs(tables, PRECISION)).to(groups.device)
            slices.append(_spread(groups * self._group_size + members, mask, shape))
        return slices

    def _made_up(self, t: int, first: int, predicted: Tensor, seed: int | None) -> Tensor:
        """Indices of a missing slice, int64 ``[w, n]``, for windows from ``first`` on with logits ``[w, n, K]``."""
        model, size = self._model, self._group_size
        logits = predicted.flatten(0, 1)
        if seed is None:
            return most_likely(logits).view(predicted.shape[:2])
        tokens = model.tokens_of_slice(t)  # [n]
        windows = torch.arange(first, first + len(predicted), device=logits.device).unsqueeze(1)
        places = 2 * (windows * model.slice_order.num_tokens + tokens).flatten()
        groups = pick(self._group_tables(logits), draws(seed, places))
        members = pick(self._member_tables(logits, groups), draws(seed, places + 1))
        return (groups * size + members).view(predicted.shape[:2])

    @torch.no_grad()
    def decode_prefix(
        self,
        payload: bytes,
        shapes: Sequence[tuple[int, int]],
        *,
        num_slices: int | None = None,
        use: int | None = None,
        truncated: bool = False,
        seed: int | None = DEFAULT_SEED,
        on_first_slice: Callable[[], None] | None = None,
    ) -> DecodedPrefix:
        """Indices of the first slices, and the rest made up from them.

        Args:
            payload: What ``encode`` returned, with a model of the same digest.
            shapes: Height and width of each map, coarse to fine.
            num_slices: How many slices were coded; None: all.
            use: Read only so many of them; None: all.
            truncated: The payload may end early: take the slices that are whole. What follows the last slice
                is not looked at, so damage may go unnoticed.
            seed: Seed of the indices that are made up; None takes the most likely ones.
            on_first_slice: Called once slice 0 has been read, before memory or time of the image's size is spent.

        Raises:
            BitstreamError: If the payload is not the code of exactly so many indices, or, truncated, not of a
                single slice.
            TimeLimitError: If the time limit is exceeded.
            ValueError: If the shapes do not fit the model's windows, or there are not so many slices.
        """
        model = self._model
        sent = self._require_slices(num_slices)
        wanted = sent if use is None else min(self._require_slices(use), sent)
        grid = self.grid(shapes)
        windows = WindowChunks(model, grid.num_windows)
        ends: list[int] = []
        try:
            decoder = _coder.RansDecoder(payload[: len(payload) & ~1] if truncated else payload)
            for t, mask in enumerate(self.coded_tokens(grid)):
                indices: list[Tensor] | None = None
                if len(ends) == t and t < wanted:
                    coded = [None if mask is None else mask[chunk] for chunk in windows.chunks]
                    try:
                        indices = self._read(decoder, windows.predictions(), coded)
                        ends.append(decoder.bytes_read)
                    except _coder.StreamError:
                        if not truncated or t == 0:
                            raise
                if t == 0 and on_first_slice is not None:
                    on_first_slice()
                if indices is None:
                    indices = [
                        self._made_up(t, chunk.start, predicted, seed)
                        for chunk, predicted in zip(
                            windows.chunks, windows.predictions(), strict=True
                        )
                    ]
                windows.advance(indices)
            if wanted == sent and not truncated:
                decoder.finish()
        except _coder.StreamError as error:
            raise BitstreamError(f"payload does not decode: {error}") from error
        maps = grid.merge(windows.indices()[:, model.from_slice])
        return DecodedPrefix([_int32(m[0]) for m in maps], len(ends), ends)

    def decode(self, payload: bytes, shapes: Sequence[tuple[int, int]]) -> IndexMaps:
        """Inverse of :meth:`encode`; every index is below K, whatever the payload holds.

        Args:
            payload: What ``encode`` returned, with a model of the same digest.
            shapes: Height and width of each map, coarse to fine.

        Raises:
            BitstreamError: If the payload is not the code of exactly so many indices.
            ValueError: If the shapes do not fit the model's windows.
        """
        return self.decode_prefix(payload, shapes).index_maps
