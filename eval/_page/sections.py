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
    plain,
    size,
    sortable_number,
    table,
    verbatim,
)
from genaccel.eval._page.run_files import Run
from genaccel.eval._page.spread_chart import SpreadRow, spread_chart
from genaccel.eval._page.subjects import metric_key

# Of a notice; a folder of the wrong files would make a long one.
_MAX_LINES = 50


def joint_section(runs: Sequence[Run], index: int) -> Html:
    """Charts of all rate-distortion runs together; ``index`` is their place in the page's data."""
    digests = {run.content["settings"].get("originals_sha256") for run in runs}
    lines = (
        [
            join((verbatim(run.name), f": {plain(run.content['settings'].get('originals'))}"))
            for run in runs
        ]
        if len(digests) > 1 or None in digests
        else []
    )
    return section(
        f"run-{index}",
        "All runs",
        "Rate and distortion",
        notice("Only curves over the same images can be compared; these runs may differ:", lines),
        place("charts", index),
    )


def rate_distortion_section(run: Run, index: int, num_left_out: int = 0) -> Html:
    """Charts, BD-rates, pictures and all points of one run.

    Args:
        run: The run.
        index: Its place in the page's data.
        num_left_out: Its pictures for which the page has no room.
    """
    content = run.content
    parts = [place("charts", index), _bd_rates(content)]
    if len(content["pictures"]) > num_left_out:
        parts += [element("h3", "Pictures side by side"), place("viewer", index)]
    parts.append(no_room(num_left_out))
    parts += [warnings_of([run]), skipped([run]), _points(content), _points_by_image(content)]
    parts.append(details("Environment and settings", *provenance(run)))
    return section(f"run-{index}", run.name, "Rate and distortion", *parts)


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
        *(Column(metric_head(metric)) for metric in metrics.values()),
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
        parts += [element("h3", "Speed and quality"), place("charts", index)]
    parts += [
        warnings_of([run]),
        skipped([run]),
        details("Environment and settings", *provenance(run)),
    ]
    return section(f"run-{index}", run.name, "Speed", *parts)


def set_section(runs: Sequence[Run]) -> Html:
    """Metrics of sets of images, one row a run."""

    def cells(run: Run) -> list[str]:
        return [number(run.content["value"]), *_set_sizes(run.content["num_images"])]

    heads = ("Value", "Reference images", "Generated images")
    groups: dict[str, list[Run]] = {}
    for run in runs:
        groups.setdefault(metric_key(run), []).append(run)
    # A single dot says no more than the table.
    parts = [
        spread_chart(
            alike[0].content["metric"],
            element("h3", metric_head(alike[0].content["metric"])),
            [SpreadRow(name=run.name, value=run.content["value"]) for run in alike],
        )
        for alike in groups.values()
        if len(alike) > 1
    ]
    parts.append(_runs("One value for each pair of sets", runs, heads, cells))
    parts += [warnings_of(runs), skipped(runs)]
    for run in runs:
        items = [
            *zip(("reference set", "generated set"), run.content["sets"], strict=False),
            *((name.replace("_", " "), v) for name, v in run.content["details"].items()),
        ]
        title = f"{run.name}, {run.content['metric']['title']}: details, environment, settings"
        parts.append(details(title, definitions(items) if items else "", *provenance(run)))
    return section("sets", "Sets of images", "", *parts)


def _runs(
    caption: str, runs: Sequence[Run], heads: Sequence[str], cells: Callable[[Run], list[str]]
) -> Html:
    columns = (
        Column("Run", is_number=False),
        Column("Metric", is_number=False),
        *map(Column, heads),
    )
    rows = ([run.name, metric_head(run.content["metric"]), *cells(run)] for run in runs)
    return table(caption, columns, rows)


def section(anchor: str, title: str, kind: str, *parts: str) -> Html:
    """A part of the page with a heading; the contents lead to its anchor."""
    heading = f"{anchor}-title"
    kicker = element("p", kind, class_="kind") if kind else ""
    return element(
        "section",
        kicker,
        verbatim(title, "h2", id=heading),
        *parts,
        id=anchor,
        aria_labelledby=heading,
    )


def place(what: str, index: int) -> Html:
    """Where the script puts something; ``index`` is the run's place in the page's data."""
    return element("div", class_=what, **{f"data_{what}": str(index)})


def metric_head(metric: Mapping[str, Any]) -> Html:
    """A metric with its unit and direction."""
    title = f"{metric['title']}, {metric['unit']}" if metric["unit"] else metric["title"]
    if metric["higher_is_better"] is None:
        return join((title,))
    arrow, better = ("↑", "higher") if metric["higher_is_better"] else ("↓", "lower")
    return join(
        (
            f"{title}\N{NO-BREAK SPACE}",
            element("span", arrow, aria_hidden="true"),
            element("span", f" ({better} is better)", class_="hidden"),
        )
    )


def worst_order(metric: Mapping[str, Any]) -> str:
    """The order of a metric's values that puts the worst first; empty if the direction is not known."""
    return {True: "ascending", False: "descending", None: ""}[metric["higher_is_better"]]


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
    return join([*parts, notice("No BD-rate could be computed for", refused)])


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
        *(Column(metric_head(metric)) for metric in metrics.values()),
    ]
    rows = (
        [
            codec["codec"],
            point["setting"],
            number(point["bits_per_pixel"]),
            number(None if point["num_bytes"] is None else round(point["num_bytes"])),
            duration(point["encode_seconds"]),
            duration(point["decode_seconds"]),
            *(_mean_at(point, key) for key in metrics),
        ]
        for codec in content["codecs"]
        for point in codec["points"]
    )
    caption = "Means over the images; bytes of all of them; median times of one"
    if any(point["num_infinite"] for codec in content["codecs"] for point in codec["points"]):
        caption += "; +N: as many images have an infinite value, which is not in the mean"
    return details("All points", table(caption, columns, rows))


def _mean_at(point: Mapping[str, Any], key: str) -> str:
    count = point["num_infinite"].get(key)
    return number(point["metrics"].get(key)) + (f" +{number(count)}" if count else "")


def _points_by_image(content: Mapping[str, Any]) -> Html:
    metrics = content["metrics"]
    rows = [
        [
            codec["codec"],
            point["setting"],
            verbatim(name),
            sortable_number(values.get("bits_per_pixel")),
            *(sortable_number(values.get(key)) for key in metrics),
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
        *(Column(metric_head(metric), worst=worst_order(metric)) for metric in metrics.values()),
    ]
    return details(
        "Each image at each point", table("Values of each image", columns, rows, is_sortable=True)
    )


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


def no_room(num_left_out: int) -> Html:
    """That pictures are missing because of the page's size."""
    what = "1 picture is" if num_left_out == 1 else f"{num_left_out:,} pictures are"
    lines = ["The page would be larger than --max-megabytes allows."] if num_left_out else []
    return notice(f"{what} not shown", lines)


def warnings_of(runs: Sequence[Run]) -> Html:
    """What the runs warned of."""
    return join(
        notice(
            join((verbatim(run.name), ": what to know about its values")), run.content["warnings"]
        )
        for run in runs
    )


def skipped(runs: Sequence[Run]) -> Html:
    """What the runs left out, by name, and what had no partner."""
    notices = []
    for run in runs:
        lines = [
            join((verbatim(name), f": {reason}")) for name, reason in run.content["skipped"].items()
        ]
        files = "file was" if len(lines) == 1 else "files were"
        title = join((verbatim(run.name), f": {len(lines):,} {files} left out"))
        notices.append(notice(title, lines))
        alone = [
            join((verbatim(name), " is only in ", verbatim(folder)))
            for folder, names in run.content["unmatched"].items()
            for name in names
        ]
        title = join((verbatim(run.name), f": {len(alone):,} without a partner"))
        notices.append(notice(title, alone))
    return join(notices)


def notice(title: str, lines: Sequence[str]) -> Html:
    """A box that a reader must not miss; nothing without lines."""
    if not lines:
        return Html("")
    shown = [*lines[:_MAX_LINES]]
    if len(lines) > _MAX_LINES:
        shown.append(f"and {len(lines) - _MAX_LINES:,} more, which the run names")
    items = element("ul", *(element("li", line) for line in shown))
    return element("div", element("p", title), items, class_="notice")


def provenance(run: Run) -> list[Html]:
    """What it takes to repeat a run."""
    parts: list[Html] = []
    made_by = {name: run.content[name] for name in ("command", "commit") if run.content[name]}
    for title, items in (
        ("Environment", made_by | dict(run.content["environment"])),
        ("Settings", run.content["settings"]),
    ):
        if items:
            parts += [element("h3", title), definitions(items.items())]
    return [*parts, element("p", f"From {run.path.name}", class_="note")]
