# SPDX-License-Identifier: Apache-2.0
from pathlib import Path

import numpy as np
import pytest
from hand_made_images import LINEAR, icc, png
from PIL import Image

from genaccel.errors import UnsupportedImageError
from genaccel.eval.held_out import held_out_photographs
from genaccel.eval.images import decoding_workers, load_image


def test_few_pairs_need_no_workers() -> None:
    assert decoding_workers(10) == 0
    assert 1 <= decoding_workers(1000) <= 8


def test_what_is_judged_is_what_the_file_shows(tmp_path: Path) -> None:
    picture = Image.new("RGB", (6, 4), (55, 55, 55))
    exif = Image.Exif()
    exif[0x0112] = 6
    picture.save(tmp_path / "a.png", exif=exif, icc_profile=icc("sRGB linear", curve=LINEAR))
    image = load_image(tmp_path / "a.png")
    assert image.pixels.shape == (6, 4, 3)
    assert abs(int(image.pixels[0, 0, 0]) - 128) <= 1
    hdr = png(np.zeros((1, 1, 3)), chunks=[(b"cICP", bytes((9, 16, 0, 1)))])
    (tmp_path / "b.png").write_bytes(hdr.getvalue())
    for convert in (False, True):
        with pytest.raises(UnsupportedImageError, match="tone-map it first"):
            load_image(tmp_path / "b.png", convert=convert)


def test_the_held_out_photographs_are_samples_as_they_are_stored() -> None:
    """The figures of every report were measured on them; one is in Adobe RGB."""
    skimage = pytest.importorskip("skimage")
    stored = Image.open(Path(skimage.__file__).parent / "data/rocket.jpg")
    assert stored.info["icc_profile"]
    np.testing.assert_array_equal(held_out_photographs()["rocket"], np.asarray(stored))
