# SPDX-License-Identifier: Apache-2.0
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hand_made_images import LINEAR, icc, stored
from PIL import Image

from genaccel.errors import UnsupportedImageError
from genaccel.files.images import read_image
from genaccel.sampling.images import images_of, to_pixels


@pytest.mark.parametrize("kind", ["pil", "numpy", "tensor", "frames"])
def test_images_of_every_kind_of_output(kind):
    pixels = np.random.default_rng(0).integers(0, 256, (2, 6, 5, 3), dtype=np.uint8)
    if kind == "pil":
        output = SimpleNamespace(images=[Image.fromarray(p) for p in pixels])
    elif kind == "numpy":
        output = SimpleNamespace(images=pixels / 255)
    elif kind == "tensor":
        output = SimpleNamespace(images=torch.from_numpy(pixels / 255).movedim(-1, 1))
    else:
        output = SimpleNamespace(frames=[[Image.fromarray(p) for p in pixels]])
    np.testing.assert_array_equal(np.stack(images_of(output)), pixels)


def test_what_is_no_image_is_refused():
    with pytest.raises(ValueError, match="latents can't be compared"):
        images_of(SimpleNamespace(images=torch.zeros(1, 4, 8, 8)))
    with pytest.raises(ValueError, match="neither images nor frames"):
        images_of(SimpleNamespace())


def test_all_kinds_of_images_become_pixels():
    values = np.array([[[0, 51, 255], [255, 255, 0]]], np.uint8)  # [1, 2, 3]
    unit = values.astype(np.float32) / 255
    planes = torch.from_numpy(unit).permute(2, 0, 1)
    for given in (Image.fromarray(values), values, unit, planes, planes.half(), planes.bfloat16()):
        (pixels,) = to_pixels(given)
        np.testing.assert_array_equal(pixels, values)
    for wrong, complaint in (
        (unit * 2 - 1, r"must be in \[0, 1\]"),
        (values.astype(np.int64), "uint8 or floating"),
        (values[0], r"must be \[H, W, C\] or stacks of these, got \(2, 3\)"),
        (np.full_like(unit, np.nan), r"must be in \[0, 1\]"),
    ):
        with pytest.raises(ValueError, match=complaint):
            to_pixels(wrong)


def test_pillow_images_are_read_by_the_rules_of_files():
    exif = Image.Exif()
    exif[0x0112] = 6
    picture = Image.new("RGB", (6, 4), (55, 55, 55))
    stream = stored(picture, "PNG", exif=exif, icc_profile=icc("Linear", curve=LINEAR))
    turned, plain = to_pixels([Image.open(stream), picture])
    assert turned.shape == (6, 4, 3)
    np.testing.assert_array_equal(turned, read_image(stream).pixels)
    np.testing.assert_array_equal(plain, np.asarray(picture))
    levels = Image.fromarray(np.array([[0, 0.5, 1]], np.float32))
    assert to_pixels(levels)[0][0, :, 0].tolist() == [0, 128, 255]
    deep = Image.fromarray(np.full((2, 2), 40000, np.uint16))
    with pytest.raises(UnsupportedImageError, match=r"more than 8 bits.*convert it to 8-bit RGB"):
        to_pixels([deep])
    with pytest.raises(UnsupportedImageError, match=r"transparent.*put it on a background first"):
        to_pixels([Image.new("RGBA", (2, 2))])
    opaque = Image.new("RGBA", (2, 2), (1, 2, 3, 255))
    assert to_pixels(opaque)[0][0, 0].tolist() == [1, 2, 3]
