# SPDX-License-Identifier: Apache-2.0
import math

import pytest
import torch
from torch.nn import functional

from genaccel.speculative_sr.degradation import (
    Degradation,
    DegradationConfig,
    blur_kernel,
    filtered,
    sinc_kernel,
)

FULL = DegradationConfig(strength=1.0, clean=0.0)


def picture(side=64, seed=0):
    coarse = torch.rand(1, 3, side // 8, side // 8, generator=torch.Generator().manual_seed(seed))
    return functional.interpolate(coarse, (side, side), mode="bicubic").clamp(0, 1)[0]


def test_what_is_done_is_a_pure_function_of_the_number():
    x = picture()
    degrade = Degradation(FULL, seed=3)
    forwards = [degrade(x, n) for n in range(24)]
    torch.manual_seed(99)
    again = Degradation(FULL, seed=3)
    for n in reversed(range(24)):
        assert torch.equal(again(x, n), forwards[n])
    assert len({tuple(small.flatten().tolist()) for small in forwards}) == 24
    other = Degradation(FULL, seed=4)
    assert not any(torch.equal(other(x, n), forwards[n]) for n in range(24))


def test_the_result_has_a_quarter_of_the_size_in_8_bits():
    for config in (FULL, DegradationConfig(), DegradationConfig(clean=1.0)):
        for n in range(12):
            small = Degradation(config)(torch.rand(3, 40, 64), n)
            assert small.shape == (3, 10, 16)
            assert small.min() >= 0
            assert small.max() <= 1
            torch.testing.assert_close(small * 255, (small * 255).round(), rtol=0, atol=1e-4)


def test_more_strength_loses_more_and_none_only_reduces():
    x = picture(128)
    reduced = functional.interpolate(x[None], (32, 32), mode="bicubic", antialias=True)[0]

    def error(strength):
        degrade = Degradation(DegradationConfig(strength=strength, clean=0.0))
        return sum(float((degrade(x, n) - reduced).square().mean()) for n in range(40)) / 40

    assert error(0.0) < 1e-5
    assert error(0.0) < error(0.25) < error(1.0)


def test_as_many_pictures_are_clean_as_asked_for():
    x = picture()
    clean = Degradation(DegradationConfig(clean=1.0))(x, 0)
    degrade = Degradation(DegradationConfig(strength=1.0, clean=0.3), seed=1)
    share = sum(torch.equal(degrade(x, n), clean) for n in range(200)) / 200
    assert abs(share - 0.3) < 0.1


@pytest.mark.parametrize("side", [7, 21])
def test_kernels_sum_to_one_and_look_alike_from_behind(side):
    kernels = [sinc_kernel(side, math.pi / 3)]
    kernels += [
        blur_kernel(side, (2.0, 0.7), 0.4, s, 1.5) for s in ("gaussian", "generalized", "plateau")
    ]
    for kernel in kernels:
        assert kernel.shape == (side, side)
        torch.testing.assert_close(kernel.sum(), torch.tensor(1.0))
        torch.testing.assert_close(kernel, kernel.flip(0, 1))


def test_the_gaussian_kernel_is_that_of_its_deviations():
    kernel = blur_kernel(21, (2.0, 1.0), 0.0, "gaussian", 1.0).double()
    places = torch.arange(21.0) - 10
    assert abs(float((kernel.sum(0) * places**2).sum()) - 4) < 0.01  # along x
    assert abs(float((kernel.sum(1) * places**2).sum()) - 1) < 0.01
    turned = blur_kernel(21, (2.0, 1.0), math.pi / 2, "gaussian", 1.0)
    torch.testing.assert_close(turned, kernel.float().T, rtol=0, atol=1e-6)


@pytest.mark.parametrize(("height", "width"), [(33, 40), (9, 50)])
def test_filtering_by_spectra_is_a_convolution(height, width):
    x = torch.rand(2, 3, height, width)
    kernel = blur_kernel(21, (3.0, 1.0), 0.3, "plateau", 1.5)
    mode = "reflect" if min(height, width) > 10 else "replicate"
    padded = functional.pad(x, (10, 10, 10, 10), mode=mode).flatten(0, 1)[:, None]
    expected = functional.conv2d(padded, kernel[None, None]).reshape(x.shape)
    torch.testing.assert_close(filtered(x, kernel), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("shape", [(1, 64, 64), (3, 62, 64), (3, 8, 64), (1, 3, 64, 64)])
def test_pictures_of_other_shapes_are_refused(shape):
    with pytest.raises(ValueError, match="sides that are multiples of 4 and at least 16"):
        Degradation(FULL)(torch.zeros(shape), 0)


def test_shares_are_shares():
    with pytest.raises(ValueError, match=r"strength must be in \[0, 1\]"):
        DegradationConfig(strength=1.5)
    with pytest.raises(ValueError, match=r"clean must be in \[0, 1\]"):
        DegradationConfig(clean=-0.1)
