# SPDX-License-Identifier: Apache-2.0
"""Mutants of image files, for the reader of pictures."""

from __future__ import annotations

import io
import random
from typing import Any

from PIL import Image

from bench._fuzz.containers import picture
from bench._fuzz.subject import Files, Subject, mutated
from genaccel.errors import BitstreamError, LimitExceededError, UnsupportedImageError
from genaccel.files.images import AS_STORED, STRICT, read_image

_FORMATS: tuple[tuple[str, str, dict[str, Any]], ...] = (
    ("PNG", "RGB", {}),
    ("PNG", "RGBA", {}),
    ("PNG", "P", {}),
    ("PNG", "I;16", {}),
    ("JPEG", "RGB", {}),
    ("JPEG", "RGB", {"progressive": True}),
    ("JPEG", "CMYK", {}),
    ("WEBP", "RGB", {}),
    ("WEBP", "RGBA", {"lossless": True}),
    ("TIFF", "RGB", {}),
    ("TIFF", "RGB", {"compression": "tiff_adobe_deflate"}),
    ("TIFF", "L", {"compression": "tiff_lzw"}),
    ("BMP", "RGB", {}),
    ("GIF", "P", {}),
    ("PPM", "RGB", {}),
    ("AVIF", "RGB", {}),
    ("AVIF", "RGBA", {}),
)


class Pictures(Subject):
    """Image files of each format that is read, and of some that may be."""

    name = "image"
    contract = (BitstreamError, LimitExceededError, UnsupportedImageError)

    def __init__(self) -> None:
        exif = Image.Exif()
        exif[0x0112], exif[0x010E] = 6, "a picture"
        self._valid: list[tuple[str, bytes]] = []
        for kind, mode, options in _FORMATS:
            image = Image.fromarray(picture(24, 40)).convert("L" if mode == "I;16" else mode)
            if mode == "I;16":
                image = Image.frombytes(mode, image.size, image.tobytes() * 2)
            stream = io.BytesIO()
            extra = {} if kind in ("BMP", "GIF", "PPM") else {"exif": exif}
            image.save(stream, kind, **options, **extra)
            self._valid.append((kind.lower(), stream.getvalue()))

    def make(self, random_state: random.Random) -> Files:
        """A mutant of one format, or the beginning of one and the end of another."""
        suffix, data = random_state.choice(self._valid)
        if random_state.random() < 0.1:
            _, other = random_state.choice(self._valid)
            place = random_state.randrange(len(data))
            data = data[:place] + other[random_state.randrange(len(other)) :]
        for _ in range(random_state.choice((1, 1, 2, 4))):
            data = mutated(random_state, data)
        return {f"picture.{suffix}": data}

    def run(self, files: Files, random_state: random.Random) -> str:
        """Read it, strictly or as it is stored."""
        (data,) = files.values()
        assert isinstance(data, bytes)
        pixels = read_image(io.BytesIO(data), random_state.choice((STRICT, AS_STORED))).pixels
        assert pixels.ndim == 3
        return "read"
