# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from genaccel.eval.held_out import held_out_photographs
from genaccel.eval.ms_ssim import ms_ssim
from genaccel.eval.ssim import ssim, ssim_of_images

# Values are in [-1, 1]; the references compute in double precision too.
TOLERANCE = 1e-6


@pytest.fixture(scope="module")
def chelsea() -> NDArray[np.uint8]:
    return held_out_photographs()["chelsea"]


def _distorted(image: NDArray[np.uint8], distortion: str) -> NDArray[np.uint8]:
    return {
        "quantised": image // 32 * 32 + 16,
        "shifted": np.roll(image, 1, 1),
        "darker": image // 2,
        "mirrored": image[:, ::-1].copy(),
        "negative": 255 - image,
    }[distortion]


@pytest.mark.parametrize("distortion", ["quantised", "shifted", "darker", "mirrored", "negative"])
def test_values_of_scikit_image(chelsea: NDArray[np.uint8], distortion: str) -> None:
    metrics = pytest.importorskip("skimage.metrics", reason="scikit-image is not installed")
    distorted = _distorted(chelsea, distortion)
    expected = metrics.structural_similarity(
        chelsea.astype(np.float64),
        distorted.astype(np.float64),
        channel_axis=2,
        data_range=255.0,
        gaussian_weights=True,
        use_sample_covariance=False,
        sigma=1.5,
    )
    assert ssim_of_images(chelsea, distorted) == pytest.approx(expected, abs=TOLERANCE)


@pytest.mark.parametrize("size", [(11, 11), (12, 40), (64, 64), (75, 33)])
def test_batches_equal_pytorch_msssim(size: tuple[int, int]) -> None:
    reference = pytest.importorskip("pytorch_msssim", reason="pytorch-msssim is not installed")
    a = torch.rand(3, 3, *size, dtype=torch.float64)
    b = (a + 0.2 * torch.randn_like(a)).clamp(0, 1)
    expected = reference.ssim(a, b, data_range=1.0, size_average=False)
    torch.testing.assert_close(ssim(a, b, data_range=1.0), expected, rtol=0, atol=TOLERANCE)


def _torchmetrics_ssim(a: Tensor, b: Tensor) -> Tensor:
    """SSIM of torchmetrics by channel; it also counts windows over reflected borders, which are cut off."""
    reference = pytest.importorskip(
        "torchmetrics.functional.image", reason="torchmetrics is not installed"
    )
    _, full = reference.structural_similarity_index_measure(
        b, a, data_range=1.0, sigma=1.5, kernel_size=11, reduction="none", return_full_image=True
    )
    values: Tensor = full[:, :, 5:-5, 5:-5].mean((2, 3))
    return values


@pytest.mark.parametrize("size", [(17, 17), (64, 48), (75, 33)])
def test_batches_equal_torchmetrics(size: tuple[int, int]) -> None:
    a = torch.rand(3, 3, *size, dtype=torch.float64)
    b = (a + 0.2 * torch.randn_like(a)).clamp(0, 1)
    expected = _torchmetrics_ssim(a, b).mean(1)
    torch.testing.assert_close(ssim(a, b, data_range=1.0), expected, rtol=0, atol=TOLERANCE)


def test_the_shared_windows_give_the_ms_ssim_of_torchmetrics() -> None:
    # One channel and even sides: torchmetrics averages channels first, and drops odd borders.
    a = torch.rand(2, 1, 176, 192, dtype=torch.float64)
    b = (a + 0.5 * torch.randn_like(a)).clamp(0, 1)
    coarsest = _torchmetrics_ssim(F.avg_pool2d(a, 16), F.avg_pool2d(b, 16)).flatten()
    from torchmetrics.functional.image import multiscale_structural_similarity_index_measure

    finer = multiscale_structural_similarity_index_measure(
        b,
        a,
        data_range=1.0,
        betas=(0.0448, 0.2856, 0.3001, 0.2363, 0.0),
        normalize="relu",
        reduction="none",
    )
    expected = finer * coarsest**0.1333
    torch.testing.assert_close(ms_ssim(a, b, data_range=1.0), expected, rtol=0, atol=TOLERANCE)


def test_images_and_batches_agree(chelsea: NDArray[np.uint8]) -> None:
    distorted = _distorted(chelsea, "quantised")
    planes = [torch.tensor(image).permute(2, 0, 1) for image in (chelsea, distorted)]
    batch = ssim(torch.stack(planes), torch.stack(planes[::-1]))  # uint8, as they are
    assert batch.dtype == torch.float32
    value = ssim_of_images(chelsea, distorted)
    torch.testing.assert_close(batch, torch.full((2,), value), rtol=0, atol=1e-4)
    assert ssim_of_images(chelsea, chelsea) == 1.0


def test_it_can_be_optimised() -> None:
    target = torch.rand(1, 3, 24, 24)
    image = (target + 0.2 * torch.randn_like(target)).requires_grad_()
    ssim(image, target, data_range=1.0).sum().backward()
    assert image.grad is not None
    step = image.detach() + 0.1 * image.grad / image.grad.abs().max()
    assert ssim(step, target, data_range=1.0) > ssim(image.detach(), target, data_range=1.0)


def test_bad_images_are_refused() -> None:
    with pytest.raises(ValueError, match="SSIM needs images of at least 11x11 pixels, got 12x10"):
        ssim(torch.zeros(1, 3, 10, 12), torch.zeros(1, 3, 10, 12))
    with pytest.raises(ValueError, match="same shape"):
        ssim(torch.zeros(1, 3, 17, 17), torch.zeros(1, 3, 17, 16))
    with pytest.raises(ValueError, match="same shape"):
        ssim_of_images(np.zeros((16, 16, 3), np.uint8), np.zeros((16, 17, 3), np.uint8))
