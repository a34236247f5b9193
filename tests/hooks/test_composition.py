# SPDX-License-Identifier: Apache-2.0
"""Acceleration together with what diffusers itself hooks into a model, in either order."""

import sys
from pathlib import Path

import pytest
import torch
from torch._dynamo.utils import counters

sys.path.insert(0, str(Path(__file__).parent))
import handmade_models
from handmade_models import same
from scripted import attach
from tiny_transformers import TINY_TRANSFORMERS, call

STEPS = (0.3, 0.4, 0.5, 0.6)
MASK = [1, 1, 0, 0]
NAMES = ["FluxTransformer2DModel", "WanTransformer3DModel", "PixArtTransformer2DModel"]

every_model = pytest.mark.parametrize("name", NAMES)
either_order = pytest.mark.parametrize("ours_first", [True, False])


def outputs(model, name, steps=STEPS):
    tiny = TINY_TRANSFORMERS[name]
    return [part for step in steps for part in call(model, tiny.inputs(step))]


def offload_groups(model):
    model.enable_group_offload(onload_device=torch.device("cpu"), offload_type="leaf_level")


def offload_blocks(model):
    model.enable_group_offload(
        onload_device=torch.device("cpu"), offload_type="block_level", num_blocks_per_group=1
    )


def cast_layers(model):
    model.enable_layerwise_casting(storage_dtype=torch.float8_e4m3fn, compute_dtype=torch.float32)


SWITCHES = {
    "leaf offload": offload_groups,
    "block offload": offload_blocks,
    "float8": cast_layers,
}


@every_model
@either_order
@pytest.mark.parametrize("switch", SWITCHES.values(), ids=SWITCHES.keys())
def test_switches_of_diffusers_compose(name, ours_first, switch):
    tiny = TINY_TRANSFORMERS[name]
    alone = tiny.build()
    switch(alone)
    plain = outputs(alone, name)
    engine = attach(alone, MASK)
    expected = outputs(alone, name)
    engine.detach()
    assert same(outputs(alone, name), plain)

    model = tiny.build()
    if ours_first:
        engine = attach(model, MASK)
        switch(model)
    else:
        switch(model)
        engine = attach(model, MASK)
    accelerated = outputs(model, name)
    assert same(accelerated, expected)
    assert engine.records[-1].computed == (False,) * len(engine.segments)
    assert same(accelerated[:2], plain[:2])
    assert not same(accelerated, plain)
    engine.detach()
    assert same(outputs(model, name), plain)


# diffusers adapts no PixArt by itself.
@pytest.mark.parametrize("name", NAMES[:2])
@either_order
def test_an_adapter_composes(name, ours_first):
    peft = pytest.importorskip("peft")
    tiny = TINY_TRANSFORMERS[name]
    config = peft.LoraConfig(
        r=2, target_modules=["to_q", "to_k", "to_v"], init_lora_weights="gaussian"
    )

    def adapt(model):
        torch.manual_seed(0)
        model.add_adapter(config, adapter_name="style")
        with torch.no_grad():
            for key, parameter in model.named_parameters():
                if "lora_B" in key:
                    parameter.normal_()

    model = tiny.build()
    without = outputs(model, name)
    adapt(model)
    plain = outputs(model, name)
    assert not same(plain, without)

    model = tiny.build()
    if not ours_first:
        adapt(model)
    engine = attach(model, [1] * 4)
    if ours_first:
        adapt(model)
    assert same(outputs(model, name), plain)
    model.disable_adapters()
    assert same(outputs(model, name), without)
    model.enable_adapters()
    engine.director.mask = MASK
    assert same(outputs(model, name)[:2], plain[:2])
    assert engine.records[-1].computed == (False,) * len(engine.segments)
    engine.detach()
    assert same(outputs(model, name), plain)


@pytest.mark.usefixtures("fresh_compiler")
class TestCompiledByOthers:
    """Whatever was compiled keeps running; genaccel's own way is ``handle.compile``."""

    @either_order
    def test_blocks_one_by_one(self, ours_first):
        name = "WanTransformer3DModel"
        model = TINY_TRANSFORMERS[name].build()
        engine = attach(model, MASK)
        expected = outputs(model, name)
        engine.detach()

        if ours_first:
            engine = attach(model, MASK)
        model.compile_repeated_blocks(fullgraph=False, backend="eager")
        if not ours_first:
            engine = attach(model, MASK)
        for _ in range(2):
            assert_close(outputs(model, name), expected)
        assert engine.records[-1].computed == (False,) * len(engine.segments)

    def test_many_blocks_share_their_graphs(self):
        model = handmade_models.build(count=14)
        for block in model.blocks:
            block.compile(backend="eager")
        attach(model, MASK)
        for _ in range(2):
            handmade_models.run(model, 4)
        # A block's first, last and middle place, computed and skipped: whatever their number is.
        assert counters["stats"]["unique_graphs"] <= 6

    @pytest.mark.parametrize("wrap", [True, False])
    def test_the_whole_model(self, wrap):
        model = handmade_models.build()
        engine = attach(model, MASK)
        expected = handmade_models.run(model, 4)
        engine.detach()
        if wrap:
            called = torch.compile(model, backend="eager")
        else:
            called = model
            model.compile(backend="eager")
        engine = attach(called, MASK)
        assert engine.binding.is_compiled_outside
        for _ in range(2):
            assert_close(handmade_models.run(called, 4), expected)
        assert engine.records[-1].computed == (False,)


def assert_close(ours, theirs):
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-4, atol=1e-5)


def test_the_models_own_cache_may_be_enabled_and_disabled_below_ours():
    from diffusers import PyramidAttentionBroadcastConfig

    name = "WanTransformer3DModel"
    model = TINY_TRANSFORMERS[name].build()
    plain = outputs(model, name)
    engine = attach(model, [1] * 4)
    model.enable_cache(
        PyramidAttentionBroadcastConfig(
            spatial_attention_block_skip_range=2, current_timestep_callback=lambda: 0
        )
    )
    assert same(outputs(model, name), plain)
    model.disable_cache()
    engine.director.mask = MASK
    assert same(outputs(model, name)[:2], plain[:2])
    engine.detach()
    assert same(outputs(model, name), plain)
