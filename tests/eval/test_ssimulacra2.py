# SPDX-License-Identifier: Apache-2.0
import io
import sys
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from genaccel.eval.held_out import held_out_photographs
from genaccel.eval.ssimulacra2 import ssimulacra2_of_images

package = pytest.importorskip("ssimulacra2", reason="ssimulacra2 is not installed")


@pytest.fixture(scope="module")
def chelsea() -> NDArray[np.uint8]:
    return held_out_photographs()["chelsea"]


def _jpeg(image: NDArray[np.uint8], quality: int) -> NDArray[np.uint8]:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=quality)
    return np.array(Image.open(buffer))


# Computed with ssimulacra2 0.3.0 on PNG files, with the JPEG encoder of Pillow.
@pytest.mark.golden
@pytest.mark.parametrize(
    ("quality", "expected"), [(95, 90.61), (75, 77.02), (50, 66.71), (25, 47.32), (10, -4.88)]
)
def test_values_of_the_package(chelsea: NDArray[np.uint8], quality: int, expected: float) -> None:
    value = ssimulacra2_of_images(chelsea, _jpeg(chelsea, quality))
    assert value == pytest.approx(expected, abs=0.2)


def test_images_in_memory_have_the_value_of_files(
    chelsea: NDArray[np.uint8], tmp_path: Path
) -> None:
    original = chelsea[:64, :93]
    distorted = _jpeg(original, 40)
    paths = [tmp_path / "original.png", tmp_path / "distorted.png"]
    for path, image in zip(paths, (original, distorted), strict=True):
        Image.fromarray(image).save(path)
    expected = package.compute_ssimulacra2(*paths)
    assert ssimulacra2_of_images(original, distorted) == expected
    # Which of the two is the original matters.
    assert abs(ssimulacra2_of_images(distorted, original) - expected) > 0.1


def test_equal_images_score_100(chelsea: NDArray[np.uint8]) -> None:
    crop = chelsea[10:74, 20:91]
    assert ssimulacra2_of_images(crop, crop) == 100.0


def test_the_smallest_image(chelsea: NDArray[np.uint8]) -> None:
    crop = chelsea[100:108, 200:208]
    assert ssimulacra2_of_images(crop, 255 - crop) < 100.0
    with pytest.raises(ValueError, match="at least 8x8 pixels, got 8x7"):
        ssimulacra2_of_images(crop[1:], crop[1:])


def test_bad_images_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    image = np.zeros((16, 16, 3), np.uint8)
    with pytest.raises(ValueError, match="same shape"):
        ssimulacra2_of_images(image, image[:15])
    with pytest.raises(ValueError, match=r"original must be \[H, W, 3\] of type uint8"):
        ssimulacra2_of_images(image[..., 0], image[..., 0])
    with pytest.raises(ValueError, match=r"reconstruction must be .*float64"):
        ssimulacra2_of_images(image, image.astype(np.float64))  # type: ignore[arg-type]
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)  # Pillow refuses twice as much
    with pytest.raises(ValueError, match="too large for SSIMULACRA2"):
        ssimulacra2_of_images(image, image)


def test_a_missing_package_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    image = np.zeros((16, 16, 3), np.uint8)
    monkeypatch.setitem(sys.modules, "ssimulacra2", None)
    with pytest.raises(ImportError, match=r"needs ssimulacra2: pip install 'genaccel\[eval\]'"):
        ssimulacra2_of_images(image, image)
