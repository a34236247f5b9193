# SPDX-License-Identifier: Apache-2.0
"""One metric over several runs: a row for each, with a histogram, the mean and its interval, on one scale.

Rows are laid out by the browser and need no script, so that names of any length and screens of any width fit.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from genaccel.eval._page.distribution import Distribution, round_ticks
from genaccel.eval._page.markup import Html, element, number, verbatim

# Share of a row's width, in per cent, for values that are infinite; so far they lie beyond the scale.
_EDGE = 9.0
_MAX_BINS = 32
# Height of a histogram in its own units; the browser stretches it.
_HEIGHT = 100


@dataclass(frozen=True, kw_only=True, slots=True)
class SpreadRow:
    """A run in the chart.

    Attributes:
        name: Of the run.
        value: The number that stands for it: a mean, or the value itself.
        interval: Of the mean, if known.
        deviation: Standard deviation over images, if known.
        distribution: Values of its images; empty for a metric of sets.
        note: A sentence beside its numbers.
    """

    name: str
    value: float | None
    interval: tuple[float, float] | None = None
    deviation: float | None = None
    distribution: Distribution = field(default_factory=lambda: Distribution(values=()))
    note: str = ""


@dataclass(frozen=True, slots=True)
class _Axis:
    """From values to per cent of the width."""

    low: float
    high: float
    has_above: bool
    has_below: bool
    is_finite: bool = True

    @classmethod
    def of(cls, rows: Sequence[SpreadRow]) -> _Axis | None:
        shown = [row.value for row in rows if row.value is not None]
        for row in rows:
            # The ends are enough.
            shown += [*row.distribution.values[:1], *row.distribution.values[-1:]]
            shown += row.interval or ()
        finite = [value for value in shown if math.isfinite(value)]
        above = any(row.distribution.num_above or row.value == math.inf for row in rows)
        below = any(row.distribution.num_below or row.value == -math.inf for row in rows)
        if not finite:
            return cls(0.0, 1.0, above, below, False) if above or below else None
        low, high = min(finite), max(finite)
        margin = (high - low) * 0.03 or abs(high) * 0.05 or 1.0
        return cls(low - margin, high + margin, above, below)

    @property
    def start(self) -> float:
        return _EDGE if self.has_below else 0.0

    @property
    def end(self) -> float:
        return 100.0 - _EDGE if self.has_above else 100.0

    def at(self, value: float) -> float:
        if math.isinf(value):
            return 100.0 - _EDGE / 2 if value > 0 else _EDGE / 2
        return self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start)


def spread_chart(
    metric: Mapping[str, Any],
    heading: Html,
    rows: Sequence[SpreadRow],
    interval_methods: Iterable[str] = (),
) -> Html:
    """The chart with its heading, axis and explanation.

    Args:
        metric: With ``title`` and ``unit``.
        heading: What the chart is headed with: the metric, its unit and direction.
        rows: In the order in which they are shown.
        interval_methods: How the intervals were computed.
    """
    axis = _Axis.of(rows)
    if axis is None:
        return element("p", f"{metric['title']}: no run has a value.", class_="note")
    busiest = max(len(row.distribution.values) for row in rows)
    num_bins = min(_MAX_BINS, max(8, math.ceil(2 * math.sqrt(busiest))))
    return element(
        "figure",
        element("figcaption", heading),
        element("ul", *(_row(metric, row, axis, num_bins) for row in rows), class_="spread-rows"),
        _ticks(axis),
        _legend(axis, rows, interval_methods),
        class_="spread",
    )


def _row(metric: Mapping[str, Any], row: SpreadRow, axis: _Axis, num_bins: int) -> Html:
    return element(
        "li",
        verbatim(row.name),
        element("div", _bars(row, axis, num_bins), *_marks(row, axis), class_="track"),
        element(
            "span",
            element("strong", f"{number(row.value)} {metric['unit']}".rstrip()),
            *(element("small", line) for line in _facts(row)),
            class_="facts",
        ),
    )


def _facts(row: SpreadRow) -> list[str]:
    lines = []
    if row.interval is not None:
        low, high = map(number, row.interval)
        lines.append(f"95 % interval {low} to {high}")
    if row.deviation is not None:
        lines.append(f"standard deviation {number(row.deviation)}")
    if row.note:
        lines.append(row.note)
    return lines


def _bars(row: SpreadRow, axis: _Axis, num_bins: int) -> Html:
    spread = row.distribution
    counts = spread.histogram(axis.low, axis.high, num_bins)
    step = (axis.high - axis.low) / num_bins
    bars = [
        (axis.at(axis.low + k * step), axis.at(axis.low + (k + 1) * step), count,
         f"{number(axis.low + k * step)} to {number(axis.low + (k + 1) * step)}")
        for k, count in enumerate(counts)
    ]  # fmt: skip
    if spread.num_above:
        bars.append((100 - _EDGE * 0.75, 100 - _EDGE * 0.25, spread.num_above, "infinite"))
    if spread.num_below:
        bars.append((_EDGE * 0.25, _EDGE * 0.75, spread.num_below, "minus infinity"))
    tallest = max((count for _, _, count, _ in bars), default=0)
    shapes = [
        element(
            "rect",
            element("title", f"{text}: {count} image{'s' if count != 1 else ''}"),
            x=f"{left:.2f}",
            y=f"{_HEIGHT - _HEIGHT * count / tallest:.1f}",
            width=f"{max(right - left - 0.2, 0.1):.2f}",
            height=f"{_HEIGHT * count / tallest:.1f}",
            class_="infinite" if text in ("infinite", "minus infinity") else "bar",
        )
        for left, right, count, text in bars
        if count
    ]
    if not shapes:
        return Html("")
    return element(
        "svg",
        *shapes,
        viewBox=f"0 0 100 {_HEIGHT}",
        preserveAspectRatio="none",
        role="img",
        aria_label=_described(spread),
    )


def _described(spread: Distribution) -> str:
    parts = []
    if spread.values:
        low, high = number(spread.values[0]), number(spread.values[-1])
        parts.append(f"{len(spread.values)} images from {low} to {high}")
    parts += [f"{spread.num_above} infinite"] * bool(spread.num_above)
    parts += [f"{spread.num_below} minus infinity"] * bool(spread.num_below)
    return f"Histogram of {', '.join(parts)}"


def _marks(row: SpreadRow, axis: _Axis) -> list[Html]:
    marks = []
    if row.interval is not None:
        left, right = map(axis.at, row.interval)
        style = f"left: {left:.2f}%; width: {right - left:.2f}%"
        marks.append(element("span", class_="interval", style=style))
    if row.value is not None:
        style = f"left: {axis.at(row.value):.2f}%"
        marks.append(element("span", class_="mean", style=style))
    return marks


def _ticks(axis: _Axis) -> Html:
    ends = [
        (axis.at(value), value)
        for is_shown, value in ((axis.has_below, -math.inf), (axis.has_above, math.inf))
        if is_shown
    ]
    # A scale that no finite value made has no numbers; and one beside an end would touch its sign.
    places = [
        (axis.at(value), f"{value:.12g}".replace("-", "\N{MINUS SIGN}"))
        for value in round_ticks(axis.low, axis.high, 4)
        if axis.is_finite and all(abs(axis.at(value) - place) > _EDGE for place, _ in ends)
    ]
    ticks = [element("span", text, style=f"left: {place:.2f}%") for place, text in places]
    ticks += [
        element("span", number(value), class_="beyond", style=f"left: {place:.2f}%")
        for place, value in ends
    ]
    return element(
        "div", element("div", *ticks, class_="ticks"), class_="spread-axis", aria_hidden="true"
    )


def _legend(axis: _Axis, rows: Sequence[SpreadRow], interval_methods: Iterable[str]) -> Html:
    has_images = any(row.distribution.values for row in rows)
    entries = [("mean", "mean of the finite values" if has_images else "value")]
    if any(row.interval for row in rows):
        entries.append(("interval", f"95 % interval of the mean ({'; '.join(interval_methods)})"))
    if has_images:
        entries.append(("bar", "images by value; each row has a scale of its own"))
    if axis.has_above or axis.has_below:
        entries.append(
            ("infinite", "images with an infinite value" if has_images else "infinite value")
        )
    return element(
        "p",
        *(element("span", element("i", class_=f"sample {mark}"), text) for mark, text in entries),
        class_="spread-legend note",
    )
