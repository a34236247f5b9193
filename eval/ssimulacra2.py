# SPDX-License-Identifier: Apache-2.0
"""SSIMULACRA2 (Sneyers, github.com/cloudinary/ssimulacra2) between 8-bit images: the package ``ssimulacra2``.

The package is a port of libjxl's reference to numpy, without weights to fetch. It was calibrated on six
scales, which takes images of about 256 pixels a side; smaller ones are compared on fewer. The port pads
the two directions differently, so turning both images by 90 degrees moves a score, by 0.4 at a JPEG
quality of 75 and by 2.6 at 10: give images upright.
"""

from __future__ import annotations

import io

import numpy as np
import typer
from numpy.typing import NDArray
from PIL import Image

from genaccel.eval._pairs.image_tensors import require_same_shape, require_side
from genaccel.eval._pairs.pair_metrics import PairedMetric, paired_command
from genaccel.eval.metrics import METRICS
from genaccel.files.image_writer import encode_image

# Below it the reference compares nothing, and would find any two images equal.
MIN_SIDE = 8


def _as_file(image: NDArray[np.uint8]) -> io.BytesIO:
    # The package only reads files; PPM is lossless, and written without compressing.
    return io.BytesIO(encode_image(image, "ppm"))


def ssimulacra2_of_images(original: NDArray[np.uint8], reconstruction: NDArray[np.uint8]) -> float:
    """SSIMULACRA2 of two 8-bit images ``[H, W, 3]``.

    Returns:
        100 for equal images; 90 is visually lossless, 70 high, 50 medium, 30 low quality; without a lower
        bound. The order of the two images matters.

    Raises:
        ImportError: If the package is missing.
        ValueError: If the shapes differ or are no such images, or the images are too small or too large.

    Example:
        >>> black = np.zeros((16, 16, 3), np.uint8)
        >>> ssimulacra2_of_images(black, black)
        100.0
    """
    require_same_shape(original, reconstruction)
    for name, image in (("original", original), ("reconstruction", reconstruction)):
        if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
            raise ValueError(
                f"{name} must be [H, W, 3] of type uint8, got {image.shape} of {image.dtype}"
            )
    require_side("SSIMULACRA2", MIN_SIDE, *original.shape[:2])
    try:
        from ssimulacra2 import compute_ssimulacra2
    except ImportError as error:
        raise ImportError(
            f"SSIMULACRA2 needs {error.name}: pip install 'genaccel[eval]'"
        ) from error
    try:
        return float(compute_ssimulacra2(_as_file(original), _as_file(reconstruction)))
    except Image.DecompressionBombError as error:
        raise ValueError(f"the images are too large for SSIMULACRA2: {error}") from error


@paired_command
def main() -> PairedMetric:
    """SSIMULACRA2 between two folders of images, matched by file stem."""
    return PairedMetric(
        metric=METRICS["ssimulacra2"].metric,
        function=ssimulacra2_of_images,
        packages=["ssimulacra2"],
    )


if __name__ == "__main__":
    typer.run(main)
