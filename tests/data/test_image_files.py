# SPDX-License-Identifier: Apache-2.0
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from genaccel.data.image_files import find_images, read_rgb


def test_images_are_found_by_extension_in_path_order(tmp_path: Path) -> None:
    for name in ("b.PNG", "a/z.jpg", "a/y.webp", ".hidden/x.png", "notes.txt", "c.png/inner.jpeg"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")
    found = [path.relative_to(tmp_path).as_posix() for path in find_images(tmp_path)]
    assert found == ["a/y.webp", "a/z.jpg", "b.PNG", "c.png/inner.jpeg"]


def test_a_file_is_not_a_folder(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"")
    with pytest.raises(NotADirectoryError, match=r"a\.png"):
        find_images(tmp_path / "a.png")


def test_images_are_turned_upright(tmp_path: Path) -> None:
    pixels = np.zeros((4, 6, 3), np.uint8)
    pixels[0, 0] = 255
    exif = Image.Exif()
    exif[0x0112] = 6  # to be shown turned clockwise by a quarter
    Image.fromarray(pixels).save(tmp_path / "a.png", exif=exif)
    upright = read_rgb(tmp_path / "a.png")
    assert upright.shape == (6, 4, 3)
    np.testing.assert_array_equal(upright, np.rot90(pixels, -1))


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "1"])
def test_every_mode_becomes_rgb(tmp_path: Path, mode: str) -> None:
    Image.new(mode, (5, 3), 1).save(tmp_path / "a.png")
    image = read_rgb(tmp_path / "a.png")
    assert image.shape == (3, 5, 3)
    assert image.dtype == np.uint8
