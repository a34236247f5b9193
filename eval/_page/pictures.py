# SPDX-License-Identifier: Apache-2.0
"""Pictures as data URIs, small enough for a page and without changing a pixel where that is possible."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image

from genaccel.eval.images import UNUSABLE, load_image
from genaccel.files.image_writer import encode_image

# A file up to this size stays a PNG, which every viewer can save and open.
_MAX_PNG_BYTES = 1 << 16
_MAX_LOSSLESS_BYTES = 1_000_000
_LOSSY_QUALITY = 92
# What the WebP format can hold.
_MAX_WEBP_SIDE = 16383


@dataclass(slots=True)
class PictureStore:
    """The pictures of a page, each kept once however often it is shown, until they fill what the page may hold.

    Attributes:
        max_bytes: What all of them may take as data URIs.
        entries: What the page's script reads: ``src``, ``width``, ``height``, and ``note``, which is
            empty if the picture is shown without loss.
        num_bytes: What they take so far.
    """

    max_bytes: int
    entries: list[dict[str, Any]] = field(default_factory=list)
    num_bytes: int = 0
    _indices: dict[Path, int] = field(default_factory=dict)

    def add_all(self, folder: Path, files: Sequence[str]) -> list[int] | None:
        """Embed pictures that make sense only together.

        Args:
            folder: Folder of the run's JSON.
            files: Paths relative to it.

        Returns:
            Indices into :attr:`entries`, or None if the page has no room for all of them.

        Raises:
            ValueError: If a path leads out of the folder, or a file is no readable picture.
        """
        count = len(self.entries)
        added = [self.add(folder, file) for file in files]
        if self.num_bytes <= self.max_bytes:
            return added
        self.drop_after(count)
        return None

    def drop_after(self, count: int) -> None:
        """Keep the first ``count`` pictures only."""
        self.num_bytes -= sum(len(entry["src"]) for entry in self.entries[count:])
        del self.entries[count:]
        self._indices = {path: index for path, index in self._indices.items() if index < count}

    def append(self, entry: dict[str, Any]) -> int:
        """Keep a picture that :func:`embedded` made; its index."""
        self.entries.append(entry)
        self.num_bytes += len(entry["src"])
        return len(self.entries) - 1

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
                self._indices[path] = self.append(_embed(path))
            except UNUSABLE as error:
                raise ValueError(f"the picture {file!r} cannot be used: {error}") from error
        return self._indices[path]


def _embed(path: Path) -> dict[str, Any]:
    # Always decoded and encoded anew: it checks the file, applies its rotation and colour profile, and
    # leaves out its metadata.
    image = Image.fromarray(load_image(path, convert=True).pixels)
    return embedded(image, as_png=path.stat().st_size <= _MAX_PNG_BYTES)


def embedded(
    image: Image.Image, *, as_png: bool = False, max_lossless_bytes: int = _MAX_LOSSLESS_BYTES
) -> dict[str, Any]:
    """A picture as the page holds it: without loss, unless that takes too much.

    Args:
        image: RGB.
        as_png: Whether to keep it as PNG, which every viewer can save and open.
        max_lossless_bytes: Above this it is compressed with loss, and its note says so.

    Returns:
        ``src``, ``width``, ``height`` and ``note``.
    """
    note = ""
    if as_png or max(image.size) > _MAX_WEBP_SIDE:
        format, data = "png", encode_image(image, "PNG", optimize=True)
    else:
        format, data = "webp", encode_image(image, "WEBP", lossless=True, quality=50, method=4)
        if len(data) > max_lossless_bytes:
            data = encode_image(image, "WEBP", quality=_LOSSY_QUALITY, method=4, use_sharp_yuv=True)
            note = f"compressed for this page as WebP of quality {_LOSSY_QUALITY}"
    return {
        "src": f"data:image/{format};base64,{base64.b64encode(data).decode()}",
        "width": image.width,
        "height": image.height,
        "note": note,
    }
