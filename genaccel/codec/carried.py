# SPDX-License-Identifier: Apache-2.0
"""What a ``.gac`` file carries beside the picture's indices: alpha plane and metadata."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from genaccel.codec.coding.alpha_plane import decode_alpha, encode_alpha
from genaccel.codec.format.bitstream import Bitstream
from genaccel.codec.format.metadata import PhotoMetadata


def check_pixels(pixels: NDArray[np.uint8], name: str, channels: tuple[int, ...]) -> None:
    """Raise TypeError or ValueError for what is no uint8 array ``[H, W, *channels]`` of at least one pixel."""
    if not isinstance(pixels, np.ndarray) or pixels.dtype != np.uint8:
        got = getattr(pixels, "dtype", type(pixels).__name__)
        raise TypeError(f"{name} must be a uint8 array, got {got}")
    if pixels.ndim != 2 + len(channels) or pixels.shape[2:] != channels or 0 in pixels.shape:
        shape = ", ".join(("H", "W", *map(str, channels)))
        raise ValueError(f"{name} must have shape [{shape}], got {pixels.shape}")


@dataclass(frozen=True, kw_only=True, slots=True)
class Sections:
    """Sections of a file, as they stand in it; empty ones are left out.

    Attributes:
        alpha: Alpha plane.
        metadata: Metadata.
    """

    alpha: bytes = b""
    metadata: bytes = b""

    @classmethod
    def of(
        cls,
        image: NDArray[np.uint8],
        alpha: NDArray[np.uint8] | None = None,
        metadata: PhotoMetadata | None = None,
    ) -> Sections:
        """Sections for an image.

        Args:
            image: uint8 ``[H, W, 3]``.
            alpha: uint8 ``[H, W]``, 255 is opaque; one that is so everywhere makes no section.
            metadata: To carry.

        Raises:
            TypeError: If alpha is not uint8.
            ValueError: If it has another shape than the image, or the metadata has more than 16 KiB.
        """
        plane = b""
        if alpha is not None:
            check_pixels(alpha, "alpha", ())
            if alpha.shape != image.shape[:2]:
                raise ValueError(f"alpha must have the image's sides, got {alpha.shape}")
            plane = b"" if alpha.min() == 255 else encode_alpha(alpha)
        return cls(alpha=plane, metadata=b"" if metadata is None else metadata.to_bytes())

    @property
    def num_bytes(self) -> int:
        """What they add to a file, but for their lengths."""
        return len(self.alpha) + len(self.metadata)


@dataclass(frozen=True, kw_only=True, slots=True)
class DecodedImage:
    """All that a file holds.

    Attributes:
        pixels: uint8 ``[H, W, 3]``, sRGB; not multiplied by alpha.
        alpha: uint8 ``[H, W]``, 255 is opaque; None for an opaque image.
        metadata: What the file says about the photograph; None if it says nothing.
    """

    pixels: NDArray[np.uint8]
    alpha: NDArray[np.uint8] | None = None
    metadata: PhotoMetadata | None = None

    @property
    def rgba(self) -> NDArray[np.uint8]:
        """Pixels ``[H, W, 3]``, or with alpha ``[H, W, 4]``."""
        return self.pixels if self.alpha is None else np.dstack((self.pixels, self.alpha))


def metadata_of(stream: Bitstream) -> PhotoMetadata | None:
    """What a file says about the photograph.

    Raises:
        BitstreamError: If its section does not follow the format.
    """
    return PhotoMetadata.from_bytes(stream.metadata) if stream.metadata else None


def alpha_of(stream: Bitstream) -> NDArray[np.uint8] | None:
    """Alpha plane of a file.

    Raises:
        BitstreamError: If its section does not follow the format.
    """
    return decode_alpha(stream.alpha, stream.height, stream.width) if stream.alpha else None
