# SPDX-License-Identifier: Apache-2.0
"""Images coded at half their width and height: a quarter of the indices, for rates that no model was made for.

A model that is forced far below its rate by the weight of the bits loses colours and shapes. The same model on a quarter
of the pixels loses detail only, and has a lower ST-LPIPS in fewer bits (``bench/rdvq.py``).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from genaccel.codec.format.bitstream import half_sides

# The image and its half as Pillow keeps them, at 4 bytes a pixel, what it has between its two passes, and a copy.
RESIZING_BYTES_PER_PIXEL = 12


def resized(image: NDArray[np.uint8], height: int, width: int) -> NDArray[np.uint8]:
    """An image ``[H, W, 3]`` at another size, by Lanczos."""
    return np.array(Image.fromarray(image).resize((width, height), Image.Resampling.LANCZOS))


def halved(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """An image ``[H, W, 3]`` at half size; :func:`resized` is the way back."""
    return resized(image, *half_sides(*image.shape[:2]))
