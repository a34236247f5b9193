# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest

from genaccel.sampling.distances import Closeness, mean_psnr, psnr


def test_mean_psnr_of_equal_images_is_finite() -> None:
    image = np.zeros((4, 4, 3), dtype=np.uint8)
    one_off = image.copy()
    one_off[0, 0, 0] = 1
    assert mean_psnr([image], [image]) == pytest.approx(psnr(image, one_off))
    assert mean_psnr([image, image], [image + 1, one_off]) == pytest.approx(
        (psnr(image, image + 1) + psnr(image, one_off)) / 2
    )
    with pytest.raises(ValueError, match="zip"):
        mean_psnr([image], [image, image])


def test_closeness_has_the_means() -> None:
    image = np.zeros((4, 4, 3), dtype=np.uint8)
    distances = iter((0.1, 0.3))
    close = Closeness.of([image, image], [image + 1] * 2, lambda a, b: next(distances))
    assert close == Closeness(pytest.approx(48.13, abs=0.01), pytest.approx(0.2))
    assert Closeness.of([image], [image]).distance is None
