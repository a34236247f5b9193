# SPDX-License-Identifier: Apache-2.0
"""A method that needs no more than the features of blocks stands on binding and clock alone."""

import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))
from handmade_models import build, inputs, run, same
from tiny_pipeline import STEPS, build_pipeline, sample

from genaccel.hooks.clock import PipelineClock, TimestepClock
from genaccel.hooks.features import FeatureTap
from genaccel.hooks.pipeline_runs import PipelineRuns


def test_it_sees_what_blocks_return_and_changes_nothing():
    model = build()
    plain = run(model, 3)
    expected = []
    handle = model.blocks[1].register_forward_hook(lambda m, a, output: expected.append(output))
    run(model, 3)
    handle.remove()
    seen = []
    tap = FeatureTap(model, TimestepClock(model, 3), [1, -1], lambda *call: seen.append(call))
    assert same(run(model, 3), plain)
    assert [tick.step for tick, _ in seen] == [0, 1, 2]
    assert same([features[1] for _, features in seen], expected)
    assert set(seen[0][1]) == {1, 2}
    tap.detach()
    assert same(run(model, 3), plain)
    assert len(seen) == 3
    assert "forward" not in vars(model)


def test_it_sees_what_blocks_take_if_asked_for():
    model = build()
    expected = []
    handle = model.blocks[1].register_forward_pre_hook(lambda m, args: expected.append(args[0]))
    run(model, 2)
    handle.remove()
    seen = []
    observer = lambda tick, taken: seen.append(taken)  # noqa: E731
    tap = FeatureTap(model, TimestepClock(model, 2), [1], observer, inputs=True)
    run(model, 2)
    tap.detach()
    assert same([taken[1] for taken in seen], expected)


def test_in_a_pipeline_it_sees_the_runs_of_that_pipeline_and_no_other_calls():
    pipeline = build_pipeline()
    runs, seen = PipelineRuns.of(pipeline), []
    tap = FeatureTap(
        pipeline.transformer,
        PipelineClock(runs),
        [0],
        lambda tick, _: seen.append((tick.step, tick.num_steps)),
    )
    sample(pipeline)
    with torch.no_grad():
        pipeline.transformer(
            torch.ones(1, 4, 8, 8), timestep=torch.tensor([1]), class_labels=torch.tensor([1])
        )
    assert seen == [(step, STEPS) for step in range(STEPS)]
    tap.detach()
    runs.release()
    assert type(pipeline).__call__.__qualname__ == "DiTPipeline.__call__"
    assert "_genaccel_runs" not in vars(pipeline)


def test_a_block_that_is_not_there_is_refused_and_the_model_left_alone():
    model = build()
    with pytest.raises(ValueError, match="blocks must be from 0 to 2, got 3"):
        FeatureTap(model, TimestepClock(model, 3), [3], lambda *call: None)
    assert "_diffusers_hook" not in vars(model)
    with torch.no_grad():
        model(*inputs(0))
