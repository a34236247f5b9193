# SPDX-License-Identifier: Apache-2.0
"""Drafts of the classes that diffusers has, tiny, and of our own network."""

import pytest
import torch
from diffusers import DiTTransformer2DModel, FluxTransformer2DModel, WanTransformer3DModel

from genaccel.hooks.binding import Binding
from genaccel.speculative_sr.draft import BaseFeatures, Draft, FusedBlock, kept_blocks
from genaccel.speculative_sr.networks import SuperResolutionParams, VelocityTransformer


def filled(model, seed=0):
    """Random weights everywhere: gates that begin as zeros would hide the blocks."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(0.1 * torch.randn(parameter.shape, generator=generator))
    return model.eval()


def wan(layers=6):
    model = WanTransformer3DModel(
        num_attention_heads=2,
        attention_head_dim=12,
        in_channels=4,
        out_channels=4,
        text_dim=8,
        freq_dim=16,
        ffn_dim=16,
        num_layers=layers,
        rope_max_seq_len=32,
    )
    generator = torch.Generator().manual_seed(1)
    call = {
        "hidden_states": torch.randn(1, 4, 2, 8, 8, generator=generator),
        "timestep": torch.tensor([700]),
        "encoder_hidden_states": torch.randn(1, 5, 8, generator=generator),
        "return_dict": False,
    }
    return filled(model), call


def dit(layers=6):
    model = DiTTransformer2DModel(
        sample_size=8,
        num_layers=layers,
        num_attention_heads=2,
        attention_head_dim=8,
        in_channels=4,
        out_channels=4,
    )
    call = {
        "hidden_states": torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(1)),
        "timestep": torch.tensor([700, 700]),
        "class_labels": torch.tensor([3, 5]),
        "return_dict": False,
    }
    return filled(model), call


def own(layers=6):
    model = VelocityTransformer(SuperResolutionParams(channels=64, num_layers=layers))
    generator = torch.Generator().manual_seed(1)
    call = {
        "state": torch.randn(2, 3, 32, 16, generator=generator),
        "low": torch.randn(2, 3, 32, 16, generator=generator),
        "timestep": torch.tensor([700.0, 700.0]),
    }
    return filled(model), call


MODELS = {"dit": dit, "own": own, "wan": wan}


@pytest.mark.parametrize("interval", [1, 2, 3, 6])
@pytest.mark.parametrize("name", sorted(MODELS))
@torch.no_grad()
def test_a_fresh_draft_returns_what_its_base_returned_bit_for_bit(name, interval):
    base, call = MODELS[name]()
    plain = base(**call)[0]
    draft = Draft(base, interval=interval).eval()
    assert len(draft.blocks) == 6 // interval
    capture = BaseFeatures(base, draft.kept)
    assert torch.equal(base(**call)[0], plain)
    found = draft(projected=draft.project(capture.features), **call)[0]
    assert torch.equal(found, plain)
    assert found.abs().max() > 0
    capture.detach()
    assert Binding.find(base) is None
    assert torch.equal(base(**call)[0], plain)


@pytest.mark.parametrize("name", sorted(MODELS))
@torch.no_grad()
def test_a_draft_reads_features_and_its_own_stream(name):
    base, call = MODELS[name]()
    draft = Draft(base).eval()
    capture = BaseFeatures(base, draft.kept)
    plain = base(**call)[0]
    capture.detach()
    others = [feature + 0.1 for feature in capture.features]
    assert not torch.equal(draft(projected=draft.project(others), **call)[0], plain)
    projected = draft.project(capture.features)
    for block in draft.blocks:
        block.own_weight.normal_(0, 0.1)
    assert not torch.equal(draft(projected=projected, **call)[0], plain)


@torch.no_grad()
def test_captured_features_are_what_blocks_take():
    base, call = dit()
    taken = {}
    handles = [
        block.register_forward_pre_hook(lambda m, args, i=i: taken.update({i: args[0].clone()}))
        for i, block in enumerate(base.transformer_blocks)
    ]
    base(**call)
    for handle in handles:
        handle.remove()
    capture = BaseFeatures(base, (0, 2, 5))
    base(**call)
    for found, i in zip(capture.features, (0, 2, 5), strict=True):
        assert torch.equal(found, taken[i])
    capture.detach()
    model, call = own()
    capture = BaseFeatures(model, (1, 4))
    _, kept = model(**call, keep=(1, 4))
    for found, expected in zip(capture.features, kept, strict=True):
        assert torch.equal(found, expected)
    capture.detach()


def test_the_split_fusion_is_that_of_the_concatenation():
    torch.manual_seed(0)
    block = FusedBlock(torch.nn.Linear(16, 16), 16, 0).double()
    for parameter in block.parameters():
        torch.nn.init.normal_(parameter)
    feature, stream = torch.randn(2, 3, 7, 16, dtype=torch.float64)
    weight = torch.cat((block.base_weight, block.own_weight), 1)  # W of [F; x]
    whole = torch.nn.functional.linear(torch.cat((feature, stream), -1), weight, block.bias)
    split = block.project(feature) + torch.nn.functional.linear(stream, block.own_weight)
    torch.testing.assert_close(split, whole, rtol=0, atol=1e-12)

    base, call = wan()
    draft = Draft(base.double()).eval()
    for fused in draft.blocks:
        for parameter in (fused.base_weight, fused.own_weight, fused.bias):
            torch.nn.init.normal_(parameter, 0, 0.2)
    call = {
        k: v.double() if torch.is_tensor(v) and v.is_floating_point() else v
        for k, v in call.items()
    }
    capture = BaseFeatures(base, draft.kept)
    base(**call)
    capture.detach()
    expected = draft(projected=draft.project(capture.features), **call)[0]

    def concatenated(fused, feature):
        weight = torch.cat((fused.base_weight, fused.own_weight), 1)
        return lambda stream, *rest: fused.block(
            torch.nn.functional.linear(torch.cat((feature, stream), -1), weight, fused.bias), *rest
        )

    for fused, feature in zip(draft.blocks, capture.features, strict=True):
        fused.forward = concatenated(fused, feature)
    found = draft(projected=(), **call)[0]
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


def test_the_base_is_copied_and_stays_as_it_is():
    base, call = wan()
    before = {name: weight.clone() for name, weight in base.state_dict().items()}
    draft = Draft(base)
    capture = BaseFeatures(base, draft.kept)
    base(**call)
    capture.detach()
    draft(projected=draft.project(capture.features), **call)[0].sum().backward()
    torch.optim.SGD(draft.parameters(), 0.1).step()
    assert all(torch.equal(before[name], weight) for name, weight in base.state_dict().items())
    assert all(parameter.grad is None for parameter in base.parameters())
    assert draft.blocks[-1].own_weight.abs().sum() > 0


@torch.no_grad()
def test_a_draft_of_a_watched_base_has_none_of_its_hooks():
    base, call = dit()
    capture = BaseFeatures(base, (2, 5))
    draft = Draft(base).eval()
    plain = base(**call)[0]
    features = list(capture.features)
    assert torch.equal(draft(projected=draft.project(features), **call)[0], plain)
    assert all(torch.equal(a, b) for a, b in zip(capture.features, features, strict=True))
    assert Binding.find(draft.model) is None
    capture.detach()


def test_kept_blocks_are_the_published_ones():
    assert kept_blocks(30) == (2, 5, 8, 11, 14, 17, 20, 23, 26, 29)
    assert kept_blocks(4) == (0, 3)
    for interval in (0, 5):
        with pytest.raises(ValueError, match="interval must be within 1 to 4"):
            kept_blocks(4, interval)


def test_models_with_other_blocks_are_refused():
    flux = FluxTransformer2DModel(
        in_channels=4,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=8,
        num_attention_heads=1,
        joint_attention_dim=8,
        pooled_projection_dim=8,
        axes_dims_rope=(2, 2, 4),
    )
    with pytest.raises(ValueError, match="FluxTransformer2DModel has 2"):
        Draft(flux)
    base, _ = dit()
    with pytest.raises(ValueError, match="features must be of 2 blocks, got 1"):
        Draft(base).project([torch.zeros(1, 1, 16)])
