# SPDX-License-Identifier: Apache-2.0
import hashlib
import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
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


# Of the tables of the presets and of the golden model, by the channels of a head: they are part of what a model means.
DIGESTS = {
    24: "9ce8b26873f0cb163a28247ffb34e663045b76197272242e91d508b1d5ef1514",
    32: "8bd242596a38be464935873f4313cc95c10c9ded22fcf7a3d36fdc896ba7a34a",
    96: "6ffc7fd80d1c7d2fda15f0a73b4733144518a70a0b1f5ed95c03a4a4627e1b78",
}
PRINT_DIGESTS = f"""
import hashlib
from genaccel.layers.rotary_position import grid_rotations
for head_dim in {list(DIGESTS)}:
    print(hashlib.sha256(grid_rotations([4, 8, 16], head_dim).numpy().tobytes()).hexdigest())
"""


@pytest.mark.parametrize("head_dim", DIGESTS)
def test_table_is_the_same_on_every_machine(head_dim):
    table = grid_rotations([4, 8, 16], head_dim).numpy()
    assert hashlib.sha256(table.tobytes()).hexdigest() == DIGESTS[head_dim]


def test_table_does_not_depend_on_the_instruction_set():
    """numpy's functions differ by it; here they run without what this processor has beyond the baseline."""
    core = getattr(np, "_core", None) or np.core
    found = core._multiarray_umath.__cpu_features__
    disabled = [name for name in core._multiarray_umath.__cpu_dispatch__ if found[name]]
    printed = subprocess.run(
        [sys.executable, "-c", PRINT_DIGESTS],
        env=os.environ | {"NPY_DISABLE_CPU_FEATURES": " ".join(disabled)},
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    assert printed.split() == list(DIGESTS.values())


def ulps_from_a_tie(x):
    """By how many of its fp64 steps a number is away from where rounding to fp32 would turn over."""
    low = np.float32(x)
    neighbours = [np.nextafter(low, np.float32(np.inf)), np.nextafter(low, np.float32(-np.inf))]
    return min(abs(x - (float(low) + float(n)) / 2) for n in neighbours) / math.ulp(x)


@pytest.mark.parametrize("head_dim", DIGESTS)
def test_any_good_library_rounds_the_table_alike(head_dim):
    """Functions in fp64 are up to 4 steps off, as they come; no entry is that near to a tie."""
    half = head_dim // 2
    exponents = np.arange(0, half, 2, dtype=np.float32) / np.float32(half)
    powers = [math.pow(1000.0, float(e)) for e in exponents]
    frequencies = np.float32(1) / np.array(powers, np.float32)
    coordinates = np.arange(16, dtype=np.float32) / np.float32(16) * np.float32(1000)
    angles = np.outer(coordinates, frequencies).astype(
        np.float64
    )  # those of smaller grids are among them
    exact = [f(float(a)) for a in angles[1:].flat for f in (math.cos, math.sin)]
    assert min(map(ulps_from_a_tie, powers + exact)) > 16


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
