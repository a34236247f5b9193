# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest
import torch

from genaccel.eval._pairs.image_tensors import to_unit_range
from genaccel.eval.held_out import held_out_photographs
from genaccel.eval.st_lpips import StLpipsOfImages
from genaccel.models.st_lpips import StLpips


def test_images_are_scaled_to_the_range_of_the_metric() -> None:
    image = np.array([[[0, 255, 51]]], np.uint8)
    torch.testing.assert_close(to_unit_range(image).flatten(), torch.tensor([-1.0, 1.0, -0.6]))


def test_reused_features_give_the_same_distance() -> None:
    torch.manual_seed(0)
    metric = StLpips("alex").requires_grad_(False)
    of_images = StLpipsOfImages(metric)
    photographs = held_out_photographs()
    first, second = photographs["chelsea"][:64, :64], photographs["coffee"][:64, :64]
    # The original changes in place too: what counts are its pixels.
    changing = first.copy()
    for original, other in ((changing, second), (changing, first), (second, first)):
        expected = metric(to_unit_range(original), to_unit_range(other)).item()
        assert of_images(original, other) == pytest.approx(expected, rel=1e-5)
        changing[:] = changing[::-1].copy()


def test_shapes_must_agree() -> None:
    of_images = StLpipsOfImages(StLpips("alex").requires_grad_(False))
    with pytest.raises(ValueError, match="same shape"):
        of_images(np.zeros((32, 32, 3), np.uint8), np.zeros((32, 33, 3), np.uint8))
