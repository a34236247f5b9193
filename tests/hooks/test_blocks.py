# SPDX-License-Identifier: Apache-2.0
"""Lists of blocks are found by what they hold, and arguments by name in any calling style."""

import sys
from pathlib import Path

import pytest
import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).parent))
from handmade_models import Block, Model, TextFirstBlock, build
from tiny_transformers import TINY_TRANSFORMERS

from genaccel.hooks.blocks import Parameters, find_block_lists


def found(model):
    return [(blocks.name, len(blocks.blocks)) for blocks in find_block_lists(model)]


def test_lists_are_found_whatever_they_are_called():
    model = nn.Module()
    model.quirky = nn.ModuleList([Block(), Block()])
    model.inner = build()
    assert found(model) == [("quirky", 2), ("inner.blocks", 3)]


def test_lists_without_attention_are_none():
    model = nn.Module()
    model.projections = nn.ModuleList([nn.Linear(1, 1), nn.Linear(1, 1)])
    model.mixed = nn.ModuleList([Block(), nn.Linear(1, 1)])
    model.nothing = nn.ModuleList()
    assert found(model) == []


def test_a_list_within_a_block_is_not_a_list_of_its_own():
    outer = Block()
    outer.inner = nn.ModuleList([Block(), Block()])
    assert found(Model(outer, Block())) == [("blocks", 2)]


def test_the_lists_within_a_list_of_lists_are_found():
    model = nn.Module()
    model.stages = nn.ModuleList([nn.ModuleList([Block(), Block()]), nn.ModuleList([Block()])])
    assert found(model) == [("stages.0", 2), ("stages.1", 1)]


def test_a_class_that_is_called_attention_is_enough():
    class CrossAttention(nn.Module):
        pass

    class Odd(nn.Module):
        def __init__(self):
            super().__init__()
            self.mixer = CrossAttention()

    assert found(Model(Odd())) == [("blocks", 1)]


@pytest.mark.parametrize(
    ("name", "lists"),
    [
        ("DiTTransformer2DModel", ["transformer_blocks"]),
        ("FluxTransformer2DModel", ["transformer_blocks", "single_transformer_blocks"]),
        ("WanTransformer3DModel", ["blocks"]),
        ("ZImageTransformer2DModel", ["noise_refiner", "context_refiner", "layers"]),
    ],
)
def test_lists_of_diffusers_are_found_in_the_order_of_the_model(name, lists):
    model = TINY_TRANSFORMERS[name].build()
    assert [n for n, _ in found(model)] == lists


def test_arguments_are_the_same_by_position_and_by_keyword():
    parameters = Parameters(TextFirstBlock())
    x, text = torch.zeros(1), torch.ones(1)
    for args, kwargs in [
        ((x, text), {}),
        ((x,), {"encoder_hidden_states": text}),
        ((), {"encoder_hidden_states": text, "hidden_states": x}),
    ]:
        assert parameters.get("hidden_states", args, kwargs) is x
        assert parameters.get("encoder_hidden_states", args, kwargs) is text
        assert parameters.get("temb", args, kwargs) is None
        assert list(parameters.tensors(args, kwargs)) == ["hidden_states", "encoder_hidden_states"]


def test_arguments_that_the_signature_does_not_name_come_last():
    class Loose(nn.Module):
        def forward(self, hidden_states, **rest):
            return hidden_states

    parameters = Parameters(Loose())
    given = {"extra": torch.ones(1), "hidden_states": torch.zeros(1), "flag": True}
    assert list(parameters.tensors((), given)) == ["hidden_states", "extra"]
    assert parameters.get("extra", (), given) is given["extra"]


def test_a_replaced_forward_hides_no_argument():
    block = Block()
    block.forward = lambda *args, **kwargs: None
    assert Parameters(block).names == ("hidden_states", "temb")
