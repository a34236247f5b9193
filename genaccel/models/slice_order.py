# SPDX-License-Identifier: Apache-2.0
"""The order in which the tokens of a window are coded (RDVQ, arXiv 2604.10546, section 3.3).

A window has one square grid of tokens per scale, each with twice the side of the one before. A scale is cut into
slices that interleave: a small tile of slice numbers, repeated over the grid. All tokens of a slice are predicted
at once, slice after slice, coarse to fine.

Two sequences of tokens occur: the *flattened* one (scale by scale, row-major), which callers see, and the
*slice order* (slice by slice, row-major inside), in which the network works: there a slice, and all that
precedes it, are contiguous.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from genaccel.models.ranges import require_whole

_SLICES_OF_COARSEST_SCALE = 4


def tile_shape(scale: int) -> tuple[int, int]:
    """Rows and columns of the tile of slice numbers of a scale: 2x2, 2x4, 4x4, 4x8, ...

    Example:
        >>> [tile_shape(scale) for scale in range(4)]
        [(2, 2), (2, 4), (4, 4), (4, 8)]
    """
    doublings = scale + 2
    return 2 ** (doublings // 2), 2 ** (doublings - doublings // 2)


@dataclass(frozen=True, kw_only=True, slots=True)
class SliceOrder:
    """Slices of a window with ``num_scales`` grids, the coarsest of ``window_side`` tokens a side.

    Scale i has a grid of ``(window_side * 2**i)**2`` tokens in ``4 * 2**i`` slices of equal size.

    Example:
        >>> order = SliceOrder()
        >>> order.num_slices, order.num_tokens, order.grid_sides
        (28, 336, (4, 8, 16))
        >>> order.slice_of_token()[:16].reshape(4, 4).tolist()
        [[0, 1, 0, 1], [2, 3, 2, 3], [0, 1, 0, 1], [2, 3, 2, 3]]
    """

    num_scales: int = 3
    window_side: int = 4

    def __post_init__(self) -> None:
        require_whole("num_scales", self.num_scales, 1, 8)
        # An even side is enough for every scale: the grid doubles in both directions, its tile in one.
        if type(self.window_side) is not int or self.window_side < 2 or self.window_side % 2:
            raise ValueError(
                f"window_side must be even and at least 2, got {self.window_side}: tiles are 2x2"
            )

    @property
    def grid_sides(self) -> tuple[int, ...]:
        """Tokens on a side of each scale's grid, coarse to fine."""
        return tuple(self.window_side * 2**scale for scale in range(self.num_scales))

    @property
    def num_tokens(self) -> int:
        """Tokens L of a window."""
        return sum(side**2 for side in self.grid_sides)

    @property
    def num_slices(self) -> int:
        """Slices of a window, so steps of the decoder."""
        return self.scale_starts[-1]

    @property
    def scale_starts(self) -> tuple[int, ...]:
        """Number of the first slice of each scale, and at the end the number of slices."""
        return tuple(_SLICES_OF_COARSEST_SCALE * (2**i - 1) for i in range(self.num_scales + 1))

    @property
    def slice_sizes(self) -> tuple[int, ...]:
        """Tokens of each slice."""
        return tuple(
            side**2 // (_SLICES_OF_COARSEST_SCALE * 2**scale)
            for scale, side in enumerate(self.grid_sides)
            for _ in range(_SLICES_OF_COARSEST_SCALE * 2**scale)
        )

    @property
    def slice_starts(self) -> tuple[int, ...]:
        """Index in slice order of the first token of each slice, and at the end the number of tokens."""
        return tuple(int(start) for start in np.cumsum((0, *self.slice_sizes)))

    def slice_of_token(self) -> NDArray[np.int64]:
        """Number of the slice that each token of the flattened sequence belongs to, ``[L]``."""
        numbers = []
        for scale, side in enumerate(self.grid_sides):
            rows, columns = tile_shape(scale)
            tile = np.arange(rows * columns).reshape(rows, columns) + self.scale_starts[scale]
            numbers.append(np.tile(tile, (side // rows, side // columns)).reshape(-1))
        return np.concatenate(numbers)

    def tokens_by_slice(self) -> NDArray[np.int64]:
        """Flattened position of each token in slice order, ``[L]``: a permutation."""
        return np.argsort(self.slice_of_token(), kind="stable")

    def attention_mask(self, *, attends_own_slice: bool = False) -> NDArray[np.bool_]:
        """Attention mask over the flattened sequence, bool ``[L, L]``: True where token i (row) may read token j (column).

        ``o_i > o_j`` (equation 8), and slice 0, which has nothing before it, reads itself.

        Args:
            attends_own_slice: ``o_i >= o_j`` instead. What a position holds is known before its slice is
                predicted (it was shifted by a slice), so this is causal too, with more context; it is not
                what the authors trained.
        """
        order = self.slice_of_token()
        if attends_own_slice:
            return order[:, None] >= order
        visible: NDArray[np.bool_] = order[:, None] > order
        visible |= (order[:, None] == 0) & (order == 0)
        return visible
