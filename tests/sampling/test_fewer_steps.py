# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest

from genaccel.sampling.fewer_steps import fewer_steps


def absolute(a, b):
    """Some distance of images."""
    return float(np.abs(a.astype(float) - b).mean())


def test_fewer_steps_take_as_long_as_the_plans(pipeline, calls):
    half, same, slower, most = fewer_steps(
        pipeline, calls, [2.0, 1.0, 0.5, 100.0], distance=absolute
    )
    assert [r.steps for r in (half, same, slower, most)] == [4, 8, 8, 1]
    assert same is slower
    assert same.distance == 0
    assert half.psnr < same.psnr
    with pytest.raises(ValueError, match="num_inference_steps"):
        fewer_steps(pipeline, [{"class_labels": [1]}], [2.0])
