# SPDX-License-Identifier: Apache-2.0
"""Pictures as data URIs, small enough for a page and without changing a pixel where that is possible."""

from __future__ import annotations

import base64
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image

from genaccel.eval.images import UNUSABLE, load_image
from genaccel.files.images import encode_image

# A file up to this size stays a PNG, which every viewer can save and open.
_MAX_PNG_BYTES = 1 << 16
_MAX_LOSSLESS_BYTES = 1_000_000
_LOSSY_QUALITY = 92
# What the WebP format can hold.
_MAX_WEBP_SIDE = 16383


@dataclass(frozen=True, slots=True)
class PictureStore:
    """The pictures of a page, each kept once however often it is shown.

    Attributes:
        entries: What the page's script reads: ``src``, ``width``, ``height``, and ``note``, which is
            empty if the picture is shown without loss.
    """

    entries: list[dict[str, Any]] = field(default_factory=list)
    _indices: dict[Path, int] = field(default_factory=dict)

    def add(self, folder: Path, file: str) -> int:
        """Embed a picture.

        Args:
            folder: Folder of the run's JSON.
            file: Path relative to it.

        Returns:
            Index into :attr:`entries`.

        Raises:
            ValueError: If the path leads out of the folder, or the file is no readable picture.
        """
        path = (folder / file).resolve()
        # A run that somebody sent must not be able to put this user's other files on a page.
        if not path.is_relative_to(folder.resolve()):
            raise ValueError(f"the picture {file!r} is outside of the run's folder {folder}")
        if path not in self._indices:
            try:
                self.entries.append(_embed(path))
            except UNUSABLE as error:
                raise ValueError(f"the picture {file!r} cannot be used: {error}") from error
            self._indices[path] = len(self.entries) - 1
        return self._indices[path]


def _embed(path: Path) -> dict[str, Any]:
    # Always decoded and encoded anew: it checks the file, applies its rotation and colour profile, and
    # leaves out its metadata.
    image = Image.fromarray(load_image(path, convert=True).pixels)
    note = ""
    if path.stat().st_size <= _MAX_PNG_BYTES or max(image.size) > _MAX_WEBP_SIDE:
        format, data = "png", encode_image(image, "PNG", optimize=True)
    else:
        format, data = "webp", encode_image(image, "WEBP", lossless=True, quality=50, method=4)
        if len(data) > _MAX_LOSSLESS_BYTES:
            data = encode_image(image, "WEBP", quality=_LOSSY_QUALITY, method=4, use_sharp_yuv=True)
            note = f"compressed for this page as WebP of quality {_LOSSY_QUALITY}"
    return {
        "src": f"data:image/{format};base64,{base64.b64encode(data).decode()}",
        "width": image.width,
        "height": image.height,
        "note": note,
    }
