# SPDX-License-Identifier: Apache-2.0
"""Index maps to range-coded bytes and back, with one static table per scale.

The tables are stored integers, so both sides have the same ones whatever machine they run on: nothing that a
network computes takes part in decoding the indices.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from genaccel import _coder
from genaccel.errors import BitstreamError

PRECISION = 16  # bits of the tables

_TOKENS_PER_LANE = 2048
_MAX_LANES = 4  # more do not make it faster (bench/entropy.py), and each costs 4 bytes


def lane_count(num_tokens: int) -> int:
    """Interleaved coder states for so many indices: the largest power of two with 2048 indices per lane, 1 to 4.

    A lane costs 4 bytes. At 3.2 bits or more per index, 2048 indices take 819 bytes or more, so lanes cost
    less than 0.5 %. The number is not stored: it is part of the format.
    """
    lanes = 1
    while lanes < _MAX_LANES and num_tokens >= 2 * lanes * _TOKENS_PER_LANE:
        lanes *= 2
    return lanes


class IndexCoder:
    """Codes index maps of all scales, coarse to fine, each in raster order.

    Args:
        cdfs: int32 ``[scales, K + 1]``, from 0 to 65536, strictly increasing.

    Raises:
        ValueError: If a table is not of this form.
    """

    def __init__(self, cdfs: NDArray[np.int32]) -> None:
        self._tables = _coder.CdfTables(np.ascontiguousarray(cdfs, dtype=np.int32), PRECISION)

    @property
    def num_scales(self) -> int:
        """Number of tables, one per scale."""
        return int(self._tables.num_tables)

    def encode(self, index_maps: Sequence[NDArray[np.integer[Any]]]) -> bytes:
        """Code one integer map ``[h, w]`` per scale.

        Raises:
            ValueError: If the number of maps is not that of the tables, or an index is not below K.
        """
        if len(index_maps) != self.num_scales:
            raise ValueError(f"index_maps must have {self.num_scales} maps, got {len(index_maps)}")
        encoder = _coder.RansEncoder(lanes=lane_count(sum(m.size for m in index_maps)))
        for scale, index_map in enumerate(index_maps):
            encoder.push(
                np.ascontiguousarray(index_map, dtype=np.int32).reshape(-1), self._tables, scale
            )
        return bytes(encoder.finish())

    def decode(self, payload: bytes, shapes: Sequence[tuple[int, int]]) -> list[NDArray[np.int32]]:
        """Inverse of :meth:`encode`; every index is below K, for the tables end there.

        Args:
            payload: What ``encode`` returned.
            shapes: Height and width of each map, coarse to fine.

        Raises:
            BitstreamError: If the payload is not the code of exactly so many indices.
            ValueError: If the number of shapes is not that of the tables.
        """
        if len(shapes) != self.num_scales:
            raise ValueError(f"shapes must have {self.num_scales} entries, got {len(shapes)}")
        lanes = lane_count(sum(height * width for height, width in shapes))
        try:
            decoder = _coder.RansDecoder(payload, lanes=lanes)
            maps = [
                np.asarray(decoder.pull(height * width, self._tables, scale)).reshape(height, width)
                for scale, (height, width) in enumerate(shapes)
            ]
            decoder.finish()
        except _coder.StreamError as error:
            raise BitstreamError(f"payload does not decode: {error}") from error
        return maps
