# SPDX-License-Identifier: Apache-2.0
"""The page's sections: all that needs no script, with empty places for charts and pictures."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from genaccel.eval._page.markup import (
    MISSING,
    Column,
    Html,
    count,
    definitions,
    details,
    duration,
    element,
    join,
    number,
    percent,
    size,
    table,
)
from genaccel.eval._page.run_files import Run


def rate_distortion_section(run: Run, index: int) -> Html:
    """Charts, BD-rates, pictures and all points of one run; ``index`` is its place in the page's data."""
    content = run.content
    parts = [_place("charts", index), _bd_rates(content)]
    if content["pictures"]:
        parts += [element("h3", "Pictures side by side"), _place("viewer", index)]
    parts += [_skipped([run]), _points(content), _points_by_image(content)]
    parts.append(details("Environment and settings", *_provenance(run)))
    return _section(f"run-{index}", run.name, "Rate and distortion", *parts)


def speed_section(run: Run, index: int) -> Html:
    """Times of each side against the first, and its quality where that was measured."""
    sides, metrics = run.content["sides"], _measured(run.content, run.content["sides"], "quality")
    columns = [
        Column("Side", is_number=False),
        Column("Median time"),
        Column("Speed\N{NON-BREAKING HYPHEN}up"),
        Column("Fastest to slowest"),
        Column("FLOPs"),
        Column("Peak memory"),
        *(Column(_metric_head(metric)) for metric in metrics.values()),
    ]
    rows = [
        [
            side["name"],
            duration(side["median_seconds"]),
            _speed_up(sides[0], side),
            _spread(side["seconds"]),
            count(side["flops"]),
            size(side["peak_bytes"]),
            *(number(side["quality"].get(key)) for key in metrics),
        ]
        for side in sides
    ]
    caption = f"Time of one call; speed-up over {sides[0]['name']}" if sides else "No sides"
    parts = [table(caption, columns, rows)]
    if metrics:
        parts += [element("h3", "Speed and quality"), _place("charts", index)]
    parts += [_skipped([run]), details("Environment and settings", *_provenance(run))]
    return _section(f"run-{index}", run.name, "Speed", *parts)


def paired_section(runs: Sequence[Run]) -> Html:
    """Metrics of image pairs, one row a run."""

    def cells(run: Run) -> list[str]:
        counts = (len(run.content["images"]), len(run.content["skipped"]))
        return [number(run.content["mean"]), *map(number, counts)]

    return _section(
        "paired",
        "Pairs of images",
        "",
        _runs("Mean over the pairs of each run", runs, ("Mean", "Images", "Left out"), cells),
        _skipped(runs),
        *(
            details(
                f"{run.name}, {run.content['metric']['title']}: each image, environment, settings",
                table(
                    f"{run.content['metric']['title']} of each image",
                    (Column("Image", is_number=False), Column(_metric_head(run.content["metric"]))),
                    ([name, number(value)] for name, value in run.content["images"].items()),
                ),
                *_provenance(run),
            )
            for run in runs
        ),
    )


def set_section(runs: Sequence[Run]) -> Html:
    """Metrics of sets of images, one row a run."""

    def cells(run: Run) -> list[str]:
        return [number(run.content["value"]), *_set_sizes(run.content["num_images"])]

    heads = ("Value", "Reference images", "Generated images")
    parts = [_runs("One value for each pair of sets", runs, heads, cells)]
    for run in runs:
        parts.append(_notice(f"{run.name}: what to know about this value", run.content["warnings"]))
    parts.append(_skipped(runs))
    for run in runs:
        items = [
            *zip(("reference set", "generated set"), run.content["sets"], strict=False),
            *((name.replace("_", " "), v) for name, v in run.content["details"].items()),
        ]
        title = f"{run.name}, {run.content['metric']['title']}: details, environment, settings"
        parts.append(details(title, definitions(items) if items else "", *_provenance(run)))
    return _section("sets", "Sets of images", "", *parts)


def _runs(
    caption: str, runs: Sequence[Run], heads: Sequence[str], cells: Callable[[Run], list[str]]
) -> Html:
    columns = (
        Column("Run", is_number=False),
        Column("Metric", is_number=False),
        *map(Column, heads),
    )
    rows = ([run.name, _metric_head(run.content["metric"]), *cells(run)] for run in runs)
    return table(caption, columns, rows)


def _section(anchor: str, title: str, kind: str, *parts: str) -> Html:
    heading = f"{anchor}-title"
    kicker = element("p", kind, class_="kind") if kind else ""
    return element(
        "section",
        kicker,
        element("h2", title, id=heading),
        *parts,
        id=anchor,
        aria_labelledby=heading,
    )


def _place(what: str, index: int) -> Html:
    """Where the script puts something; ``index`` is the run's place in the page's data."""
    return element("div", class_=what, **{f"data_{what}": str(index)})


def _metric_head(metric: Mapping[str, Any]) -> Html:
    name = f"{metric['title']}, {metric['unit']}" if metric["unit"] else metric["title"]
    if metric["higher_is_better"] is None:
        return join((name,))
    arrow, better = ("↑", "higher") if metric["higher_is_better"] else ("↓", "lower")
    return join(
        (
            f"{name}\N{NO-BREAK SPACE}",
            element("span", arrow, aria_hidden="true"),
            element("span", f" ({better} is better)", class_="hidden"),
        )
    )


def _measured(
    content: Mapping[str, Any], rows: Iterable[Mapping[str, Any]], field: str
) -> dict[str, Any]:
    """The metrics of a run that at least one of its rows has a value of."""
    found = {key for row in rows for key, value in row.get(field, {}).items() if value is not None}
    return {key: metric for key, metric in content["metrics"].items() if key in found}


def _bd_rates(content: Mapping[str, Any]) -> Html:
    rates = {(row["anchor"], row["codec"], row["metric"]): row for row in content["bd_rates"]}
    if not rates:
        return Html("")
    parts = [
        element("h3", "BD-rate"),
        element(
            "p",
            "Bits that a codec needs for the same quality, in per cent of the anchor's: "
            "\N{MINUS SIGN}20 saves a fifth. Below it: the values of the metric over which the "
            "codecs were compared.",
            class_="note",
        ),
    ]
    metrics = {
        key: metric
        for key, metric in content["metrics"].items()
        if any(row["metric"] == key for row in rates.values())
    }
    for anchor in dict.fromkeys(row["anchor"] for row in rates.values()):
        codecs = dict.fromkeys(codec for of, codec, _ in rates if of == anchor)
        rows = [
            [codec, *(_bd_cell(rates.get((anchor, codec, key))) for key in metrics)]
            for codec in codecs
        ]
        columns = [
            Column("Codec", is_number=False),
            *(Column(metric["title"]) for metric in metrics.values()),
        ]
        parts.append(table(f"BD-rate against {anchor}, %", columns, rows))
    refused = [
        f"{row['codec']} against {row['anchor']}, "
        f"{content['metrics'].get(row['metric'], {}).get('title', row['metric'])}: {row['reason']}"
        for row in rates.values()
        if row["percent"] is None and row["reason"]
    ]
    return join([*parts, _notice("No BD-rate could be computed for", refused)])


def _bd_cell(rate: Mapping[str, Any] | None) -> Html:
    if rate is None or rate["percent"] is None:
        return Html(MISSING)
    verdict = "saves" if rate["percent"] < 0 else "costs"
    cell = element("span", percent(rate["percent"]), class_=verdict)
    if rate["interval"] is None or None in rate["interval"]:
        return cell
    low, high = map(number, rate["interval"])
    return join((cell, " ", element("small", f"{low} to {high}")))


def _points(content: Mapping[str, Any]) -> Html:
    metrics = content["metrics"]
    columns = [
        Column("Codec", is_number=False),
        Column("Setting", is_number=False),
        Column("Bits per pixel"),
        Column("Bytes in all"),
        Column("Encoding"),
        Column("Decoding"),
        *(Column(_metric_head(metric)) for metric in metrics.values()),
    ]
    rows = (
        [
            codec["codec"],
            point["setting"],
            number(point["bits_per_pixel"]),
            number(None if point["num_bytes"] is None else round(point["num_bytes"])),
            duration(point["encode_seconds"]),
            duration(point["decode_seconds"]),
            *(number(point["metrics"].get(key)) for key in metrics),
        ]
        for codec in content["codecs"]
        for point in codec["points"]
    )
    caption = "Means over the images; bytes of all of them; median times of one"
    return details("All points", table(caption, columns, rows))


def _points_by_image(content: Mapping[str, Any]) -> Html:
    metrics = content["metrics"]
    rows = [
        [
            codec["codec"],
            point["setting"],
            name,
            number(values.get("bits_per_pixel")),
            *(number(values.get(key)) for key in metrics),
        ]
        for codec in content["codecs"]
        for point in codec["points"]
        for name, values in point["images"].items()
    ]
    if not rows:
        return Html("")
    columns = [
        Column("Codec", is_number=False),
        Column("Setting", is_number=False),
        Column("Image", is_number=False),
        Column("Bits per pixel"),
        *(Column(_metric_head(metric)) for metric in metrics.values()),
    ]
    return details("Each image at each point", table("Values of each image", columns, rows))


def _speed_up(baseline: Mapping[str, Any], side: Mapping[str, Any]) -> str:
    if side is baseline:
        return "baseline"
    ratio = speed_up(baseline, side)
    return MISSING if ratio is None else f"{ratio:.2f}\N{MULTIPLICATION SIGN}"


def speed_up(baseline: Mapping[str, Any], side: Mapping[str, Any]) -> float | None:
    """How many times as fast as the first side, as the run says or else from the medians."""
    if side["speedup"] is not None:
        return float(side["speedup"])
    if not baseline["median_seconds"] or not side["median_seconds"]:
        return None
    return float(baseline["median_seconds"] / side["median_seconds"])


def _spread(seconds: Sequence[float | None]) -> str:
    measured = [value for value in seconds if value is not None]
    if not measured:
        return MISSING
    return f"{duration(min(measured))} to {duration(max(measured))}"


def _set_sizes(counts: Sequence[float | None]) -> list[str]:
    return [number(value) for value in (*counts, None, None)[:2]]


def _skipped(runs: Sequence[Run]) -> Html:
    notices = []
    for run in runs:
        lines = [f"{name}: {reason}" for name, reason in run.content["skipped"].items()]
        files = "file was" if len(lines) == 1 else "files were"
        notices.append(_notice(f"{run.name}: {len(lines)} {files} left out", lines))
    return join(notices)


def _notice(title: str, lines: Sequence[str]) -> Html:
    """A box that a reader must not miss; nothing without lines."""
    if not lines:
        return Html("")
    items = element("ul", *(element("li", line) for line in lines))
    return element("div", element("p", title), items, class_="notice")


def _provenance(run: Run) -> list[Html]:
    parts: list[Html] = []
    for title, items in (
        ("Environment", run.content["environment"]),
        ("Settings", run.content["settings"]),
    ):
        if items:
            parts += [element("h3", title), definitions(items.items())]
    return [*parts, element("p", f"From {run.path.name}", class_="note")]
