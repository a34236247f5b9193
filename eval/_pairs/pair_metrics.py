# SPDX-License-Identifier: Apache-2.0
"""Metrics of image pairs over two folders: as a function, and as the command that every such metric has."""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from genaccel.errors import printable
from genaccel.eval._pairs.folder_pairs import ImagePair, match_images
from genaccel.eval._pairs.image_tensors import require_same_shape
from genaccel.eval._pairs.summary import Summary, summarise
from genaccel.eval.commands import (
    AsCsv,
    AsJson,
    Convert,
    Intersect,
    Label,
    Originals,
    Strict,
    Workers,
    combine,
    exit_if_skipped,
    print_csv,
    print_values,
    say_unmatched,
    usage_errors,
)
from genaccel.eval.images import UNUSABLE, decoding_workers
from genaccel.eval.metrics import METRICS, PAIRED_METRICS, Metric
from genaccel.eval.results import record, to_json

PairFunction = Callable[[NDArray[np.uint8], NDArray[np.uint8]], float]


@dataclass(frozen=True, kw_only=True, slots=True)
class PairedMetric:
    """A metric that is ready to use.

    Attributes:
        metric: What its values mean.
        function: From two ``[H, W, 3]`` uint8 images, original first, to a value; raises ValueError for
            images that it cannot judge.
        settings: What the values depend on, for the record.
        packages: Distributions whose versions matter.
        warnings: Sentences that a reader of the values must know.
        pooled: Further numbers by name, each from the values of all images.
    """

    metric: Metric
    function: PairFunction
    settings: Mapping[str, Any] = field(default_factory=dict)
    packages: Sequence[str] = ()
    warnings: Sequence[str] = ()
    pooled: Mapping[str, Callable[[Collection[float]], float]] = field(default_factory=dict)


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
        return self.summary.mean

    @property
    def summary(self) -> Summary:
        """Mean, spread, and how sure the mean is."""
        return summarise(self.images.values())


def load_paired_metric(name: str, **options: Any) -> PairedMetric:
    """A metric by its name on the command line.

    Args:
        name: One of :data:`PAIRED_METRICS`.
        options: The metric's own: ``net``, ``weights``, ``device``.

    Raises:
        ValueError: If there is no such metric.

    Example:
        >>> load_paired_metric("psnr").metric.unit
        'dB'
    """
    if name not in PAIRED_METRICS:
        raise ValueError(f"metric must be one of {', '.join(PAIRED_METRICS)}, got {name!r}")
    loaded: PairedMetric = importlib.import_module(METRICS[name].module).main.load(**options)
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


def value_of(
    paired: PairedMetric, original: NDArray[np.uint8], reconstruction: NDArray[np.uint8]
) -> float:
    """A metric's value of two images ``[H, W, 3]``; it may be infinite.

    Raises:
        ValueError: If the metric cannot judge them, or gives no number.
    """
    value = float(paired.function(original, reconstruction))
    if math.isnan(value):
        raise ValueError(f"{paired.metric.title} gives no number for these images (NaN)")
    return value


def without_border(paired: PairedMetric, border: int) -> PairedMetric:
    """A metric that leaves pixels at the four borders out, as papers on super-resolution do.

    Args:
        paired: The metric.
        border: Pixels at each border.
    """

    def function(original: NDArray[np.uint8], reconstruction: NDArray[np.uint8]) -> float:
        require_same_shape(original, reconstruction)
        height, width = original.shape[:2]
        if min(height, width) <= 2 * border:
            raise ValueError(
                f"cropping {border} pixels at each border leaves nothing of {width}x{height} pixels"
            )
        inner = slice(border, height - border), slice(border, width - border)
        return paired.function(
            np.ascontiguousarray(original[inner]), np.ascontiguousarray(reconstruction[inner])
        )

    return replace(paired, function=function) if border else paired


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
        num_workers=decoding_workers(len(pairs)) if workers is None else workers,
    )
    images: dict[str, float] = {}
    skipped: dict[str, str] = {}
    progress = tqdm(loader, desc=paired.metric.title, unit="image", leave=False, disable=None)
    for pair, (decoded, problem) in zip(pairs, progress, strict=True):
        if not problem:
            try:
                images[pair.name] = value_of(paired, *map(np.asarray, decoded))
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


Reconstructions = Annotated[
    Path, typer.Argument(help="Folder or .zip of decoded images; or give two single files.")
]
CropBorder = Annotated[
    int, typer.Option(min=0, help="Leave out so many pixels at each border of both images.")
]


def _run(
    load: Callable[..., PairedMetric],
    own: Mapping[str, Any],
    *,
    originals: Originals,
    reconstructions: Reconstructions,
    intersect: Intersect = False,
    strict: Strict = False,
    convert: Convert = False,
    crop_border: CropBorder = 0,
    workers: Workers = None,
    label: Label = "",
    as_json: AsJson = False,
    as_csv: AsCsv = False,
) -> None:
    """Body of every paired command; its keywords after the star are the arguments they share."""
    with usage_errors():
        matched = match_images(originals, reconstructions, intersect=intersect)
        paired = without_border(load(**own), crop_border)
        result = score_pairs(matched.pairs, paired, strict=strict, convert=convert, workers=workers)
    skipped = {**matched.unusable, **result.skipped}
    summary = result.summary
    pooled = {name: function(result.images.values()) for name, function in paired.pooled.items()}
    if as_json:
        content = record(
            "paired",
            label=label,
            settings={**paired.settings, "convert": convert, "crop_border": crop_border},
            packages=paired.packages,
            sets=[str(originals), str(reconstructions)],
            metric=result.metric.to_dict(),
            **summary.to_dict(),
            **pooled,
            images=result.images,
            unmatched=matched.unmatched,
            warnings=list(paired.warnings),
            skipped=skipped,
        )
        print(to_json(content))
    elif as_csv:
        print_csv(result.metric, result.images, summary)
    else:
        print_values(result.metric, result.images, summary, pooled=pooled)
    for note in (*(f"warning: {warning}" for warning in paired.warnings), *matched.notes):
        typer.echo(printable(note), err=True)
    say_unmatched(matched.unmatched)
    exit_if_skipped(skipped)


def paired_command(load: Callable[..., PairedMetric]) -> Callable[..., None]:
    """Make the command of a metric from the function that loads it.

    Args:
        load: Its keywords, with typer's annotations and defaults, are the metric's own options; its
            docstring is the help text.
    """
    return combine(load, _run)
