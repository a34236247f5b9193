# SPDX-License-Identifier: Apache-2.0
import functools

import pytest
import torch

import genaccel
from genaccel.sampling.distances import mean_psnr
from genaccel.sampling.side_by_side import sheet, side_by_side
from genaccel.sensitivity.config import SensitivityConfig


def test_sides_are_what_they_say(pipeline, calls, sample):
    before = sample(pipeline)
    enable = functools.partial(genaccel.enable, config=SensitivityConfig(speedup=2.0))
    distances = iter((0.1, 0.3, 0.5, 0.9))

    def distance(a, b):
        assert a.shape == b.shape
        return next(distances)

    plain, fast, fewer = side_by_side(
        pipeline, calls, {"speed-up 2": enable}, rounds=2, distance=distance
    )
    assert (plain.steps, plain.speedup, plain.psnr, plain.distance) == (8, 1.0, None, None)
    assert len(plain.images) == len(fast.images) == len(fewer.images) == 2
    assert fast.flop_ratio >= 2.0
    assert fast.name == "speed-up 2"
    assert fast.psnr == mean_psnr(fast.images, plain.images)
    assert (fast.distance, fewer.distance) == pytest.approx((0.2, 0.7))
    assert "schedule" in fast.report
    assert fewer.steps == min(8, max(1, round(8 / fast.speedup)))
    assert fewer.flop_ratio == 8 / fewer.steps
    assert torch.equal(sample(pipeline), before)  # nothing is left attached


def test_without_calls_or_steps_there_is_nothing_to_compare(pipeline, calls):
    with pytest.raises(ValueError, match="at least one generation"):
        side_by_side(pipeline, [], {"fast": genaccel.enable})
    del calls[0]["num_inference_steps"]
    with pytest.raises(ValueError, match="say their num_inference_steps"):
        side_by_side(pipeline, calls, {})


def test_the_sheet_has_a_row_a_side(pipeline, calls):
    sides = side_by_side(pipeline, calls, {})
    drawn = sheet(sides)
    height = sides[0].images[0].shape[0]
    assert drawn.height == 8 + (height * -(-192 // height) + 8)
    with pytest.raises(ValueError, match="at least one, got none"):
        sheet([])
