# SPDX-License-Identifier: Apache-2.0
import pytest
import torch

from genaccel.codec.tiling import Tiling, cut, decode_tiles, encode_tiles
from genaccel.models.autoencoder import PRESETS

WHOLE = Tiling(tile_size=2**16, margin=0, blend=False, untiled_pixels=2**32)


@pytest.mark.parametrize("length", [32, 64, 1536, 1568, 6016, 8000])
def test_cores_cover_an_axis_once_and_are_about_equal(length):
    spans = cut(length, 1536, 192, 32)
    assert [s.core_start for s in spans] == [0, *(s.core_stop for s in spans[:-1])]
    assert spans[-1].core_stop == length
    assert len(spans) == -(-length // 1536)
    sizes = [s.core_stop - s.core_start for s in spans]
    assert max(sizes) <= 1536
    assert max(sizes) - min(sizes) <= 32
    for s in spans:
        assert s.start == max(0, s.core_start - 192)
        assert s.stop == min(length, s.core_stop + 192)


@pytest.mark.parametrize("blend", [False, True])
def test_weights_of_all_tiles_add_up_to_one(blend):
    total = torch.zeros(4000)
    for span in cut(4000, 1024, 128, 32):
        total[span.start : span.stop] += span.weights(blend)
    torch.testing.assert_close(total, torch.ones(4000))


def test_tiles_equal_the_whole_image_where_the_network_is_local(local_model, picture):
    params = local_model.params
    tiling = Tiling(tile_size=64, margin=params.halo, blend=False, untiled_pixels=0)
    image = torch.from_numpy(picture(320, 448))
    assert len(cut(448, 64, params.halo, params.alignment)) == 7
    with torch.inference_mode():
        whole_maps = encode_tiles(local_model, image, WHOLE)
        tiled_maps = encode_tiles(local_model, image, tiling)
        for whole, tiled in zip(whole_maps, tiled_maps, strict=True):
            assert len(whole.unique()) > 4  # else equality would say little
            assert torch.equal(whole, tiled)
        whole = torch.cat(list(decode_tiles(local_model, whole_maps, WHOLE)), dim=1)
        tiled = torch.cat(list(decode_tiles(local_model, whole_maps, tiling)), dim=1)
    full_scale = whole.abs().max().item()  # 1 in a trained network
    torch.testing.assert_close(tiled, whole, atol=1e-4 * full_scale, rtol=0)


def test_without_the_halo_tiles_differ(local_model, picture):
    """The test above can fail: context is what makes it pass."""
    tiling = Tiling(tile_size=64, margin=0, blend=False, untiled_pixels=0)
    image = torch.from_numpy(picture(320, 448))
    with torch.inference_mode():
        maps = encode_tiles(local_model, image, WHOLE)
        whole = torch.cat(list(decode_tiles(local_model, maps, WHOLE)), dim=1)
        tiled = torch.cat(list(decode_tiles(local_model, maps, tiling)), dim=1)
    assert (whole - tiled).abs().max() > 0.1 * whole.abs().max()


def test_blended_tiles_leave_no_step_at_their_edges(global_model, picture):
    align = global_model.params.alignment
    image = torch.from_numpy(picture(64, 256))
    image[:, 128:] //= 4  # halves that group norms see very differently
    cores = Tiling(tile_size=64, margin=16, blend=False, untiled_pixels=0)
    blended = Tiling(tile_size=64, margin=16, blend=True, untiled_pixels=0)
    assert 16 % align == 0
    with torch.inference_mode():
        maps = encode_tiles(global_model, image, WHOLE)
        hard = torch.cat(list(decode_tiles(global_model, maps, cores)), dim=1)
        soft = torch.cat(list(decode_tiles(global_model, maps, blended)), dim=1)
    assert soft.shape == hard.shape == (3, 64, 256)

    # The network's own texture at an edge is in both; what differs from tile to tile is only in the hard one.
    def step(pixels, edge):
        return (pixels[:, :, edge] - pixels[:, :, edge - 1]).abs().mean()

    hard_steps = sum(step(hard, edge) for edge in (64, 128, 192))
    soft_steps = sum(step(soft, edge) for edge in (64, 128, 192))
    assert soft_steps < hard_steps
    torch.testing.assert_close(soft[:, :, 96], hard[:, :, 96])  # beyond the margin of both edges


def test_default_tilings():
    small = Tiling.default(PRESETS["small"])
    assert (small.margin, small.blend) == (PRESETS["small"].halo, False)
    assert Tiling.default(PRESETS["paper"]).blend
    assert small.largest_tile(2048, 2048, 32) == (2048, 2048)
    assert max(small.largest_tile(6016, 8000, 32)) <= 1536 + 2 * 192


def test_margins_that_would_overlap_are_refused():
    with pytest.raises(ValueError, match="at least 4 margins"):
        Tiling(tile_size=64, margin=32, blend=True, untiled_pixels=0)
    with pytest.raises(ValueError, match="positive"):
        Tiling(tile_size=0, margin=0, blend=False, untiled_pixels=0)
