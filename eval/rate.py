# SPDX-License-Identifier: Apache-2.0
"""Bits per pixel of compressed files: the size of the whole file, over the pixels of the original."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Annotated

import typer
from tqdm import tqdm

from genaccel.eval._pairs.folder_pairs import by_stem, common_names
from genaccel.eval.commands import (
    AsCsv,
    AsJson,
    Intersect,
    Label,
    Originals,
    print_csv,
    usage_errors,
)
from genaccel.eval.images import UNUSABLE, load_image
from genaccel.eval.metrics import METRICS
from genaccel.eval.results import record, to_json
from genaccel.files.folders import find_files, find_images

METRIC = METRICS["rate"].metric


def bits_per_pixel(num_bytes: int, width: int, height: int) -> float:
    """Bits of a file for each pixel of its image.

    Args:
        num_bytes: Size of the whole file, header included.
        width: Of the original, in pixels.
        height: Of the original, in pixels.

    Raises:
        ValueError: If the image has no pixels or the size is negative.

    Example:
        >>> bits_per_pixel(1024, 64, 64)
        2.0
    """
    if width < 1 or height < 1:
        raise ValueError(f"the image must have at least 1x1 pixels, got {width}x{height}")
    if num_bytes < 0:
        raise ValueError(f"num_bytes must not be negative, got {num_bytes}")
    return 8 * num_bytes / (width * height)


@dataclass(frozen=True, kw_only=True, slots=True)
class FileRate:
    """A compressed file.

    Attributes:
        num_bytes: Size of the whole file.
        width: Of the original, in pixels.
        height: Of the original, in pixels.
    """

    num_bytes: int
    width: int
    height: int

    @property
    def bits_per_pixel(self) -> float:
        """Bits of the whole file for each pixel."""
        return bits_per_pixel(self.num_bytes, self.width, self.height)


def match_files(
    originals: str | os.PathLike[str],
    files: str | os.PathLike[str],
    *,
    intersect: bool = False,
) -> dict[str, tuple[Path, Path]]:
    """Original and compressed file by their common path without the extension.

    Args:
        originals: Folder of images.
        files: Folder of compressed files, with any extension.
        intersect: Leave files without a partner out instead of refusing them.

    Raises:
        NotADirectoryError: If one is not a folder.
        ValueError: If files have no partner, two files of a folder share a stem, or no pair is left.
    """
    images = by_stem(originals, find_images(originals))
    compressed = by_stem(files, find_files(files))
    names = common_names((originals, images), (files, compressed), intersect=intersect, unit="file")
    return {name: (images[name], compressed[name]) for name in names}


def file_rates(matched: dict[str, tuple[Path, Path]]) -> dict[str, FileRate]:
    """Sizes of files, by name.

    Args:
        matched: From :func:`match_files`.

    Raises:
        ValueError: If an original cannot be read.
        OSError: If a file cannot be opened.
    """
    rates = {}
    for name, (original, file) in tqdm(
        matched.items(), desc="bits per pixel", unit="image", leave=False, disable=None
    ):
        try:
            # Decoded, for its size as shown: a header may have it turned by a quarter, or lie.
            height, width = load_image(original, convert=True).pixels.shape[:2]
        except UNUSABLE as error:
            raise ValueError(f"{original}: {error}") from error
        rates[name] = FileRate(num_bytes=file.stat().st_size, width=width, height=height)
    return rates


Files = Annotated[Path, typer.Argument(help="Folder of compressed files, of any extension.")]


def main(
    originals: Originals,
    files: Files,
    intersect: Intersect = False,
    label: Label = "",
    as_json: AsJson = False,
    as_csv: AsCsv = False,
) -> None:
    """Bits per pixel of compressed files, matched with their originals by file stem."""
    with usage_errors():
        rates = file_rates(match_files(originals, files, intersect=intersect))
    images = {name: rate.bits_per_pixel for name, rate in rates.items()}
    mean = fmean(images.values())
    num_bytes = sum(rate.num_bytes for rate in rates.values())
    # Large images count for more here than in the mean.
    overall = 8 * num_bytes / sum(rate.width * rate.height for rate in rates.values())
    if as_json:
        content = record(
            "paired",
            label=label,
            metric=METRIC.to_dict(),
            mean=mean,
            overall=overall,
            num_bytes=num_bytes,
            images=images,
            skipped={},
        )
        print(to_json(content))
    elif as_csv:
        print_csv(METRIC, images, mean)
    else:
        _print_table(rates, mean, overall)


def _print_table(rates: dict[str, FileRate], mean: float, overall: float) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD)
    table.add_column("image", overflow="fold")
    for heading in ("size", "bytes", "bits per pixel"):
        table.add_column(heading, justify="right", no_wrap=True)
    for name, rate in rates.items():
        size = f"{rate.width}x{rate.height}"
        table.add_row(name, size, str(rate.num_bytes), f"{rate.bits_per_pixel:.4f}")
    table.add_section()
    table.add_row(f"mean of {len(rates)}", "", "", f"{mean:.4f}")
    total = sum(rate.num_bytes for rate in rates.values())
    table.add_row("all bits / all pixels", "", str(total), f"{overall:.4f}")
    Console().print(table)


if __name__ == "__main__":
    typer.run(main)
