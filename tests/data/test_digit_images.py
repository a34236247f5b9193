# SPDX-License-Identifier: Apache-2.0
"""Digits as training pictures, from files as ``genaccel data digits`` writes them."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.numpy import save_file

from genaccel.data.digit_images import DigitImages, open_training_images
from genaccel.data.digits import MANIFEST_NAME
from genaccel.data.image_folder import RandomCropDataset

TRAIN, TEST = 12, 5


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for split, count in (("train", TRAIN), ("test", TEST)):
        images = np.random.default_rng(count).integers(0, 256, (count, 28, 28), dtype=np.uint8)
        labels = (np.arange(count) % 3).astype(np.uint8)
        save_file({"images": images, "labels": labels}, tmp_path / f"{split}.safetensors")
    (tmp_path / MANIFEST_NAME).write_text("{}")
    return tmp_path


def test_all_digits_come_before_any_comes_twice_and_in_another_order(folder: Path) -> None:
    digits = DigitImages(folder, 28, seed=3)
    epochs = [torch.stack([digits[n] for n in range(first, first + TRAIN)]) for first in (0, TRAIN)]
    first, second = (epoch[:, 0].flatten(1) for epoch in epochs)
    assert len(first.unique(dim=0)) == TRAIN
    assert not torch.equal(first, second)
    assert torch.equal(first.unique(dim=0), second.unique(dim=0))


def test_a_digit_is_a_function_of_its_number_and_stands_in_the_middle(folder: Path) -> None:
    digits, again = DigitImages(folder, 32, seed=3), DigitImages(folder, 32, seed=3)
    later = again[TRAIN + 2]
    assert torch.equal(digits[TRAIN + 2], later)
    assert torch.equal(digits[1], again[1])
    assert later.shape == (3, 32, 32)
    assert float(later[:, :2].max()) == float(later[:, :, -2:].max()) == -1.0
    assert later[:, 2:-2, 2:-2].abs().max() <= 1.0
    assert torch.equal(later[0], later[2])


def test_classes_are_those_of_the_labels(folder: Path) -> None:
    digits = DigitImages(folder, 28)
    names = [digits.class_of(n) for n in range(TRAIN)]
    assert sorted(names) == ["0"] * 4 + ["1"] * 4 + ["2"] * 4
    assert digits.class_names(min_images=4) == ["0", "1", "2"]
    assert DigitImages(folder, 28, split="test").class_names(min_images=2) == ["0", "1"]


def test_what_is_no_folder_of_digits_is_one_of_images(folder: Path, tmp_path: Path) -> None:
    assert isinstance(open_training_images(folder, 32, scale=(1, 1), seed=0), DigitImages)
    photographs = tmp_path / "photographs"
    photographs.mkdir()
    Image.new("RGB", (40, 40)).save(photographs / "sky0.png")
    (photographs / MANIFEST_NAME).write_text("{}")  # `genaccel data photos` writes one too
    found = open_training_images(photographs, 32, scale=(1, 1), seed=0)
    assert isinstance(found, RandomCropDataset)
    assert found.class_of(5) == "sky"


def test_sizes_that_cut_digits_and_negative_numbers_are_refused(folder: Path) -> None:
    with pytest.raises(ValueError, match="28 pixels a side, got size 16"):
        DigitImages(folder, 16)
    with pytest.raises(IndexError, match="at least 0"):
        DigitImages(folder, 28)[-1]
