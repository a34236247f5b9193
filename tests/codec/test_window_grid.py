# SPDX-License-Identifier: Apache-2.0
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from genaccel.codec.coding.window_grid import WindowGrid
from genaccel.models.slice_order import SliceOrder

GOLDEN = Path(__file__).parents[1] / "golden" / "rdvq_bitstream"
SIDES = SliceOrder().grid_sides
# Widths and heights in coarsest tokens: whole windows, and up to three tokens short of it.
SHAPES = [(4, 4), (4, 6), (5, 11), (1, 1)]
each = pytest.mark.parametrize("shape", SHAPES, ids=str)


def grid_of(shape, sides=SIDES):
    height, width = shape
    scaled = tuple((height * 2**i, width * 2**i) for i in range(len(sides)))
    return WindowGrid(map_shapes=scaled, grid_sides=sides)


@pytest.mark.golden
def test_padded_tokens_are_the_authors():
    mask = load_file(GOLDEN / "bitstream.safetensors")["mask_padded"]
    assert torch.equal(grid_of((4, 6)).padded(), mask.bool())


@each
def test_merge_undoes_cut_for_features_and_indices(shape):
    grid = grid_of(shape)
    features = [torch.rand(3, 5, *s) for s in grid.map_shapes]
    windows = grid.cut(features)
    assert windows.shape == (3 * grid.num_windows, 336, 5)
    for a, b in zip(features, grid.merge(windows), strict=True):
        assert torch.equal(a, b)
    indices = [torch.randint(0, 99, (3, *s)) for s in grid.map_shapes]
    windows = grid.cut(indices, fill=7)
    assert windows.shape == (3 * grid.num_windows, 336)
    assert windows.dtype == torch.int64
    for a, b in zip(indices, grid.merge(windows), strict=True):
        assert torch.equal(a, b)


@each
def test_padding_is_marked_and_filled(shape):
    grid = grid_of(shape)
    windows = grid.cut([torch.ones(2, *s, dtype=torch.int64) for s in grid.map_shapes], fill=7)
    padded = grid.padded()
    assert padded.shape == (grid.num_windows, 336)
    assert torch.equal(windows == 7, padded.repeat(2, 1))
    assert int((~padded).sum()) == sum(h * w for h, w in grid.map_shapes)


def test_windows_run_row_by_row_and_image_by_image():
    grid = grid_of((8, 12))
    assert (grid.rows, grid.columns, grid.num_windows) == (2, 3, 6)
    coarsest = torch.arange(2 * 8 * 12).view(2, 8, 12)
    windows = grid.cut([coarsest, torch.zeros(2, 16, 24), torch.zeros(2, 32, 48)])
    for number in range(12):
        image, row, column = number // 6, number % 6 // 3, number % 3
        part = coarsest[image, 4 * row : 4 * row + 4, 4 * column : 4 * column + 4]
        assert torch.equal(windows[number, :16].view(4, 4), part)


def test_gradients_pass():
    grid = grid_of((5, 6))
    features = [torch.rand(1, 2, *s, dtype=torch.float64).requires_grad_() for s in grid.map_shapes]
    grid.cut(features).sum().backward()
    assert all(bool((f.grad == 1).all()) for f in features)


@pytest.mark.parametrize(
    ("shapes", "sides", "message"),
    [
        (((4, 4), (8, 8)), (4,), "one entry per scale"),
        ((), (), "one entry per scale"),
        (((0, 4),), (4,), "must have tokens"),
        (((4, 4), (9, 8)), (4, 8), "not covered by one grid"),
    ],
)
def test_maps_that_do_not_fit_are_refused(shapes, sides, message):
    with pytest.raises(ValueError, match=message):
        WindowGrid(map_shapes=shapes, grid_sides=sides)


def test_wrong_tensors_are_refused():
    grid = grid_of((4, 6))
    with pytest.raises(ValueError, match="maps must have heights"):
        grid.cut([torch.zeros(1, 4, 4), torch.zeros(1, 8, 12), torch.zeros(1, 16, 24)])
    with pytest.raises(ValueError, match=r"\[B \* 2, 336, ...\]"):
        grid.merge(torch.zeros(3, 336))
    with pytest.raises(ValueError, match="got"):
        grid.merge(torch.zeros(2, 335))
