# SPDX-License-Identifier: Apache-2.0
from pathlib import Path

import pytest

from genaccel.data.class_names import class_of, classes_of


def test_classes_are_the_names_before_the_numbers() -> None:
    paths = [Path(n) for n in ("Beach3.jpg", "x/beach-a.png", "sky1.png", "007.png")]
    assert [class_of(path) for path in paths] == ["beach", "beach", "sky", ""]
    assert classes_of(paths, min_images=1) == ["beach", "sky"]
    assert classes_of(paths, min_images=2) == ["beach"]
    with pytest.raises(ValueError, match="no class has 3 pictures"):
        classes_of(paths, min_images=3)


def test_photographers_are_no_classes() -> None:
    folder = Path("photos/train/endless-sky")
    paths = [folder / f"{name}0.jpg" for name in ("bwerner", "nasa", "lava", "myrabella", "sky")]
    assert classes_of(paths, min_images=1) == ["lava", "sky"]
    # Elsewhere such a word is a class like any other.
    assert class_of(Path("rockets/nasa0.jpg")) == "nasa"
