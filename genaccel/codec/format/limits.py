# SPDX-License-Identifier: Apache-2.0
"""Limits on the pixels and the memory that a file may ask for before the codec refuses it."""

from __future__ import annotations

from dataclasses import dataclass

from genaccel.files.available_memory import memory_bounds

FORMAT_VERSIONS = (1, 2)  # of files that are read here
MAX_SIDE = 65_535  # pixels; what two bytes hold, and more than most image formats can be given
MAX_PIXELS = (
    178_956_970  # where Pillow takes an image for a decompression bomb: no reader goes beyond
)
DEFAULT_MAX_PIXELS = 2**27  # 134 megapixels: 403 MB as uint8 RGB
MAX_METADATA_BYTES = 2**14  # of the section; a photograph's takes 50 to 300
DEFAULT_MAX_MEMORY_BYTES = 8 * 2**30
# Of what is left here, by default: the estimate is not exact, and others need some.
_SHARE_OF_MEMORY = 0.8


@dataclass(frozen=True, kw_only=True, slots=True)
class CodecLimits:
    """Bounds that are checked before anything of an image's size is allocated.

    Attributes:
        max_pixels: Largest width times height that is encoded or decoded, at most 178,956,970.
        max_memory_bytes: Largest working memory, estimated from the image's size and the model.
        memory_source: What that limit comes from, for messages.
    """

    max_pixels: int = DEFAULT_MAX_PIXELS
    max_memory_bytes: int = DEFAULT_MAX_MEMORY_BYTES
    memory_source: str = ""

    def __post_init__(self) -> None:
        if not 1 <= self.max_pixels <= MAX_PIXELS:
            raise ValueError(f"max_pixels must be in [1, {MAX_PIXELS}], got {self.max_pixels}")
        if self.max_memory_bytes < 1:
            raise ValueError(f"max_memory_bytes must be positive, got {self.max_memory_bytes}")

    @classmethod
    def of_this_machine(
        cls, *, max_pixels: int = DEFAULT_MAX_PIXELS, processes: int = 1
    ) -> CodecLimits:
        """Limits of memory that suit where this process runs: 8 GiB, or four fifths of what is left if that is less.

        Args:
            max_pixels: As above.
            processes: How many of this one's kind share the machine and its cgroup.
        """
        most, source = DEFAULT_MAX_MEMORY_BYTES, "the default"
        for bound in memory_bounds():
            share = _SHARE_OF_MEMORY * bound.num_bytes / (processes if bound.is_shared else 1)
            if share < most:
                most, source = max(int(share), 1), f"four fifths of the {bound.source}"
                if bound.is_shared and processes > 1:
                    source += f" for {processes} processes"
        return cls(max_pixels=max_pixels, max_memory_bytes=most, memory_source=source)

    @property
    def memory_in_words(self) -> str:
        """The limit of memory and what it comes from: ``"8192 MiB (the default)"``."""
        source = f" ({self.memory_source})" if self.memory_source else ""
        return f"{self.max_memory_bytes / 2**20:.0f} MiB{source}"
