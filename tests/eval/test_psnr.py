# SPDX-License-Identifier: Apache-2.0
import math

import numpy as np
import pytest
import torch

from genaccel.eval.psnr import psnr


def test_known_values() -> None:
    black = np.zeros((8, 8, 3), np.uint8)
    assert psnr(black, np.full_like(black, 255)) == 0.0
    assert psnr(black, black) == math.inf
    # An error of 1 everywhere: 20 log10(255).
    assert psnr(black, np.full_like(black, 1)) == pytest.approx(48.1308036, abs=1e-6)
    assert psnr(np.full_like(black, 1), black) == pytest.approx(48.1308036, abs=1e-6)


def test_tensors_give_the_value_of_arrays() -> None:
    random = np.random.default_rng(0)
    a, b = random.integers(0, 256, (2, 16, 16, 3), dtype=np.uint8)
    assert psnr(torch.from_numpy(a), torch.from_numpy(b)) == psnr(a, b)


def test_images_that_were_not_rounded_are_refused() -> None:
    image = np.zeros((4, 4, 3), np.uint8)
    with pytest.raises(TypeError, match="reconstruction must be of type uint8, got float32"):
        psnr(image, image.astype(np.float32))


@pytest.mark.parametrize("shape", [(4, 5, 3), (1, 4, 4, 3)])
def test_shapes_must_agree(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="same shape"):
        psnr(np.zeros((4, 4, 3), np.uint8), np.zeros(shape, np.uint8))


def test_empty_images_are_refused() -> None:
    with pytest.raises(ValueError, match="must not be empty"):
        psnr(np.zeros((0, 4, 3), np.uint8), np.zeros((0, 4, 3), np.uint8))


@pytest.mark.golden
def test_it_is_the_value_of_torchmetrics() -> None:
    functional = pytest.importorskip("torchmetrics.functional.image")
    random = np.random.default_rng(1)
    a, b = random.integers(0, 256, (2, 20, 30, 3), dtype=np.uint8)
    planes = [torch.from_numpy(image).permute(2, 0, 1)[None].double() for image in (b, a)]
    expected = functional.peak_signal_noise_ratio(*planes, data_range=255.0)
    assert psnr(a, b) == pytest.approx(float(expected), abs=1e-5)
