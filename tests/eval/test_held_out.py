# SPDX-License-Identifier: Apache-2.0
import importlib.util

import pytest
import skimage.data

from genaccel.eval.held_out import held_out_photographs


def test_the_photographs_are_those_of_the_packages() -> None:
    photographs = held_out_photographs()
    assert {name: image.shape for name, image in photographs.items()} == {
        "astronaut": (512, 512, 3),
        "chelsea": (300, 451, 3),
        "china": (427, 640, 3),
        "coffee": (400, 600, 3),
        "flower": (427, 640, 3),
        "motorcycle": (500, 741, 3),
        "rocket": (427, 640, 3),
    }
    assert (photographs["coffee"] == skimage.data.coffee()).all()
    assert all(image.std() > 20 for image in photographs.values())


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(FileNotFoundError, match="pip install scikit-image scikit-learn"):
        held_out_photographs()
