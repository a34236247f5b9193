# SPDX-License-Identifier: Apache-2.0
import math

import pytest
import torch
import torch.nn.functional as functional

from genaccel.layers.cosine_attention import CosineAttention, KeyValueCache
from genaccel.layers.rotary_position import grid_rotations, rotate_pairs

ROTATIONS = grid_rotations([4], 8)  # [16, 4, 2]


def attention(dtype=torch.float64):
    torch.manual_seed(0)
    return CosineAttention(24, 3, 0.0).to(dtype)


def by_hand(layer, x, mask):
    """Head by head, row by row."""
    outputs = []
    weights = layer.wqkv.weight.view(3, 3, 8, 24)  # [q k v, heads, D, width]
    for head in range(3):
        q, k, v = (x @ weights[i, head].T for i in range(3))
        q, k = (rotate_pairs(functional.normalize(t, dim=-1), ROTATIONS) for t in (q, k))
        scale = min(float(layer.scale_mul_1H11[0, head]), math.log(100))
        logits = (q @ k.transpose(1, 2) * math.exp(scale)).masked_fill(~mask, -math.inf)
        outputs.append(logits.softmax(-1) @ v)
    return torch.cat(outputs, -1) @ layer.wo.weight.T


@pytest.mark.parametrize("log_scale", [math.log(4), math.log(100), 9.0])
def test_equals_the_formula_and_the_scale_is_capped(log_scale):
    layer, x = attention(), torch.randn(2, 16, 24, dtype=torch.float64)
    mask = torch.ones(16, 16, dtype=torch.bool).tril()
    with torch.no_grad():
        layer.scale_mul_1H11[0, 1] = log_scale
        torch.testing.assert_close(layer(x, ROTATIONS, mask), by_hand(layer, x, mask))


def test_no_gradient_beyond_the_cap():
    layer = attention()
    with torch.no_grad():
        layer.scale_mul_1H11[0, 1] = 5.0
    x = torch.randn(1, 16, 24, dtype=torch.float64)
    layer(x, ROTATIONS, torch.ones(16, 16, dtype=torch.bool)).square().sum().backward()
    gradient = layer.scale_mul_1H11.grad.flatten()
    assert gradient[1] == 0
    assert bool((gradient[[0, 2]] != 0).all())


@pytest.mark.parametrize("attends_own", [False, True])
def test_steps_with_a_cache_equal_the_masked_pass(attends_own):
    layer, x = attention(), torch.randn(2, 16, 24, dtype=torch.float64)
    blocks = torch.arange(16) // 4
    mask = blocks[:, None] >= blocks if attends_own else blocks[:, None] > blocks
    mask |= (blocks[:, None] == 0) & (blocks == 0)
    cache = KeyValueCache(2, 3, 16, 8, x)
    with torch.no_grad():
        steps = [
            layer.step(x[:, a : a + 4], ROTATIONS[a : a + 4], cache, attends_own=own)
            for a, own in ((0, True), (4, attends_own), (8, attends_own), (12, attends_own))
        ]
        torch.testing.assert_close(torch.cat(steps, 1), layer(x, ROTATIONS, mask))
    assert cache.length == 16


def test_bfloat16_positions_are_computed_in_float32():
    layer, x = attention(torch.bfloat16), torch.randn(1, 16, 24).bfloat16()
    output = layer(x, ROTATIONS, torch.ones(16, 16, dtype=torch.bool))
    assert output.dtype == torch.bfloat16
    with torch.no_grad():
        exact = layer.double()(x.double(), ROTATIONS, torch.ones(16, 16, dtype=torch.bool))
    torch.testing.assert_close(output.double(), exact, atol=0.02, rtol=0.05)
