# SPDX-License-Identifier: Apache-2.0
"""Finding and reading image files."""

from __future__ import annotations

import os
from collections.abc import Collection
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

IMAGE_EXTENSIONS = frozenset(
    {".avif", ".bmp", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp"}
)


def find_files(
    folder: str | os.PathLike[str], suffixes: Collection[str] | None = None
) -> list[Path]:
    """Files under a folder, recursively, ordered by their path relative to it.

    Hidden files and folders are left out.

    Args:
        folder: Where to look.
        suffixes: Extensions to take, in lower case, such as ``.png``; None for any kind of file.

    Raises:
        NotADirectoryError: If ``folder`` is not a folder.
    """
    root = Path(folder)
    if not root.is_dir():
        raise NotADirectoryError(f"{root} is not a folder")
    found = [
        path
        for path in root.rglob("*")
        if (suffixes is None or path.suffix.lower() in suffixes)
        and path.is_file()
        and not any(part.startswith(".") for part in path.relative_to(root).parts)
    ]
    return sorted(found, key=lambda path: path.relative_to(root).as_posix())


def find_images(folder: str | os.PathLike[str]) -> list[Path]:
    """Image files under a folder, known by their extension; see :func:`find_files`."""
    return find_files(folder, IMAGE_EXTENSIONS)


def read_rgb(path: str | os.PathLike[str]) -> NDArray[np.uint8]:
    """Decode an image file to ``[H, W, 3]``, upright, without its alpha channel.

    Raises:
        OSError: If the file is missing or does not decode.
    """
    with Image.open(path) as image:
        upright = ImageOps.exif_transpose(image)
        return np.array(upright.convert("RGB"))
