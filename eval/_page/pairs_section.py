# SPDX-License-Identifier: Apache-2.0
"""The page's section for metrics of image pairs: distributions over runs, the worst images, and a table of all."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from genaccel.eval._page.difference_map import SCALE_COLOURS
from genaccel.eval._page.distribution import Distribution
from genaccel.eval._page.markup import (
    MISSING,
    Column,
    Html,
    details,
    element,
    number,
    sortable_number,
    table,
    verbatim,
)
from genaccel.eval._page.pair_pictures import Gallery, PairCard
from genaccel.eval._page.run_files import Run
from genaccel.eval._page.sections import (
    metric_head,
    no_room,
    notice,
    provenance,
    section,
    skipped,
    warnings_of,
    worst_order,
)
from genaccel.eval._page.spread_chart import SpreadRow, spread_chart
from genaccel.eval._page.subjects import Subject, metric_key

# A table of more rows makes browsers slow, and nobody reads it; the runs have them all.
_MAX_ROWS = 2000

# Of an interval that a run doesn't have.
_OWN_METHOD = "Student\N{RIGHT SINGLE QUOTATION MARK}s t over images"


def pairs_section(
    subjects: Sequence[Subject],
    gallery: Gallery,
    pictures: Sequence[Mapping[str, Any]],
    viewer: Html,
) -> Html:
    """Everything about the paired runs.

    Args:
        subjects: From :func:`genaccel.eval._page.subjects.subjects_of`.
        gallery: Their pictures.
        pictures: The page's pictures, which the gallery has indices into.
        viewer: Place of the viewer for them, or nothing.
    """
    runs = [run for subject in subjects for run in subject.runs]
    parts = [*_charts(subjects), _summary(subjects), warnings_of(runs), skipped(runs)]
    if any(gallery.cards.values()):
        parts.append(_about_pictures(gallery))
    for index, subject in enumerate(subjects):
        parts.append(_subject(subject, index, gallery, pictures))
    parts.append(no_room(gallery.num_left_out))
    if viewer:
        parts += [element("h3", "Pairs under a slider", id="pair-viewer"), viewer]
    return section("paired", "Pairs of images", "", *parts)


def _charts(subjects: Sequence[Subject]) -> list[Html]:
    """One chart for each metric, with a row for each subject that has it."""
    metrics: dict[str, Mapping[str, Any]] = {}
    rows: dict[str, list[SpreadRow]] = {}
    methods: dict[str, dict[str, None]] = {}
    for subject in subjects:
        for run in subject.runs:
            key = metric_key(run)
            metrics.setdefault(key, run.content["metric"])
            rows.setdefault(key, []).append(_spread_row(subject.name, run))
            method = run.content["confidence_method"] if run.content["confidence_interval"] else ""
            methods.setdefault(key, {})[method or _OWN_METHOD] = None
    return [
        spread_chart(metric, element("h3", metric_head(metric)), rows[key], methods[key])
        for key, metric in metrics.items()
    ]


def _spread_row(name: str, run: Run) -> SpreadRow:
    spread = Distribution.of(run.content["images"].values())
    notes = [f"of {_count(len(spread.values), 'image')}"] * bool(spread.values)
    outside = ", not in the mean" if spread.values else ""
    for count, what in (
        (spread.num_above, "infinite"),
        (spread.num_below, "minus infinity"),
        (spread.num_missing, "without a finite value"),
    ):
        notes += [f"{_count(count, 'image')} {what}{outside}"] * bool(count)
    return SpreadRow(
        name=name,
        value=_mean(run, spread),
        interval=_interval(run, spread),
        deviation=_deviation(run, spread),
        distribution=spread,
        note="; ".join(notes),
    )


def _mean(run: Run, spread: Distribution) -> float | None:
    """The run's own mean, or that of the finite values where it is not finite."""
    own: float | None = run.content["mean"]
    if own is not None and math.isfinite(own):
        return own
    for mean in (run.content["mean_of_finite"], spread.mean):
        if mean is not None:
            return float(mean)
    return math.inf if spread.num_above else own


def _interval(run: Run, spread: Distribution) -> tuple[float, float] | None:
    """The run's own, or one from its images."""
    low, high = run.content["confidence_interval"] or (None, None)
    return spread.interval if low is None or high is None else (low, high)


def _deviation(run: Run, spread: Distribution) -> float | None:
    own: float | None = run.content["standard_deviation"]
    return spread.deviation if own is None else own


def _count(count: int, what: str) -> str:
    return f"{count:,} {what}" if count == 1 else f"{count:,} {what}s"


def _summary(subjects: Sequence[Subject]) -> Html:
    heads = ("Mean", "95 % interval", "Std. dev.", "Median", "Lowest", "Highest", "Infinite")
    columns = [
        Column("Run", is_number=False),
        Column("Metric", is_number=False),
        *map(Column, (*heads, "Images", "Left out")),
    ]
    rows = []
    for subject in subjects:
        for run in subject.runs:
            spread = Distribution.of(run.content["images"].values())
            interval = _interval(run, spread)
            rows.append(
                [
                    subject.name,
                    metric_head(run.content["metric"]),
                    number(_mean(run, spread)),
                    MISSING if interval is None else " to ".join(map(number, interval)),
                    number(_deviation(run, spread)),
                    number(spread.median),
                    *(number(spread.values[end] if spread.values else None) for end in (0, -1)),
                    number(spread.num_above + spread.num_below),
                    number(len(run.content["images"])),
                    number(len(run.content["skipped"])),
                ]
            )
    caption = "Means, intervals and deviations are over the images with a finite value"
    return table(caption, columns, rows)


def _about_pictures(gallery: Gallery) -> Html:
    end = math.ceil(255 / gallery.amplification)
    colours = ", ".join(f"rgb{colour}" for colour in SCALE_COLOURS)
    scale = element(
        "span",
        element("span", "0"),
        element("span", class_="ramp", style=f"background: linear-gradient(to right, {colours})"),
        element("span", f"{end} or more"),
        class_="scale",
        role="img",
        aria_label=f"Scale of the differences, from black for 0 to pale yellow for {end} or more",
    )
    text = (
        f"Difference: absolute difference of the 8-bit RGB values, the largest of the three channels, amplified "
        f"{gallery.amplification}\N{MULTIPLICATION SIGN}, the same for all pairs on this page. "
        "Pictures of more than 640 pixels a side are made smaller, and differences averaged with them."
    )
    return element("div", element("h3", "Worst images"), element("p", text, class_="note"), scale)


def _subject(
    subject: Subject,
    index: int,
    gallery: Gallery,
    pictures: Sequence[Mapping[str, Any]],
) -> Html:
    images, metrics = subject.images(), subject.metrics
    values = dict(images)
    cards = gallery.cards.get(index, [])
    metric = next(iter(metrics.values()))
    parts: list[Html] = []
    if cards:
        first = metric["title"] if metric["higher_is_better"] is not None else "their order"
        parts += [
            element(
                "p",
                f"{len(cards)} of {_count(len(images), 'pair')}, the worst by {first} first.",
                class_="note",
            ),
            element(
                "ol",
                *(_card(card, values[card.name], metrics, pictures) for card in cards),
                class_="cards",
                data_metrics=json.dumps(
                    [[k, m["title"], m["higher_is_better"]] for k, m in metrics.items()]
                ),
            ),
        ]
    parts.append(notice("Pictures", gallery.notices.get(index, [])))
    parts += [
        details("Each image", _image_table(images, metrics)),
        *(
            details(f"{run.content['metric']['title']}: environment, settings", *provenance(run))
            for run in subject.runs
        ),
    ]
    return element(
        "article",
        verbatim(subject.name, "h4", id=f"subject-{index}"),
        *parts,
        class_="subject",
        aria_labelledby=f"subject-{index}",
    )


def _card(
    card: PairCard,
    values: Mapping[str, float | None],
    metrics: Mapping[str, Mapping[str, Any]],
    pictures: Sequence[Mapping[str, Any]],
) -> Html:
    shown = {
        "original": (card.original, "Original"),
        "result": (card.result, "Result"),
        "difference": (card.difference, "Difference"),
    }
    figures = []
    for what, (picture, title) in shown.items():
        entry = pictures[picture]
        figures.append(
            element(
                "figure",
                Html(
                    element(
                        "img",
                        src=entry["src"],
                        alt=f"{title} of {card.name}",
                        width=str(entry["width"]),
                        height=str(entry["height"]),
                        loading="lazy",
                        decoding="async",
                        id=f"picture-{picture}",
                    ).removesuffix("</img>")
                ),
                element("figcaption", title),
                class_=what,
            )
        )
    rows = [
        element(
            "div",
            element("dt", metric_head(metric)),
            element("dd", number(values[key])),
        )
        for key, metric in metrics.items()
    ]
    width, height = card.size
    rows.append(
        element(
            "div",
            element("dt", "pixels"),
            element("dd", f"{width}\N{MULTIPLICATION SIGN}{height}"),
        )
    )
    return element(
        "li",
        verbatim(card.name, "h5"),
        element(
            "div",
            *figures,
            element("div", element("dl", *rows), class_="side"),
            class_="pair",
        ),
        data_name=card.name,
        data_picture=f"picture-{card.result}",
        data_values=json.dumps(
            {key: None if value is None else repr(float(value)) for key, value in values.items()}
        ),
    )


def _image_table(
    images: Sequence[tuple[str, Mapping[str, float | None]]],
    metrics: Mapping[str, Mapping[str, Any]],
) -> Html:
    columns = [Column("Image", is_number=False)]
    for position, metric in enumerate(metrics.values()):
        worst = worst_order(metric)
        is_sorted = position == 0 and worst != ""
        columns.append(Column(metric_head(metric), worst=worst, is_sorted=is_sorted))
    caption = "Values of each image, at first from the worst to the best"
    if len(images) > _MAX_ROWS:
        caption = f"The {_MAX_ROWS:,} worst of {len(images):,} images; the runs\N{RIGHT SINGLE QUOTATION MARK} JSON has all"
    rows = ([name, *map(sortable_number, values.values())] for name, values in images[:_MAX_ROWS])
    return table(caption, columns, rows, is_sortable=True)
