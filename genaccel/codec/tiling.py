# SPDX-License-Identifier: Apache-2.0
"""Encodes and decodes large images tile by tile: memory is bounded by a tile, whatever the image's size.

Each tile is computed with a margin of context around the part that is kept, its core. Where the network sees
no further than ``params.halo``, a core with that margin equals the same place of the whole image. Networks
that see the whole image (group norms) have no such margin: their tiles differ in tone, so the decoder
cross-fades neighbours over the margin.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from genaccel.codec.format.limits import check_time
from genaccel.models.autoencoder import Autoencoder, AutoencoderParams


@dataclass(frozen=True, kw_only=True, slots=True)
class Tiling:
    """Sizes of the tiles that an image is cut into.

    Attributes:
        tile_size: Largest side of a core in pixels.
        margin: Pixels of context on each side, as far as the image reaches.
        blend: Cross-fade neighbours over the margin instead of keeping cores alone.
        untiled_pixels: Images of at most this many pixels are computed whole.
    """

    tile_size: int
    margin: int
    blend: bool
    untiled_pixels: int

    def __post_init__(self) -> None:
        if self.tile_size < 1 or self.margin < 0:
            raise ValueError(
                f"tile_size must be positive and margin not negative, got {self.tile_size}, {self.margin}"
            )
        # Else three tiles would overlap in a place, and two ramps no longer add up to one.
        if self.blend and self.tile_size < 4 * self.margin:
            raise ValueError(
                f"tile_size must be at least 4 margins to blend, got {self.tile_size} for {self.margin}"
            )

    @classmethod
    def default(cls, params: AutoencoderParams) -> Tiling:
        """The tiling of the format: whole up to 2048x2048 pixels, 1024x2048 for networks without a halo."""
        if params.halo is not None:
            return cls(tile_size=1536, margin=params.halo, blend=False, untiled_pixels=2**22)
        return cls(tile_size=1024, margin=128, blend=True, untiled_pixels=2**21)

    def largest_tile(self, height: int, width: int, alignment: int) -> tuple[int, int]:
        """Height and width of the largest tile of an image, margins included."""
        rows, columns = self.spans(height, width, alignment)
        return max(s.stop - s.start for s in rows), max(s.stop - s.start for s in columns)

    def spans(self, height: int, width: int, alignment: int) -> tuple[list[Span], list[Span]]:
        """Cut both axes of an image whose sides are multiples of ``alignment``."""
        tile_size = self.tile_size if height * width > self.untiled_pixels else max(height, width)
        return (
            cut(height, tile_size, self.margin, alignment),
            cut(width, tile_size, self.margin, alignment),
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Span:
    """One tile along one axis, in pixels: ``start <= core_start < core_stop <= stop``."""

    start: int
    core_start: int
    core_stop: int
    stop: int

    def weights(self, blend: bool) -> Tensor:
        """Weight of each pixel, ``[stop - start]``; neighbours' weights add up to one everywhere."""
        positions = torch.arange(self.start, self.stop, dtype=torch.float32) + 0.5
        if not blend:
            return ((positions > self.core_start) & (positions < self.core_stop)).float()
        weights = torch.ones_like(positions)
        for edge, width in (
            (self.core_start, self.core_start - self.start),
            (self.core_stop, self.stop - self.core_stop),
        ):
            if width:  # zero at the image's own border
                ramp = ((positions - edge) / (2 * width) + 0.5).clamp(0, 1)
                weights = weights * (ramp if edge == self.core_start else 1 - ramp)
        return weights


def cut(
    length: int, tile_size: int, margin: int, alignment: int, cell: int | None = None
) -> list[Span]:
    """Cut an axis into the fewest cores of at most ``tile_size``, as equal as whole cells allow.

    Args:
        length: Pixels of the axis; the last core may end in a part of a cell.
        tile_size: Pixels of a core at most, but for one of a single cell.
        margin: Pixels at either side of a core, rounded up to the alignment.
        alignment: What the margin is a multiple of.
        cell: Pixels that stay together; as many as the alignment if None.
    """
    cell = cell or alignment
    cells = -(-length // cell)
    count = -(-cells // max(1, tile_size // cell))
    edges = [min(length, cell * (i * cells // count)) for i in range(count + 1)]
    aligned_margin = -(-margin // alignment) * alignment
    return [
        Span(
            start=max(0, a - aligned_margin),
            core_start=a,
            core_stop=b,
            stop=min(length, b + aligned_margin),
        )
        for a, b in itertools.pairwise(edges)
    ]


def _assembled(
    model: Autoencoder,
    image: Tensor,
    tiling: Tiling,
    compute: Callable[[Tensor], Sequence[Tensor]],
) -> list[Tensor]:
    """Put together the maps ``[1, ..., H/s, W/s]`` that ``compute`` makes of tiles ``[1, 3, h, w]``."""
    height, width = image.shape[:2]
    strides = model.params.strides
    device = model.index_cdfs.device
    maps: list[Tensor] = []
    rows, columns = tiling.spans(height, width, model.params.alignment)
    for row in rows:
        for column in columns:
            check_time()
            tile = image[row.start : row.stop, column.start : column.stop].to(device)
            # Not named, so that it does not live on beside the next one.
            parts = compute(tile.permute(2, 0, 1)[None].float().div_(127.5).sub_(1))  # [1, 3, h, w]
            if not maps:
                maps = [
                    torch.empty(*part.shape[1:-2], height // s, width // s, dtype=part.dtype)
                    for part, s in zip(parts, strides, strict=True)
                ]
            for whole, part, s in zip(maps, parts, strides, strict=True):
                top, left = (
                    (row.core_start - row.start) // s,
                    (column.core_start - column.start) // s,
                )
                core_height = (row.core_stop - row.core_start) // s
                core_width = (column.core_stop - column.core_start) // s
                whole[
                    ...,
                    row.core_start // s : row.core_stop // s,
                    column.core_start // s : column.core_stop // s,
                ] = part[0, ..., top : top + core_height, left : left + core_width]
            del parts
    return maps


def encode_tiles(model: Autoencoder, image: Tensor, tiling: Tiling) -> list[Tensor]:
    """Index maps of an image, tile by tile.

    Args:
        model: In evaluation mode.
        image: uint8 ``[H, W, 3]`` on the CPU, sides multiples of ``model.params.alignment``.
        tiling: How to cut.

    Returns:
        int32 ``[H/s, W/s]`` per stride, coarse to fine, on the CPU.
    """
    return _assembled(model, image, tiling, lambda x: [m.int() for m in model.encode(x)])


def feature_tiles(model: Autoencoder, image: Tensor, tiling: Tiling) -> list[Tensor]:
    """Features of an image as they enter the quantiser, computed tile by tile.

    Args:
        model: In evaluation mode.
        image: uint8 ``[H, W, 3]`` on the CPU, sides multiples of ``model.params.alignment``.
        tiling: How to cut.

    Returns:
        float32 ``[C, H/s, W/s]`` per stride, coarse to fine, on the CPU.
    """
    return _assembled(model, image, tiling, lambda x: [f.float() for f in model.features(x)])


def decode_tiles(
    model: Autoencoder, index_maps: Sequence[Tensor], tiling: Tiling
) -> Iterator[Tensor]:
    """Decode index maps to an image, in bands of final pixels from top to bottom.

    Args:
        model: In evaluation mode.
        index_maps: Integers ``[H/s, W/s]`` per stride, coarse to fine, on the CPU.
        tiling: How to cut.

    Yields:
        float32 ``[3, rows, W]``, about [-1, 1], on the CPU; the caller's to change.
    """
    strides = model.params.strides
    device = model.index_cdfs.device
    height, width = (side * strides[0] for side in index_maps[0].shape)
    rows, columns = tiling.spans(height, width, model.params.alignment)
    carry = torch.zeros(3, 0, width)  # rows of the band above that this one still adds to
    for i, row in enumerate(rows):
        band = torch.zeros(3, row.stop - row.start, width)
        for column in columns:
            check_time()
            tile = model.decode(
                [
                    m[row.start // s : row.stop // s, column.start // s : column.stop // s]
                    .long()[None]
                    .to(device)
                    for m, s in zip(index_maps, strides, strict=True)
                ]
            )
            tile = tile[0].cpu().mul_(column.weights(tiling.blend))
            band[:, :, column.start : column.stop] += tile
            del tile  # or it would live on beside the next one, as would the band
        band *= row.weights(tiling.blend)[:, None]
        band[:, : carry.shape[1]] += carry
        final = (rows[i + 1].start if i + 1 < len(rows) else height) - row.start
        yield band[:, :final]
        carry = band[:, final:].clone()
        del band
