# SPDX-License-Identifier: Apache-2.0
import math

import numpy as np
import pytest

from genaccel.eval._pairs.luma import luma
from genaccel.eval.psnr import psnr, psnr_of_luma, psnr_of_mean_error
from genaccel.eval.ssim import ssim_of_luma

BLACK, WHITE = np.zeros((16, 16, 3), np.uint8), np.full((16, 16, 3), 255, np.uint8)


def test_it_is_the_luma_of_bt_601_and_of_rgb2ycbcr() -> None:
    colours = {
        (0, 0, 0): 16.0,
        (255, 255, 255): 235.0,
        (255, 0, 0): 81.481,
        (0, 255, 0): 144.553,
        (0, 0, 255): 40.966,
    }
    found = luma(np.array([list(colours)], np.uint8))
    np.testing.assert_allclose(found[0], list(colours.values()), atol=1e-9)
    # ITU-R BT.601-7, 2.5: Y' = 0.299 R' + 0.587 G' + 0.114 B', in 219 steps from 16.
    image = np.random.default_rng(0).integers(0, 256, (9, 7, 3), dtype=np.uint8)
    definition = 16 + 219 * (image / 255.0 @ np.array([0.299, 0.587, 0.114]))
    np.testing.assert_allclose(luma(image), definition, atol=1e-9)


@pytest.mark.golden
def test_it_is_the_conversion_of_scikit_image() -> None:
    color = pytest.importorskip("skimage.color")
    image = np.random.default_rng(0).integers(0, 256, (9, 7, 3), dtype=np.uint8)
    np.testing.assert_allclose(luma(image), color.rgb2ycbcr(image)[..., 0], atol=1e-9)


@pytest.mark.golden
def test_values_are_those_of_scikit_image() -> None:
    metrics = pytest.importorskip("skimage.metrics")
    color = pytest.importorskip("skimage.color")
    random = np.random.default_rng(0)
    a = random.integers(0, 200, (24, 32, 3), dtype=np.uint8)
    b = a + random.integers(0, 40, a.shape, dtype=np.uint8)
    planes = [color.rgb2ycbcr(image)[..., 0] for image in (a, b)]
    assert psnr_of_luma(a, b) == pytest.approx(
        metrics.peak_signal_noise_ratio(*planes, data_range=255), rel=1e-12
    )
    _, whole = metrics.structural_similarity(
        *planes,
        gaussian_weights=True,
        sigma=1.5,
        use_sample_covariance=False,
        data_range=255,
        full=True,
    )
    # Full windows only, as everywhere here.
    assert ssim_of_luma(a, b) == pytest.approx(whole[5:-5, 5:-5].mean(), rel=1e-6)


def test_known_values() -> None:
    assert psnr_of_luma(BLACK, WHITE) == pytest.approx(20 * math.log10(255 / 219))
    assert psnr_of_luma(BLACK, BLACK) == math.inf
    assert ssim_of_luma(WHITE, WHITE) == pytest.approx(1)
    with pytest.raises(ValueError, match="same shape"):
        psnr_of_luma(BLACK, WHITE[:8])
    with pytest.raises(ValueError, match="must not be empty"):
        psnr_of_luma(BLACK[:0], BLACK[:0])


def test_the_mean_error_is_that_of_the_images() -> None:
    random = np.random.default_rng(0)
    originals = random.integers(0, 256, (3, 8, 8, 3), dtype=np.uint8)
    others = originals.copy()
    others[1] = random.integers(0, 256, (8, 8, 3))
    others[2] //= 2
    values = [psnr(a, b) for a, b in zip(originals, others, strict=True)]
    assert psnr_of_mean_error(values) == pytest.approx(psnr(originals, others), rel=1e-12)
    assert psnr_of_mean_error([math.inf, math.inf]) == math.inf
