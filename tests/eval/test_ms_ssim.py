# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from genaccel.eval.held_out import held_out_photographs
from genaccel.eval.ms_ssim import ms_ssim, ms_ssim_of_images


@pytest.fixture(scope="module")
def chelsea() -> NDArray[np.uint8]:
    return held_out_photographs()["chelsea"]


# Computed with pytorch-msssim 1.0.0 in double precision.
@pytest.mark.golden
@pytest.mark.parametrize(
    ("distortion", "expected"),
    [
        ("quantised", 0.9338897092),
        ("shifted", 0.9618060600),
        ("darker", 0.8210688426),
        ("mirrored", 0.0689108155),
        ("negative", 0.0),
    ],
)
def test_values_of_the_reference(
    chelsea: NDArray[np.uint8], distortion: str, expected: float
) -> None:
    distorted = {
        "quantised": chelsea // 32 * 32 + 16,
        "shifted": np.roll(chelsea, 1, 1),
        "darker": chelsea // 2,
        "mirrored": chelsea[:, ::-1].copy(),
        "negative": 255 - chelsea,
    }[distortion]
    assert ms_ssim_of_images(chelsea, distorted) == pytest.approx(expected, abs=1e-5)
    assert ms_ssim_of_images(chelsea, chelsea) == pytest.approx(1.0, abs=1e-6)


@pytest.mark.parametrize("size", [(161, 161), (200, 301), (257, 190)])
def test_batches_equal_pytorch_msssim(size: tuple[int, int]) -> None:
    reference = pytest.importorskip("pytorch_msssim", reason="pytorch-msssim is not installed")
    torch.manual_seed(0)
    a = torch.rand(2, 3, *size, dtype=torch.float64)
    b = (a + 0.1 * torch.randn_like(a)).clamp(0, 1)
    expected = reference.ms_ssim(a, b, data_range=1.0, size_average=False)
    torch.testing.assert_close(ms_ssim(a, b, data_range=1.0), expected, rtol=0, atol=1e-6)


def test_it_can_be_optimised() -> None:
    torch.manual_seed(0)
    target = torch.rand(1, 3, 161, 161)
    image = (target + 0.2 * torch.randn_like(target)).requires_grad_()
    ms_ssim(image, target, data_range=1.0).sum().backward()
    assert image.grad is not None
    step = image.detach() + 0.1 * image.grad / image.grad.abs().max()
    assert ms_ssim(step, target, data_range=1.0) > ms_ssim(image.detach(), target, data_range=1.0)


def test_small_images_are_refused() -> None:
    with pytest.raises(ValueError, match="at least 161x161 pixels, got 161x160"):
        ms_ssim(torch.zeros(1, 3, 160, 161), torch.zeros(1, 3, 160, 161))
    with pytest.raises(ValueError, match="same shape"):
        ms_ssim(torch.zeros(1, 3, 170, 170), torch.zeros(1, 3, 170, 171))
