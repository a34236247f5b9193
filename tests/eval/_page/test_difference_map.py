# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest

from genaccel.eval._page.difference_map import (
    SCALE_COLOURS,
    amplification_for,
    coloured,
    differences,
    peak_of,
)


def test_differences_are_absolute_and_of_the_worst_channel() -> None:
    random = np.random.default_rng(0)
    a, b = random.integers(0, 256, (2, 9, 13, 3), dtype=np.uint8)
    expected = np.abs(a.astype(int) - b.astype(int)).max(axis=2)
    assert np.array_equal(differences(a, b), expected)
    assert np.array_equal(differences(b, a), expected)


@pytest.mark.parametrize(
    ("peaks", "amplification"), [([], 64), ([0], 64), ([3], 64), ([4, 8], 16), ([255, 1], 1)]
)
def test_the_scale_is_a_power_of_two_that_the_highest_peak_fits_on(
    peaks: list[float], amplification: int
) -> None:
    assert amplification_for(peaks) == amplification


def test_a_single_pixel_does_not_set_the_scale() -> None:
    map_ = np.zeros((20, 20), np.uint8)
    map_[3, 4] = 255
    assert peak_of(map_) == 0
    map_[:2] = 255
    assert peak_of(map_) == 255


def test_colours_run_from_the_first_to_the_last_and_get_lighter() -> None:
    ramp = np.arange(256, dtype=np.uint8)[None]
    pixels = np.asarray(coloured(ramp, 1))[0].astype(float)
    assert tuple(pixels[0]) == SCALE_COLOURS[0]
    assert tuple(pixels[255]) == SCALE_COLOURS[-1]
    lightness = pixels @ [0.2126, 0.7152, 0.0722]
    assert (np.diff(lightness) > -0.5).all()
    amplified = np.asarray(coloured(ramp, 8))[0]
    assert np.array_equal(amplified[32:], np.broadcast_to(SCALE_COLOURS[-1], (224, 3)))
    assert np.array_equal(amplified[10], pixels[80])
