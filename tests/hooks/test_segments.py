# SPDX-License-Identifier: Apache-2.0
"""What is learned from one call about how states flow through the blocks."""

import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))
import handmade_models as handmade
from handmade_models import build, run, same
from scripted import attach


def learn(model, **options):
    engine = attach(model, [1, 1, 0], **options)
    run(model, 1)
    return engine


def names(engine):
    return [segment.name for segment in engine.segments]


@pytest.mark.parametrize("model_class", [handmade.Model, handmade.KeywordModel])
def test_blocks_in_a_row_are_one_segment(model_class):
    engine = learn(build(model_class))
    assert names(engine) == ["blocks[0:3]"]
    assert engine.segments[0].entries == ("hidden_states",)
    assert engine.left_out == []


@pytest.mark.parametrize(
    ("count", "max_blocks", "expected"),
    [
        (5, 2, ["blocks[0:2]", "blocks[2:4]", "blocks[4:5]"]),
        (3, 1, ["blocks[0:1]", "blocks[1:2]", "blocks[2:3]"]),
        (3, 3, ["blocks[0:3]"]),
        (3, 9, ["blocks[0:3]"]),
    ],
)
def test_long_runs_are_cut(count, max_blocks, expected):
    assert names(learn(build(count=count), max_blocks=max_blocks)) == expected


def test_every_segment_knows_its_flops():
    engine = learn(build(), max_blocks=1)
    linear = 2 * 4 * handmade.WIDTH**2
    assert [segment.flops for segment in engine.segments] == [linear] * 3
    assert engine.total_flops == 5 * linear


@pytest.mark.parametrize(
    ("model_class", "block_class", "entries"),
    [
        (
            handmade.TwoStreamModel,
            handmade.TextFirstBlock,
            ("encoder_hidden_states", "hidden_states"),
        ),
        (
            handmade.ImageFirstModel,
            handmade.ImageFirstBlock,
            ("hidden_states", "encoder_hidden_states"),
        ),
    ],
)
def test_two_streams_are_told_apart_in_either_order(model_class, block_class, entries):
    model = build(model_class, block_class)
    plain = run(model, 3)
    engine = learn(model)
    assert names(engine) == ["blocks[0:3]"]
    assert engine.segments[0].entries == entries
    assert_forecast_is_close(engine, plain)


def test_two_streams_of_one_shape_are_told_apart_by_the_next_block():
    class Model(handmade.ImageFirstModel):
        def forward(self, hidden_states, timestep):
            return super().forward(hidden_states[:, :2], timestep)

    class Block(handmade.ImageFirstBlock):
        # The signature suggests the other order.
        def forward(self, encoder_hidden_states, hidden_states, temb):
            return super().forward(hidden_states, encoder_hidden_states, temb)

    engine = learn(build(Model, Block))
    assert names(engine) == ["blocks[0:3]"]
    assert engine.segments[0].entries == ("hidden_states", "encoder_hidden_states")


def test_a_last_block_without_text_joins_no_run_that_ends_in_text():
    torch.manual_seed(0)
    model = handmade.TwoStreamModel(
        handmade.TextFirstBlock(), handmade.TextFirstBlock(), handmade.LastTextBlock()
    ).eval()
    plain = run(model, 3)
    engine = learn(model)
    assert engine.left_out == []
    assert sum(len(segment.blocks) for segment in engine.segments) == 3
    assert engine.segments[-1].layouts[-1].absent == (True, False)
    assert_forecast_is_close(engine, plain)


def test_blocks_that_change_their_argument_in_place_are_left_out():
    model = build(block_class=handmade.InPlaceBlock)
    plain = run(model, 3)
    engine = learn(model)
    assert engine.segments == []
    assert all("in place" in reason for reason in engine.left_out)
    engine.clock.count = 0
    assert same(plain, run(model, 3))


def test_blocks_that_return_more_than_tensors_are_left_out():
    torch.manual_seed(0)
    engine = learn(handmade.Model(handmade.NumberBlock(), handmade.Block()))
    assert names(engine) == ["blocks[1:2]"]
    assert engine.left_out == [
        "blocks[0] changes its arguments in place or returns something else than tensors"
    ]


def test_blocks_that_are_called_twice_are_left_out():
    model = build(handmade.TwiceModel)
    plain = run(model, 3)
    engine = learn(model)
    assert engine.segments == []
    assert engine.left_out[0] == "blocks[0] is called 2 times a step"
    engine.clock.count = 0
    assert same(plain, run(model, 3))


def test_one_block_in_several_places_is_left_out():
    torch.manual_seed(0)
    shared = handmade.Block()
    model = handmade.Model(shared, handmade.Block(), shared)
    plain = run(model, 3)
    engine = learn(model)
    assert names(engine) == ["blocks[1:2]"]
    assert "2 times" in engine.left_out[0]
    assert_forecast_is_close(engine, plain)


def test_states_that_the_model_changes_between_blocks_end_a_segment():
    model = build(handmade.ResidualModel)
    plain = run(model, 3)
    engine = learn(model)
    assert names(engine) == ["blocks[0:1]", "blocks[1:2]", "blocks[2:3]"]
    assert_forecast_is_close(engine, plain)


def test_an_output_that_is_used_later_ends_a_segment():
    model = build(handmade.SkippingModel, handmade.SkipBlock, 4)
    plain = run(model, 3)
    engine = learn(model)
    assert names(engine) == ["blocks[0:1]", "blocks[1:4]"]
    assert_forecast_is_close(engine, plain)


def test_states_that_continue_nothing_are_forecast_whole_and_safe_from_the_model():
    class Model(handmade.Model):
        def forward(self, hidden_states, timestep):
            x = self.blocks[0](self.proj_in(hidden_states), self.embed(timestep))
            x += 1.0  # would change what is kept, were it the same tensor
            return self.proj_out(x)

    model = build(Model, handmade.ShrinkingBlock, 1)
    engine = attach(model, [1, 0, 0], history=1)
    outputs = run(model, 3)
    assert engine.segments[0].entries == (None,)
    # What is forecast from one step alone is that step again.
    assert same(outputs, [outputs[0]] * 3)


def test_nan_in_the_first_call_hides_no_block():
    model = build()
    engine = attach(model, [1, 0])
    with torch.no_grad():
        for _ in range(2):
            output = model(torch.full((1, 4, handmade.WIDTH), float("nan")), torch.zeros(1))
    assert output.isnan().all()
    assert names(engine) == ["blocks[0:3]"]
    assert engine.left_out == []


def test_blocks_that_a_call_leaves_out_are_named():
    class Model(handmade.Model):
        def forward(self, hidden_states, timestep):
            x, temb = self.proj_in(hidden_states), self.embed(timestep)
            return self.proj_out(self.blocks[0](x, temb))

    assert learn(build(Model)).left_out == ["blocks[1] was not called", "blocks[2] was not called"]


def assert_forecast_is_close(engine, plain):
    """The third step, extrapolated from two, is nearer to the truth than the second is."""
    engine.clock.count = 0
    engine.reset()
    outputs = run(engine.model, 3)
    assert engine.records[-1].computed == (False,) * len(engine.segments)
    assert same(outputs[:2], plain[:2])
    error = (outputs[2] - plain[2]).norm()
    assert 0 < error < 0.5 * (plain[2] - plain[1]).norm()
