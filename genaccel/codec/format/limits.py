# SPDX-License-Identifier: Apache-2.0
"""Limits on the pixels and the memory that a file may ask for before the codec refuses it."""

from __future__ import annotations

from dataclasses import dataclass

MAX_SIDE = 65_535  # pixels; what two bytes hold, and more than most image formats can be given
MAX_PIXELS = (
    178_956_970  # where Pillow takes an image for a decompression bomb: no reader goes beyond
)
DEFAULT_MAX_PIXELS = 2**27  # 134 megapixels: 403 MB as uint8 RGB
MAX_METADATA_BYTES = 2**14  # of the section; a photograph's takes 50 to 300
DEFAULT_MAX_MEMORY_BYTES = 8 * 2**30


@dataclass(frozen=True, kw_only=True, slots=True)
class CodecLimits:
    """Bounds that are checked before anything of an image's size is allocated.

    Attributes:
        max_pixels: Largest width times height that is encoded or decoded, at most 178,956,970.
        max_memory_bytes: Largest working memory, estimated from the image's size and the model.
    """

    max_pixels: int = DEFAULT_MAX_PIXELS
    max_memory_bytes: int = DEFAULT_MAX_MEMORY_BYTES

    def __post_init__(self) -> None:
        if not 1 <= self.max_pixels <= MAX_PIXELS:
            raise ValueError(f"max_pixels must be in [1, {MAX_PIXELS}], got {self.max_pixels}")
        if self.max_memory_bytes < 1:
            raise ValueError(f"max_memory_bytes must be positive, got {self.max_memory_bytes}")
