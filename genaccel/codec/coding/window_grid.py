# SPDX-License-Identifier: Apache-2.0
"""Maps of all scales cut into the windows that the entropy model sees, and put together again.

Maps are padded right and below to whole windows. Windows run row by row over an image and become the batch; one
window is a sequence of tokens, scale by scale, row-major. Tokens of the padding are marked: nothing is coded for
them, and both sides take the same filling for them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as functional
from torch import Tensor

# What training, encoder and decoder take for tokens beyond the image's edge: part of the file format.
PADDING_INDEX = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class WindowGrid:
    """The grid of windows that the maps of one image size are cut into.

    Attributes:
        map_shapes: Height and width of each scale's map in tokens, coarse to fine.
        grid_sides: Tokens on a side of a window at each scale.

    Raises:
        ValueError: If the scales need different numbers of windows.

    Example:
        >>> import torch
        >>> grid = WindowGrid(map_shapes=((4, 6), (8, 12), (16, 24)), grid_sides=(4, 8, 16))
        >>> maps = [torch.rand(1, 8, h, w) for h, w in grid.map_shapes]
        >>> windows = grid.cut(maps)
        >>> windows.shape, int(grid.padded().sum())
        (torch.Size([2, 336, 8]), 168)
        >>> all(torch.equal(a, b) for a, b in zip(maps, grid.merge(windows)))
        True
    """

    map_shapes: tuple[tuple[int, int], ...]
    grid_sides: tuple[int, ...]

    def __post_init__(self) -> None:
        if len(self.map_shapes) != len(self.grid_sides) or not self.map_shapes:
            raise ValueError(
                f"map_shapes and grid_sides must have one entry per scale, "
                f"got {len(self.map_shapes)} and {len(self.grid_sides)}"
            )
        if min(self.grid_sides) < 1 or min(min(shape) for shape in self.map_shapes) < 1:
            raise ValueError(
                f"maps and windows must have tokens, got {self.map_shapes} and {self.grid_sides}"
            )
        counts = {
            (-(-height // side), -(-width // side))
            for (height, width), side in zip(self.map_shapes, self.grid_sides, strict=True)
        }
        if len(counts) != 1:
            raise ValueError(
                f"maps {self.map_shapes} are not covered by one grid of windows {self.grid_sides}: "
                f"they need {sorted(counts)}"
            )

    @property
    def rows(self) -> int:
        """Windows from top to bottom."""
        return -(-self.map_shapes[0][0] // self.grid_sides[0])

    @property
    def columns(self) -> int:
        """Windows from left to right."""
        return -(-self.map_shapes[0][1] // self.grid_sides[0])

    @property
    def num_windows(self) -> int:
        """Windows of one image."""
        return self.rows * self.columns

    def cut(self, maps: Sequence[Tensor], fill: int = 0) -> Tensor:
        """Pad and cut.

        Args:
            maps: One per scale, coarse to fine: features ``[B, C, h, w]``, or indices ``[B, h, w]``.
            fill: Value of the padding.

        Returns:
            ``[B * num_windows, L, C]``, or ``[B * num_windows, L]`` of indices; differentiable.

        Raises:
            ValueError: If the maps are not of ``map_shapes``.
        """
        shapes = tuple(tuple(m.shape[-2:]) for m in maps)
        if shapes != self.map_shapes:
            raise ValueError(f"maps must have heights and widths {self.map_shapes}, got {shapes}")
        with_channels = maps[0].ndim == 4
        parts = []
        for index_map, side in zip(maps, self.grid_sides, strict=True):
            x = index_map if with_channels else index_map.unsqueeze(1)
            batch, channels, height, width = x.shape
            below, right = self.rows * side - height, self.columns * side - width
            x = functional.pad(x, (0, right, 0, below), value=fill)
            x = x.view(batch, channels, self.rows, side, self.columns, side)
            x = x.permute(0, 2, 4, 3, 5, 1)  # [B, rows, columns, side, side, C]
            parts.append(x.reshape(batch * self.num_windows, side**2, channels))
        windows = torch.cat(parts, dim=1)
        return windows if with_channels else windows.squeeze(2)

    def merge(self, windows: Tensor) -> list[Tensor]:
        """Inverse of :meth:`cut`; the padding is dropped.

        Args:
            windows: ``[B * num_windows, L, C]`` or ``[B * num_windows, L]``.

        Returns:
            One map ``[B, C, h, w]`` or ``[B, h, w]`` per scale, coarse to fine.

        Raises:
            ValueError: If it is not a whole number of images, or L is not the tokens of a window.
        """
        sizes = [side**2 for side in self.grid_sides]
        if windows.shape[0] % self.num_windows or windows.shape[1] != sum(sizes):
            raise ValueError(
                f"windows must have shape [B * {self.num_windows}, {sum(sizes)}, ...], "
                f"got {tuple(windows.shape)}"
            )
        with_channels = windows.ndim == 3
        maps = []
        for part, side, (height, width) in zip(
            windows.split(sizes, dim=1), self.grid_sides, self.map_shapes, strict=True
        ):
            x = part.reshape(-1, self.rows, self.columns, side, side, *windows.shape[2:])
            x = x.transpose(2, 3).flatten(1, 2).flatten(2, 3)[:, :height, :width]
            maps.append(x.permute(0, 3, 1, 2) if with_channels else x)
        return maps

    def padded(self) -> Tensor:
        """Mask of the tokens that are padding, bool ``[num_windows, L]``."""
        inside = [torch.zeros(1, *shape, dtype=torch.bool) for shape in self.map_shapes]
        return self.cut(inside, fill=1)
