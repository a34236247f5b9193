# SPDX-License-Identifier: Apache-2.0
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from genaccel.models.slice_order import SliceOrder, tile_shape

GOLDEN = Path(__file__).parents[1] / "golden" / "rdvq_entropy"
ORDERS = [
    SliceOrder(),
    SliceOrder(num_scales=1, window_side=2),
    SliceOrder(num_scales=2, window_side=6),
    SliceOrder(num_scales=5, window_side=2),
]
each = pytest.mark.parametrize("order", ORDERS, ids=lambda o: f"{o.num_scales}x{o.window_side}")


@pytest.mark.golden
def test_order_and_mask_are_the_authors():
    tensors = load_file(GOLDEN / "entropy.safetensors")
    order = SliceOrder()
    np.testing.assert_array_equal(order.slice_of_token(), tensors["order"])
    np.testing.assert_array_equal(order.attention_mask(), tensors["attend"])


@each
def test_slices_are_as_large_as_they_say_and_cover_every_token_once(order):
    numbers = order.slice_of_token()
    assert len(numbers) == order.num_tokens
    assert np.bincount(numbers).tolist() == list(order.slice_sizes)
    assert len(order.slice_sizes) == order.num_slices
    assert order.slice_starts[-1] == order.num_tokens
    assert sorted(order.tokens_by_slice()) == list(range(order.num_tokens))
    assert (np.diff(numbers[order.tokens_by_slice()]) >= 0).all()


@each
def test_scales_have_4_8_16_slices_one_after_the_other(order):
    assert np.diff(order.scale_starts).tolist() == [4 * 2**i for i in range(order.num_scales)]
    begin = 0
    for scale, side in enumerate(order.grid_sides):
        part = order.slice_of_token()[begin : begin + side**2]
        assert (part.min(), part.max() + 1) == order.scale_starts[scale : scale + 2]
        begin += side**2


@each
def test_tokens_of_a_tile_differ_and_tiles_repeat(order):
    grid = order.slice_of_token()[-(order.grid_sides[-1] ** 2) :].reshape(order.grid_sides[-1], -1)
    rows, columns = tile_shape(order.num_scales - 1)
    tile = grid[:rows, :columns]
    assert tile.reshape(-1).tolist() == list(range(tile[0, 0], order.num_slices))
    assert (grid == np.tile(tile, (len(grid) // rows, len(grid) // columns))).all()


@each
def test_rows_of_the_masks_see_what_they_may(order):
    numbers, sizes = order.slice_of_token(), np.array(order.slice_sizes)
    strict, own = order.attention_mask(), order.attention_mask(attends_own_slice=True)
    assert strict.shape == own.shape == (order.num_tokens, order.num_tokens)
    before = np.concatenate([[0], np.cumsum(sizes)])
    assert (own.sum(1) == before[numbers + 1]).all()
    assert (strict.sum(1) == np.where(numbers == 0, sizes[0], before[numbers])).all()
    assert not (strict & ~own).any()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"num_scales": 0}, r"num_scales must be in \[1, 8\], got 0"),
        ({"num_scales": 9}, "got 9"),
        ({"window_side": 3}, "window_side must be even"),
        ({"window_side": 0}, "at least 2, got 0"),
    ],
)
def test_sizes_out_of_range_are_refused(values, message):
    with pytest.raises(ValueError, match=message):
        SliceOrder(**values)
