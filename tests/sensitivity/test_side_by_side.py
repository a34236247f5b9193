# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest
import torch

from genaccel.sensitivity.config import SensitivityConfig
from genaccel.sensitivity.side_by_side import sheet, side_by_side
from genaccel.sensitivity.study.tune import image_psnr


def test_sides_are_what_they_say(pipeline, calls, sample):
    before = sample(pipeline)
    config = SensitivityConfig(speedup=2.0)
    distances = iter((0.1, 0.3, 0.5, 0.9))

    def distance(a, b):
        assert a.shape == b.shape
        return next(distances)

    plain, fast, fewer = side_by_side(pipeline, calls, [config], rounds=2, distance=distance)
    assert (plain.steps, plain.speedup, plain.psnr, plain.st_lpips) == (8, 1.0, None, None)
    assert len(plain.images) == len(fast.images) == len(fewer.images) == 2
    assert fast.flop_ratio >= 2.0
    assert fast.psnr == pytest.approx(
        np.mean([image_psnr(a, b) for a, b in zip(fast.images, plain.images, strict=True)])
    )
    assert (fast.st_lpips, fewer.st_lpips) == pytest.approx((0.2, 0.7))
    assert "schedule" in fast.report
    assert fewer.steps == min(8, max(1, round(8 / fast.speedup)))
    assert fewer.flop_ratio == 8 / fewer.steps
    assert torch.equal(sample(pipeline), before)  # nothing is left attached


def test_without_calls_or_steps_there_is_nothing_to_compare(pipeline, calls):
    with pytest.raises(ValueError, match="at least one generation"):
        side_by_side(pipeline, [], [SensitivityConfig(speedup=2.0)])
    del calls[0]["num_inference_steps"]
    with pytest.raises(ValueError, match="say their steps"):
        side_by_side(pipeline, calls, [])


def test_the_sheet_has_a_row_a_side(pipeline, calls):
    sides = side_by_side(pipeline, calls, [])
    drawn = sheet(sides)
    height = sides[0].images[0].shape[0]
    assert drawn.height == 8 + (height * -(-192 // height) + 8)
    with pytest.raises(ValueError, match="at least one, got none"):
        sheet([])
