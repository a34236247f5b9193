# SPDX-License-Identifier: Apache-2.0
"""Metrics of image pairs over two folders: as a function, and as the command that every such metric has."""

from __future__ import annotations

import csv
import importlib
import io
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Annotated, Any

import numpy as np
import typer
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from genaccel.eval._pairs.folder_pairs import ImagePair, match_folders
from genaccel.eval.commands import (
    AsCsv,
    AsJson,
    Convert,
    Label,
    Strict,
    Workers,
    combine,
)
from genaccel.eval.images import UNUSABLE
from genaccel.eval.results import SOME_FILES_SKIPPED, Metric, record, to_json

PairFunction = Callable[[NDArray[np.uint8], NDArray[np.uint8]], float]

# name on the command line -> module with a ``main`` made by :func:`paired_command`
PAIRED_METRICS: Mapping[str, str] = {
    "psnr": "genaccel.eval.psnr",
    "ssim": "genaccel.eval.ssim",
    "ms-ssim": "genaccel.eval.ms_ssim",
    "lpips": "genaccel.eval.lpips",
    "dists": "genaccel.eval.dists",
    "st-lpips": "genaccel.eval.st_lpips",
    "ssimulacra2": "genaccel.eval.ssimulacra2",
}

# Starting worker processes takes longer than decoding fewer pairs than this.
_MIN_PAIRS_FOR_WORKERS = 64
_MAX_WORKERS = 8


@dataclass(frozen=True, kw_only=True, slots=True)
class PairedMetric:
    """A metric that is ready to use.

    Attributes:
        metric: What its values mean.
        function: From two ``[H, W, 3]`` uint8 images, original first, to a value; raises ValueError for
            images that it cannot judge.
        settings: What the values depend on, for the record.
        packages: Distributions whose versions matter.
    """

    metric: Metric
    function: PairFunction
    settings: Mapping[str, Any] = field(default_factory=dict)
    packages: Sequence[str] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class PairedResult:
    """Values of a metric over pairs.

    Attributes:
        metric: What the values mean.
        images: Value by name of the pair.
        skipped: Reason by name of the pairs that could not be judged.
    """

    metric: Metric
    images: dict[str, float]
    skipped: dict[str, str]

    @property
    def mean(self) -> float:
        """Mean of the images' values (for PSNR: of the decibels, as in the literature)."""
        return fmean(self.images.values())


def load_paired_metric(name: str, **options: Any) -> PairedMetric:
    """A metric by its name on the command line.

    Args:
        name: Key of :data:`PAIRED_METRICS`.
        options: The metric's own: ``net``, ``weights``, ``device``.

    Raises:
        ValueError: If there is no such metric.

    Example:
        >>> load_paired_metric("psnr").metric.unit
        'dB'
    """
    if name not in PAIRED_METRICS:
        raise ValueError(f"metric must be one of {', '.join(PAIRED_METRICS)}, got {name!r}")
    loaded: PairedMetric = importlib.import_module(PAIRED_METRICS[name]).main.load(**options)
    return loaded


class _Pairs(Dataset[tuple[Any, str]]):
    """The decoded images of each pair, or what is wrong with it."""

    def __init__(self, pairs: Sequence[ImagePair], convert: bool) -> None:
        self.pairs, self.convert = pairs, convert

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> tuple[Any, str]:
        try:
            return self.pairs[index].read(convert=self.convert), ""
        except (ValueError, *UNUSABLE) as error:
            return None, str(error)


def default_workers(count: int) -> int:
    """Worker processes for decoding ``count`` items."""
    if count < _MIN_PAIRS_FOR_WORKERS:
        return 0
    # What this process may use, which a container or taskset makes fewer than the machine has.
    affinity = getattr(os, "sched_getaffinity", None)
    return min(_MAX_WORKERS, len(affinity(0)) if affinity else os.cpu_count() or 1)


def score_pairs(
    pairs: Sequence[ImagePair],
    paired: PairedMetric,
    *,
    strict: bool = False,
    convert: bool = False,
    workers: int | None = None,
) -> PairedResult:
    """Apply a metric to each pair, one at a time: its values do not depend on the others.

    Args:
        pairs: From :func:`genaccel.eval._pairs.folder_pairs.match_folders`.
        paired: The metric.
        strict: Raise for the first pair that cannot be judged, instead of leaving it out by name.
        convert: As for :func:`genaccel.eval.images.load_image`.
        workers: Processes that decode; by default none for a few pairs.

    Raises:
        ValueError: If a pair cannot be judged and ``strict`` is on, or none can.
    """
    loader = DataLoader(
        _Pairs(pairs, convert),
        batch_size=None,
        num_workers=default_workers(len(pairs)) if workers is None else workers,
    )
    images: dict[str, float] = {}
    skipped: dict[str, str] = {}
    progress = tqdm(loader, desc=paired.metric.title, unit="image", leave=False, disable=None)
    for pair, (decoded, problem) in zip(pairs, progress, strict=True):
        if not problem:
            try:
                images[pair.name] = float(paired.function(*map(np.asarray, decoded)))
                continue
            except ValueError as error:
                problem = str(error)
        if strict:
            raise ValueError(f"{pair.name}: {problem}")
        skipped[pair.name] = problem
    if not images:
        name, problem = next(iter(skipped.items()))
        raise ValueError(f"no pair of images could be judged; {name}: {problem}")
    return PairedResult(metric=paired.metric, images=images, skipped=skipped)


Originals = Annotated[Path, typer.Argument(help="Folder of original images.")]
Reconstructions = Annotated[Path, typer.Argument(help="Folder of decoded images.")]
Intersect = Annotated[bool, typer.Option("--intersect", help="Leave out files without a partner.")]


def _run(
    load: Callable[..., PairedMetric],
    own: Mapping[str, Any],
    *,
    originals: Originals,
    reconstructions: Reconstructions,
    intersect: Intersect = False,
    strict: Strict = False,
    convert: Convert = False,
    workers: Workers = None,
    label: Label = "",
    as_json: AsJson = False,
    as_csv: AsCsv = False,
) -> None:
    """Body of every paired command; its keywords after the star are the arguments they share."""
    try:
        pairs = match_folders(originals, reconstructions, intersect=intersect)
        paired = load(**own)
        result = score_pairs(pairs, paired, strict=strict, convert=convert, workers=workers)
    except (ValueError, OSError, ImportError) as error:
        raise typer.BadParameter(str(error)) from error
    if as_json:
        content = record(
            "paired",
            label=label,
            settings={**paired.settings, "convert": convert},
            packages=paired.packages,
            metric=result.metric.to_dict(),
            mean=result.mean,
            images=result.images,
            skipped=result.skipped,
        )
        print(to_json(content))
    elif as_csv:
        print(_to_csv(result), end="")
    else:
        _print_table(result)
    if result.skipped:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in result.skipped.items())
        typer.echo(f"{len(result.skipped)} left out: {reasons}", err=True)
        raise typer.Exit(SOME_FILES_SKIPPED)


def paired_command(load: Callable[..., PairedMetric]) -> Callable[..., None]:
    """Make the command of a metric from the function that loads it.

    Args:
        load: Its keywords, with typer's annotations and defaults, are the metric's own options; its
            docstring is the help text.
    """
    return combine(load, _run)


def _to_csv(result: PairedResult) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["image", result.metric.key])
    writer.writerows(result.images.items())
    writer.writerow(["mean", result.mean])
    return text.getvalue()


def _print_table(result: PairedResult) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table

    unit = f" {result.metric.unit}" if result.metric.unit else ""
    table = Table(box=box.SIMPLE_HEAD, show_footer=len(result.images) > 1)
    table.add_column("image", footer=f"mean of {len(result.images)}", overflow="fold")
    table.add_column(
        result.metric.title + unit, footer=f"{result.mean:.4f}", justify="right", no_wrap=True
    )
    for name, value in result.images.items():
        table.add_row(name, f"{value:.4f}")
    Console().print(table)
