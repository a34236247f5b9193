# SPDX-License-Identifier: Apache-2.0
"""Partial steps on real blocks: what is cached, what is computed anew, and for which tokens."""

import pytest
import torch
from diffusers import DiTTransformer2DModel

from genaccel.hooks.block_lists import find_block_lists
from genaccel.hooks.flop_count import FlopCount
from genaccel.hooks.token_pruning import OFF, PARTIAL, STORE, TokenPruner

TOKENS = 16


@pytest.fixture
def model():
    torch.manual_seed(0)
    built = DiTTransformer2DModel(
        sample_size=8,
        num_layers=3,
        num_attention_heads=2,
        attention_head_dim=8,
        in_channels=4,
        out_channels=4,
        norm_num_groups=4,
    ).eval()
    for parameter in built.parameters():
        parameter.data.normal_(std=0.1)
    return built


def run(model, seed, timestep=500):
    states = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(seed))
    labels = torch.tensor([1, 2])
    with torch.no_grad():
        return model(states, timestep=torch.tensor([timestep] * 2), class_labels=labels).sample


def prepared(model, score="mean"):
    """A pruner that has watched one call and kept the outputs of another."""
    pruner = TokenPruner(find_block_lists(model), score=score)
    with FlopCount() as counter:
        pruner.counter = counter
        run(model, 0)
    pruner.watching_ends()
    pruner.begin_call(0, 0, None)
    pruner.modes[:] = [STORE] * 3
    run(model, 0)
    pruner.begin_call(0, 1, None)
    return pruner


def set_counts(pruner, count):
    pruner.modes[:] = [PARTIAL] * 3
    pruner.token_counts[:] = [count] * 3


def test_one_call_tells_tokens_and_costs(model):
    pruner = prepared(model)
    for block in pruner.blocks:
        assert block.is_prunable
        assert block.num_tokens == TOKENS
        assert block.feed_forward_flops == 2 * 2 * TOKENS * 16 * 64 * 2
        assert block.attention_flops > 0


def test_partial_steps_of_equal_input_repeat_the_computed_step(model):
    pruner = prepared(model)
    with_all_computed = run(model, 0)
    for count in (0, 5, TOKENS):
        set_counts(pruner, count)
        torch.testing.assert_close(run(model, 0), with_all_computed)


def test_more_tokens_come_closer_to_cached_attention_with_all_of_them(model):
    distances = []
    for count in (0, 8, TOKENS):
        pruner = prepared(model)
        plain = run(model, 0)
        assert torch.isfinite(plain).all()
        set_counts(pruner, count)
        distances.append(run(model, 3))
        pruner.detach()
    full = distances[-1]
    assert (distances[1] - full).norm() < (distances[0] - full).norm()


def test_the_feed_forward_costs_its_share_of_tokens(model):
    pruner = prepared(model)
    with FlopCount() as whole:
        pruner.modes[:] = [OFF] * 3
        run(model, 1)
    set_counts(pruner, 4)
    with FlopCount() as partial:
        run(model, 1)
    saved = sum(b.attention_flops + b.feed_forward_flops * 3 // 4 for b in pruner.blocks)
    assert whole.total - partial.total == saved


@pytest.mark.parametrize("score", ["mean", "drift", "random"])
def test_scores_repeat_themselves(model, score):
    results = []
    for _ in range(2):
        pruner = prepared(model, score)
        set_counts(pruner, 4)
        results.append(run(model, 4))
        pruner.detach()
    assert torch.equal(*results)


def test_halves_of_guidance_share_their_tokens(model):
    pruner = prepared(model)
    pruner.reset()
    pruner.begin_call(0, 0, torch.ones(2, 4, 8, 8))
    assert pruner.groups == 2
    index = pruner.choose(0, torch.randn(2, TOKENS, 16), 5)
    assert torch.equal(index[0], index[1])


def test_calls_of_one_step_share_their_tokens(model):
    pruner = prepared(model)
    first = pruner.choose(1, torch.randn(2, TOKENS, 16), 5)
    pruner.begin_call(1, 1, None)
    assert torch.equal(pruner.choose(1, torch.randn(2, TOKENS, 16), 5), first)


def test_detaching_restores_the_model(model):
    before = run(model, 2)
    pruner = prepared(model)
    set_counts(pruner, 2)
    run(model, 2)
    assert pruner.bytes_held > 0
    pruner.detach()
    assert pruner.bytes_held == 0
    assert torch.equal(run(model, 2), before)
    assert not any("forward" in vars(module) for module in model.modules())
