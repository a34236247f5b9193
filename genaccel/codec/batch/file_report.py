# SPDX-License-Identifier: Apache-2.0
"""What is said of each file that was coded.

Apart from the work itself, so that whoever only collects reports of worker processes loads no torch.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class FileReport:
    """Report on one coded file: sizes in bytes and pixels, model and time.

    Attributes:
        bits_per_pixel: Bits of the whole ``.gac`` file over the image's pixels.
        model: Name or folder of the model.
        coding_seconds: Seconds of encoding or decoding, the range coder included, without loading the model, reading
            and writing.
        alpha_bytes: Of the ``.gac`` file's alpha plane, which is no part of the payload.
        metadata_bytes: Of its metadata.
        notes: Changes to the image on the way, and what was left out, a sentence each.
    """

    input: str
    output: str
    width: int
    height: int
    file_bytes: int
    payload_bytes: int
    alpha_bytes: int
    metadata_bytes: int
    bits_per_pixel: float
    model: str
    model_digest: str
    coding_seconds: float
    notes: tuple[str, ...]

    @property
    def summary(self) -> str:
        """Sizes and time in words."""
        return (
            f"{self.width}x{self.height}, {self.file_bytes} bytes, "
            f"{self.bits_per_pixel:.3f} bits per pixel, {1000 * self.coding_seconds:.0f} ms"
        )
