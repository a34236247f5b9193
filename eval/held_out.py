# SPDX-License-Identifier: Apache-2.0
"""Photographs that no model of this package was trained on, out of scikit-image and scikit-learn.

Four are stored without loss (astronaut, chelsea, coffee, motorcycle); china, flower and rocket are JPEG
files of high quality.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from genaccel.files.images import AS_STORED, read_image

_DISTRIBUTIONS = {"skimage": "scikit-image", "sklearn": "scikit-learn"}
_FILES = {
    "astronaut": ("skimage", "data/astronaut.png"),
    "chelsea": ("skimage", "data/chelsea.png"),
    "china": ("sklearn", "datasets/images/china.jpg"),
    "coffee": ("skimage", "data/coffee.png"),
    "flower": ("sklearn", "datasets/images/flower.jpg"),
    "motorcycle": ("skimage", "data/motorcycle_left.png"),
    "rocket": ("skimage", "data/rocket.jpg"),
}


def held_out_photographs() -> dict[str, NDArray[np.uint8]]:
    """The photographs by name, each ``[H, W, 3]``, in alphabetical order.

    Raises:
        FileNotFoundError: If scikit-image or scikit-learn is not installed, or lacks the file.

    Example:
        >>> held_out_photographs()["astronaut"].shape
        (512, 512, 3)
    """
    # The figures of every report were measured on samples as they are stored: rocket is in Adobe RGB.
    return {name: read_image(_locate(*file), AS_STORED).pixels for name, file in _FILES.items()}


def _locate(package: str, relative: str) -> Path:
    # Importing them would take seconds, and only their folder is of interest.
    specification = importlib.util.find_spec(package)
    if specification is None or specification.origin is None:
        raise FileNotFoundError(
            f"the held-out photographs need {_DISTRIBUTIONS[package]}: "
            f"run `pip install {' '.join(_DISTRIBUTIONS.values())}`"
        )
    return Path(specification.origin).parent / relative
