# SPDX-License-Identifier: Apache-2.0
"""Alpha planes to bytes and back, without loss: a section of ``.gac`` files that docs/format.md specifies.

Two values, mostly 0 and 255, fill nearly all of a mask. A map of blocks says which have one of them everywhere; only
the others are coded, from coarse to fine, each pixel with probabilities by its neighbours on all sides that are known
by then. All of it is integers, and done for many pixels at once.

A coded pixel costs 1/1419 of a bit at least: what a decoder does is bounded by the bytes that it is given.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from genaccel import _coder
from genaccel.errors import BitstreamError

_BLOCK = 32
_MARGIN = 3 * _BLOCK // 2  # what contexts reach: three times the widest step
_FIRST_CHUNK, _LARGEST_CHUNK = 128, 65_536
# What fills a plane: two values alone, or others too that are near the mean of their neighbours, or near a cubic.
_TWO_VALUES, _MEAN, _CUBIC = 0, 1, 2
_HEADER_BYTES = 3  # one of these, and the two values
_LEAST_BYTES = _HEADER_BYTES + 4  # the coder's state
_OTHER = 2  # class of all values but the two

_CLASS_PRECISION = 11
_VALUE_PRECISION = 16
# Of two classes the likelier one has 2047 of 2048 slots at most.
_MOST_PIXELS_PER_BYTE = 11_353
_PRIOR = np.array([1, 3, 12, 40, 200], np.int64)  # by how many of the inner ring have the class
_INNER_COUNT, _FULL_COUNT, _INNER_SHARE = 16, 32_768, 65_536
_MOST_COUNTS = 255
# Differences within the inner ring from which on the next table of errors is used, and widths that it starts with.
_SPREADS = np.array([2, 6, 16, 40, 96], np.int64)
_WIDTHS = np.array([1, 2, 4, 8, 16, 32], np.int64)
_VALUE_COUNT = 512


class _Phase(NamedTuple):
    """Pixels that are coded together: (y, x) in a block ``[N, 2]``, and of their neighbours relative to each."""

    kind: int
    offsets: NDArray[np.int64]
    inner: NDArray[np.int64]
    outer: NDArray[np.int64]


def _grid(ys: range, xs: range) -> list[tuple[int, int]]:
    return [(y, x) for y in ys for x in xs]


def _phases() -> Iterator[_Phase]:
    """Corners of blocks; then with each halving of the step centres of squares, then of their sides."""

    def array(pairs: list[tuple[int, int]]) -> NDArray[np.int64]:
        return np.array(pairs, np.int64)

    step = _BLOCK // 2
    corner = array([(-1, -1), (-1, 0), (0, -1), (1, -1)])
    blocks = _grid(range(-step, _BLOCK + step + 1, _BLOCK), range(-step, _BLOCK + step + 1, _BLOCK))
    yield _Phase(0, array([(0, 0)]), corner, array([at for at in blocks if at != (step, step)]))
    diagonal = array([(-1, -1), (-1, 1), (1, -1), (1, 1)])
    far = array([(-3, -1), (-3, 1), (-1, -3), (-1, 3), (1, -3), (1, 3), (3, -1), (3, 1)])
    straight = array([(-1, 0), (0, -1), (0, 1), (1, 0)])
    knight = array([(-2, -1), (-2, 1), (-1, -2), (-1, 2), (1, -2), (1, 2), (2, -1), (2, 1)])
    while step:
        even, odd = range(0, _BLOCK, 2 * step), range(step, _BLOCK, 2 * step)
        yield _Phase(1, array(_grid(odd, odd)), step * diagonal, step * far)
        sides = array(sorted(_grid(even, odd) + _grid(odd, even)))
        yield _Phase(2, sides, step * straight, step * knight)
        step //= 2


_PHASES = tuple(_phases())


class _Writer:
    """The encoder's side of the coder: symbols are those of a plane that is known."""

    def __init__(self) -> None:
        self._coder = _coder.RansEncoder()

    def show(self, classes: NDArray[np.uint8], values: NDArray[np.uint8]) -> None:
        self._classes, self._values = classes, values

    def classes(
        self, ys: NDArray[np.int64], xs: NDArray[np.int64], cdfs: NDArray[np.int32]
    ) -> NDArray[np.int32]:
        symbols = self._classes[ys, xs].astype(np.int32)
        self._coder.push_cdfs(symbols, cdfs, _CLASS_PRECISION)
        return symbols

    def errors(
        self,
        ys: NDArray[np.int64],
        xs: NDArray[np.int64],
        expected: NDArray[np.int64],
        tables: _coder.CdfTables,
        table_ids: NDArray[np.uint8],
    ) -> NDArray[np.int32]:
        symbols = ((self._values[ys, xs] - expected) & 255).astype(np.int32)
        self._coder.push(symbols, tables, table_ids)
        return symbols

    def finish(self) -> bytes:
        return bytes(self._coder.finish())


class _Reader:
    """The decoder's side."""

    def __init__(self, data: bytes) -> None:
        self._coder = _coder.RansDecoder(data)

    def classes(
        self, ys: NDArray[np.int64], xs: NDArray[np.int64], cdfs: NDArray[np.int32]
    ) -> NDArray[np.int32]:
        symbols: NDArray[np.int32] = self._coder.pull_cdfs(cdfs, _CLASS_PRECISION)
        return symbols

    def errors(
        self,
        ys: NDArray[np.int64],
        xs: NDArray[np.int64],
        expected: NDArray[np.int64],
        tables: _coder.CdfTables,
        table_ids: NDArray[np.uint8],
    ) -> NDArray[np.int32]:
        symbols: NDArray[np.int32] = self._coder.pull(len(table_ids), tables, table_ids)
        return symbols

    def finish(self) -> None:
        self._coder.finish()


def _tables(weights: NDArray[np.int64], precision: int) -> NDArray[np.int32]:
    """Cumulative tables ``[N, E + 1]`` of weights ``[N, E]``."""
    entries = weights.shape[1]
    sums = np.zeros((len(weights), entries + 1), np.int64)
    np.cumsum(weights, axis=1, out=sums[:, 1:])
    starts = sums * ((1 << precision) - entries) // sums[:, -1:] + np.arange(entries + 1)
    return starts.astype(np.int32)


class _ClassModel:
    """Probabilities of classes by those of the inner ring, and by which of the two values the outer ring is near."""

    def __init__(self, num_classes: int) -> None:
        self.num_classes = num_classes
        inner = num_classes**4
        self._full = np.zeros((3, 256 * inner, num_classes), np.int64)
        self._inner = np.zeros((3, inner, num_classes), np.int64)
        digits = np.arange(inner)[:, None] // num_classes ** np.arange(4) % num_classes
        self._prior = _PRIOR[(digits[:, :, None] == np.arange(num_classes)).sum(1)]

    def cdfs(self, kind: int, contexts: NDArray[np.int64]) -> NDArray[np.int32]:
        """Tables ``[N, classes + 1]`` of contexts ``[N]``."""
        is_used = np.bincount(contexts, minlength=self._full.shape[1]) > 0
        used = np.flatnonzero(is_used)
        rows = (np.cumsum(is_used) - 1)[contexts]
        self._asked = kind, used, rows
        near = self._prior[used // 256] + _INNER_COUNT * self._inner[kind, used // 256]
        share = near * _INNER_SHARE // near.sum(1, keepdims=True)
        weights = _FULL_COUNT * self._full[kind, used] + share + 1
        cdfs: NDArray[np.int32] = _tables(weights, _CLASS_PRECISION)[rows]
        return cdfs

    def learn(self, symbols: NDArray[np.int32]) -> None:
        """Count the symbols ``[N]`` of the contexts whose tables were asked for last."""
        kind, used, rows = self._asked
        places = rows * self.num_classes + symbols
        seen = np.bincount(places, minlength=len(used) * self.num_classes)
        seen = seen.reshape(-1, self.num_classes)
        inner, first = np.unique(used // 256, return_index=True)
        self._count(self._full[kind], used, seen)
        self._count(self._inner[kind], inner, np.add.reduceat(seen, first))

    @staticmethod
    def _count(counts: NDArray[np.int64], used: NDArray[np.int64], seen: NDArray[np.int64]) -> None:
        sums = counts[used] + seen
        while (many := sums.sum(1) > _MOST_COUNTS).any():
            sums[many] >>= 1
        counts[used] = sums

    def forget_half(self) -> None:
        """A finer grid is more certain than the one before."""
        self._full >>= 1
        self._inner >>= 1


class _ValueModel:
    """Probabilities of the errors modulo 256 of what a value is expected to be, by the spread of the inner ring."""

    def __init__(self, *, is_cubic: bool) -> None:
        self.is_cubic = is_cubic
        size = np.minimum(np.arange(256), 256 - np.arange(256))
        squares = (_WIDTHS**2)[:, None]
        self._weights = 1 + 1024 * squares // (size**2 + squares)

    def expected(
        self, inner: NDArray[np.int64], outer: NDArray[np.int64]
    ) -> tuple[NDArray[np.int64], NDArray[np.uint8]]:
        """What values are expected to be, and which table their errors have, of rings ``[4, N]`` and ``[8, N]``."""
        if self.is_cubic:
            values = (10 * inner.sum(0) - outer.sum(0) + 16 >> 5).clip(0, 255)
        else:
            values = inner.sum(0) + 2 >> 2
        ids = np.searchsorted(_SPREADS, np.ptp(inner, axis=0), side="right")
        return values, ids.astype(np.uint8)

    def tables(self) -> _coder.CdfTables:
        return _coder.CdfTables(_tables(self._weights, _VALUE_PRECISION), _VALUE_PRECISION)

    def learn(self, table_ids: NDArray[np.uint8], errors: NDArray[np.int32]) -> None:
        places = table_ids.astype(np.int64) * 256 + errors
        seen = np.bincount(places, minlength=self._weights.size)
        self._weights += _VALUE_COUNT * seen.reshape(self._weights.shape)


def _chunks(count: int) -> Iterator[tuple[int, int]]:
    start, size = 0, _FIRST_CHUNK
    while start < count:
        yield start, min(start + size, count)
        start, size = start + size, min(2 * size, _LARGEST_CHUNK)


class _Plane:
    """A plane as far as it is known. What is not, and its margin, has the first of two values.

    Args:
        height: Of the plane.
        width: Of the plane.
        pair: The two values, of class 0 and 1.
    """

    def __init__(self, height: int, width: int, pair: tuple[int, int]) -> None:
        self.height, self.width, self.pair = height, width, pair
        self.blocks = -(-height // _BLOCK), -(-width // _BLOCK)
        rows, columns = (count * _BLOCK + 2 * _MARGIN for count in self.blocks)
        self._padded = np.full((rows, columns), pair[0], np.uint8)

    @property
    def pixels(self) -> NDArray[np.uint8]:
        """Without the margin ``[height, width]``."""
        end = _MARGIN + self.height, _MARGIN + self.width
        return self._padded[_MARGIN : end[0], _MARGIN : end[1]]

    def fill(self, block_map: NDArray[np.uint8]) -> None:
        """Let the blocks ``[blocks, blocks]`` of class 1 have its value."""
        for row, classes in enumerate(block_map):
            band = self.pixels[row * _BLOCK : (row + 1) * _BLOCK]
            band[:, np.repeat(classes == 1, _BLOCK)[: self.width]] = self.pair[1]

    def code(
        self,
        coder: _Writer | _Reader,
        blocks: NDArray[np.int64],
        model: _ClassModel,
        value_model: _ValueModel | None = None,
    ) -> None:
        """Code what some blocks hold, and fill it in.

        Args:
            coder: Either side of it.
            blocks: Rows and columns ``[N, 2]`` of the blocks.
            model: Of the classes.
            value_model: Of the values of the third class; without one it has but one value.
        """
        values = np.arange(256)
        classes = np.full(256, _OTHER, np.int64)
        classes[list(self.pair)] = 0, 1
        is_second = (abs(values - self.pair[1]) < abs(values - self.pair[0])).astype(np.int64)
        of_class = np.array([*self.pair, _OTHER], np.uint8)
        flat, strides = self._padded.reshape(-1), (self._padded.shape[1], 1)
        corners = blocks * _BLOCK
        for phase in _PHASES:
            if phase.kind == 1:
                model.forget_half()
            inner, outer = phase.inner @ strides, phase.outer @ strides
            for start, end in _chunks(len(blocks) * len(phase.offsets)):
                block, offset = np.divmod(np.arange(start, end), len(phase.offsets))
                ys, xs = (corners[block] + phase.offsets[offset]).T
                is_inside = (ys < self.height) & (xs < self.width)
                if not is_inside.any():
                    continue
                ys, xs = ys[is_inside], xs[is_inside]
                places = (ys + _MARGIN) * strides[0] + xs + _MARGIN
                contexts = np.zeros(len(places), np.int64)
                for step in reversed(inner):
                    contexts = contexts * model.num_classes + classes[flat[places + step]]
                for step in outer:
                    contexts = contexts * 2 + is_second[flat[places + step]]
                symbols = coder.classes(ys, xs, model.cdfs(phase.kind, contexts))
                model.learn(symbols)
                decoded = of_class[symbols]
                others = np.flatnonzero(symbols == _OTHER)
                if value_model is not None and len(others):
                    at = places[others]
                    expected, ids = value_model.expected(
                        flat[at + inner[:, None]].astype(np.int64),
                        flat[at + outer[:, None]].astype(np.int64),
                    )
                    tables = value_model.tables()
                    errors = coder.errors(ys[others], xs[others], expected, tables, ids)
                    value_model.learn(ids, errors)
                    decoded[others] = (expected + errors) & 255
                flat[places] = decoded

    def coded_pixels(self, blocks: NDArray[np.int64]) -> int:
        """Pixels of some blocks ``[N, 2]`` that are inside."""
        sizes = (np.array([self.height, self.width]) - blocks * _BLOCK).clip(max=_BLOCK)
        return int(sizes.prod(1).sum())


def encode_alpha(alpha: NDArray[np.uint8]) -> bytes:
    """Bytes of an alpha plane.

    Args:
        alpha: uint8 ``[H, W]``, at least one pixel.

    Example:
        >>> disc = np.hypot(*np.mgrid[-256:256, -256:256]) < 200
        >>> len(encode_alpha(disc.astype(np.uint8) * 255))
        219
    """
    height, width = alpha.shape
    counts = np.bincount(alpha.reshape(-1), minlength=256)
    first = int(counts.argmax())
    counts[first] = -1
    pair = first, int(counts.argmax())
    classes = np.full(256, _OTHER, np.uint8)
    classes[list(pair)] = 0, 1
    classes = classes[alpha]
    rows, columns = range(0, height, _BLOCK), range(0, width, _BLOCK)
    low = np.minimum.reduceat(np.minimum.reduceat(classes, rows, 0), columns, 1)
    high = np.maximum.reduceat(np.maximum.reduceat(classes, rows, 0), columns, 1)
    block_map = np.where(low == high, low, _OTHER).astype(np.uint8)
    fillings = (_MEAN, _CUBIC) if (classes == _OTHER).any() else (_TWO_VALUES,)
    coded = (_encoded(alpha, classes, block_map, pair, filling) for filling in fillings)
    return min(coded, key=len)


def _encoded(
    alpha: NDArray[np.uint8],
    classes: NDArray[np.uint8],
    block_map: NDArray[np.uint8],
    pair: tuple[int, int],
    filling: int,
) -> bytes:
    writer = _Writer()
    writer.show(block_map, block_map)
    known_map = _Plane(len(block_map), block_map.shape[1], (0, 1))
    known_map.code(writer, np.argwhere(block_map <= _OTHER), _ClassModel(3))
    plane = _Plane(len(alpha), alpha.shape[1], pair)
    plane.fill(block_map)
    writer.show(classes, alpha)
    plane.code(writer, np.argwhere(block_map == _OTHER), *_models(filling))
    return bytes((filling, *pair)) + writer.finish()


def _models(filling: int) -> tuple[_ClassModel, _ValueModel | None]:
    if filling == _TWO_VALUES:
        return _ClassModel(2), None
    return _ClassModel(3), _ValueModel(is_cubic=filling == _CUBIC)


def decode_alpha(data: bytes, height: int, width: int) -> NDArray[np.uint8]:
    """Alpha plane uint8 ``[height, width]`` of bytes; takes time and memory by the size of both.

    Raises:
        BitstreamError: If they are no plane of this size.
    """
    if len(data) < _LEAST_BYTES:
        raise BitstreamError(f"alpha plane has {len(data)} bytes, at least {_LEAST_BYTES} expected")
    filling, first, second = data[:_HEADER_BYTES]
    if filling > _CUBIC:
        raise BitstreamError(f"alpha plane is of kind {filling}, which is not known here")
    if first == second:
        raise BitstreamError("alpha plane has one value where two are needed")
    plane = _Plane(height, width, (first, second))
    block_map = _Plane(*plane.blocks, (0, 1))
    try:
        reader = _Reader(data[_HEADER_BYTES:])
        _check_cost(block_map.height * block_map.width, len(data))
        every = np.argwhere(np.ones(plane.blocks, np.bool_))
        block_map.code(reader, every, _ClassModel(3))
        plane.fill(block_map.pixels)
        blocks = np.argwhere(block_map.pixels == _OTHER)
        _check_cost(plane.coded_pixels(blocks), len(data))
        plane.code(reader, blocks, *_models(filling))
        reader.finish()
    except _coder.StreamError as error:
        raise BitstreamError(f"alpha plane does not decode: {error}") from error
    return np.ascontiguousarray(plane.pixels)


def _check_cost(pixels: int, num_bytes: int) -> None:
    if pixels > _MOST_PIXELS_PER_BYTE * num_bytes:
        raise BitstreamError(f"alpha plane of {num_bytes} bytes cannot hold {pixels} coded pixels")
