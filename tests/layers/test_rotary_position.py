# SPDX-License-Identifier: Apache-2.0
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from genaccel.layers.rotary_position import grid_rotations, rotate_pairs

GOLDEN = Path(__file__).parents[1] / "golden" / "rdvq_entropy"


@pytest.mark.golden
def test_table_is_the_authors():
    tensors = load_file(GOLDEN / "entropy.safetensors")
    table = grid_rotations([4, 8, 16], head_dim=24)
    turned = tensors["order"] > 0  # theirs is zero in slice 0
    torch.testing.assert_close(table[turned], tensors["rope_cos_sin"][turned], atol=2e-7, rtol=0)


def test_same_place_has_the_same_angles_on_every_scale():
    coarse, fine = grid_rotations([4], 16).view(4, 4, -1), grid_rotations([8], 16).view(8, 8, -1)
    assert torch.equal(coarse, fine[::2, ::2])


def test_first_half_of_the_pairs_turns_with_y_and_the_second_with_x():
    table = grid_rotations([4], 16).view(4, 4, 8, 2)
    assert torch.equal(table[:, :1, :4].expand(4, 4, 4, 2), table[:, :, :4])
    assert torch.equal(table[:1, :, 4:].expand(4, 4, 4, 2), table[:, :, 4:])


def test_rotation_keeps_lengths_and_products_depend_on_the_difference():
    generator = torch.Generator().manual_seed(0)
    q, k = torch.randn(2, 1, 16, generator=generator, dtype=torch.float64)
    angles = torch.rand(8, generator=generator, dtype=torch.float64)

    def at(x, position):
        table = torch.stack([(angles * position).cos(), (angles * position).sin()], -1)
        return rotate_pairs(x, table[None])

    torch.testing.assert_close(at(q, 3).norm(), q.norm())
    torch.testing.assert_close((at(q, 5) * at(k, 3)).sum(), (at(q, 2) * k).sum())


@pytest.mark.parametrize("head_dim", [0, 2, 6])
def test_odd_head_dimensions_are_refused(head_dim):
    with pytest.raises(ValueError, match="positive multiple of 4"):
        grid_rotations([4], head_dim)
