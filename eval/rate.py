# SPDX-License-Identifier: Apache-2.0
"""Bits per pixel of compressed files: the size of the whole file, over the pixels of the original."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer
from tqdm import tqdm

from genaccel.errors import printable
from genaccel.eval._pairs.folder_pairs import by_stem, common_names, unmatched_names
from genaccel.eval._pairs.summary import Summary, summarise
from genaccel.eval.commands import (
    AsCsv,
    AsJson,
    Intersect,
    Label,
    Originals,
    exit_if_skipped,
    print_csv,
    say_unmatched,
    summary_rows,
    usage_errors,
    verbatim_console,
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


@dataclass(frozen=True, kw_only=True, slots=True)
class MatchedFiles:
    """Originals with their compressed files.

    Attributes:
        files: Original and compressed file by name.
        unmatched: Names of the files without a partner, by their folder.
    """

    files: dict[str, tuple[Path, Path]]
    unmatched: dict[str, list[str]]


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
    return _match(originals, files, intersect=intersect).files


def _match(
    originals: str | os.PathLike[str], files: str | os.PathLike[str], *, intersect: bool
) -> MatchedFiles:
    images = by_stem(originals, find_images(originals))
    compressed = by_stem(files, find_files(files, follow_links=True))
    left, right = (originals, images), (files, compressed)
    names = common_names(left, right, intersect=intersect, unit="file")
    return MatchedFiles(
        files={name: (images[name], compressed[name]) for name in names},
        unmatched=unmatched_names(left, right),
    )


def file_rates(
    matched: dict[str, tuple[Path, Path]], *, skipped: dict[str, str] | None = None
) -> dict[str, FileRate]:
    """Sizes of files, by name.

    Args:
        matched: From :func:`match_files`.
        skipped: Takes the reason by name of each original that cannot be read, instead of an exception.

    Raises:
        ValueError: If an original cannot be read, or none can.
        OSError: If a compressed file cannot be opened.
    """
    rates = {}
    for name, (original, file) in tqdm(
        matched.items(), desc="bits per pixel", unit="image", leave=False, disable=None
    ):
        try:
            # Decoded, for its size as shown: a header may have it turned by a quarter, or lie.
            height, width = load_image(original, convert=True).pixels.shape[:2]
        except UNUSABLE as error:
            if skipped is None:
                raise ValueError(f"{original}: {error}") from error
            skipped[name] = str(error)
            continue
        rates[name] = FileRate(num_bytes=file.stat().st_size, width=width, height=height)
    if not rates:
        name, problem = next(iter((skipped or {}).items()))
        raise ValueError(f"no original could be read; {name}: {problem}")
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
        matched = _match(originals, files, intersect=intersect)
        skipped: dict[str, str] = {}
        rates = file_rates(matched.files, skipped=skipped)
    images = {name: rate.bits_per_pixel for name, rate in rates.items()}
    summary = summarise(images.values())
    num_bytes = sum(rate.num_bytes for rate in rates.values())
    # Large images count for more here than in the mean.
    overall = 8 * num_bytes / sum(rate.width * rate.height for rate in rates.values())
    if as_json:
        content = record(
            "paired",
            label=label,
            metric=METRIC.to_dict(),
            **summary.to_dict(),
            overall=overall,
            num_bytes=num_bytes,
            images=images,
            unmatched=matched.unmatched,
            skipped=skipped,
        )
        print(to_json(content))
    elif as_csv:
        print_csv(METRIC, images, summary)
    else:
        _print_table(rates, summary, overall)
    say_unmatched(matched.unmatched)
    exit_if_skipped(skipped)


def _print_table(rates: dict[str, FileRate], summary: Summary, overall: float) -> None:
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD)
    table.add_column("image", overflow="fold")
    for heading in ("size", "bytes", "bits per pixel"):
        table.add_column(heading, justify="right", no_wrap=True)
    for name, rate in rates.items():
        size = f"{rate.width}x{rate.height}"
        table.add_row(printable(name), size, str(rate.num_bytes), f"{rate.bits_per_pixel:.4f}")
    table.add_section()
    for name, text in summary_rows(summary, len(rates)):
        table.add_row(name, "", "", text)
    total = sum(rate.num_bytes for rate in rates.values())
    table.add_row("all bits / all pixels", "", str(total), f"{overall:.4f}")
    verbatim_console().print(table)


if __name__ == "__main__":
    typer.run(main)
