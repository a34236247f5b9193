# SPDX-License-Identifier: Apache-2.0
"""A sheet of pictures: a column for each class, a row for each mode."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from bench._decoding.generator import Generator
from genaccel.files.image_writer import write_image


def draw_sheet(generator: Generator, rows: Sequence[Tensor], path: Path) -> None:
    """Write the sheet.

    Args:
        generator: Whose tokeniser decodes.
        rows: Tokens of each row's pictures, ``[n, T]``.
        path: PNG.
    """
    side = generator.row_length
    pictures = [
        generator.pipeline.decode_tokens(tokens, side, side).clamp(-1, 1) for tokens in rows
    ]
    lines = [torch.cat(list(row), 2) for row in pictures]  # [3, H, n W]
    sheet = ((torch.cat(lines, 1) + 1) * 127.5).round().to(torch.uint8)
    write_image(path, Image.fromarray(sheet.permute(1, 2, 0).numpy()), overwrite=True, parents=True)
