# SPDX-License-Identifier: Apache-2.0
"""HTML and numbers as text. Strings are escaped unless they were made here."""

from __future__ import annotations

import html
import json
import math
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

MISSING = "\N{EN DASH}"

# Letters from which a name in the first column may be broken into lines, but not into a tower.
_LONG_NAME = 14

# Letters from which a name is cut where there is no room for it, and how many of its end stay.
_CUT_NAME = 32
_TAIL = 10

# Control characters have no look of their own, and a page may not hold all of them.
_CONTROLS = {code: 0x2400 + code for code in range(32)} | {0x7F: 0x2421}


class Html(str):
    """Markup that needs no escaping."""

    __slots__ = ()


class Column(NamedTuple):
    """Head of a table's column.

    Attributes:
        title: Its text, or markup.
        is_number: Whether to align it to the right.
        worst: Order that puts the worst row first, ``"ascending"`` or ``"descending"``; empty if none does.
        is_sorted: Whether the rows are in that order.
    """

    title: str
    is_number: bool = True
    worst: str = ""
    is_sorted: bool = False


def element(tag: str, *children: str, **attributes: str) -> Html:
    """An element; an underscore in an attribute's name stands for a hyphen, a trailing one for nothing.

    Example:
        >>> element("p", "1 < 2", class_="note")
        '<p class="note">1 &lt; 2</p>'
    """
    written = "".join(
        f' {name.rstrip("_").replace("_", "-")}="{html.escape(value)}"'
        for name, value in attributes.items()
    )
    return Html(f"<{tag}{written}>{join(children)}</{tag}>")


def join(parts: Iterable[str]) -> Html:
    """One piece of markup out of several, with plain strings escaped."""
    return Html("".join(part if isinstance(part, Html) else html.escape(part) for part in parts))


def verbatim(text: str, tag: str = "span", **attributes: str) -> Html:
    """A name from outside: verbatim, kept apart from its surroundings if it reads from right to left, and all of it on
    hover. Where there is too little room for a long one, it is cut before its end, which often tells names apart.

    Example:
        >>> verbatim("kodim01")
        '<span class="name" title="kodim01"><bdi>kodim01</bdi></span>'
    """
    shown = text.translate(_CONTROLS)
    if len(shown) <= _CUT_NAME:
        parts, look = [shown], "name"
    else:
        parts, look = [shown[:-_TAIL], shown[-_TAIL:]], "name long"
        attributes = {"dir": "auto", **attributes}
    return element(
        tag,
        *(element("bdi", part) for part in parts),
        **{"class_": look, "title": shown, **attributes},
    )


def table(
    caption: str,
    columns: Sequence[Column],
    rows: Iterable[Sequence[str]],
    *,
    is_sortable: bool = False,
) -> Html:
    """A table whose first column names the rows, in a box that scrolls sideways on narrow screens.

    Args:
        caption: What it shows.
        columns: Its head.
        rows: Cells by column; plain text is escaped.
        is_sortable: Whether the page's script makes buttons of the head, which sort the rows.
    """
    head = join(
        element(
            "th",
            column.title,
            scope="col",
            class_="number" if column.is_number else "text",
            **({"data_worst": column.worst} if column.worst else {}),
            **({"aria_sort": column.worst} if column.is_sorted else {}),
        )
        for column in columns
    )
    rows = list(rows)
    body = join(element("tr", _row(columns, row)) for row in rows)
    is_long = any(len(row[0]) > _LONG_NAME for row in rows)
    classes = ["sortable"] * is_sortable + ["long-names"] * is_long
    inner = element(
        "table",
        element("caption", element("span", caption)),
        element("thead", element("tr", head)),
        element("tbody", body),
        **({"class_": " ".join(classes)} if classes else {}),
    )
    # Focusable, so that the keyboard can scroll it.
    return element(
        "div", inner, class_="scroll", tabindex="0", role="region", aria_label=f"Table: {caption}"
    )


def _row(columns: Sequence[Column], cells: Sequence[str]) -> Html:
    written = [element("th", verbatim(cells[0]), scope="row", class_="text")]
    for column, cell in zip(columns[1:], cells[1:], strict=True):
        written.append(element("td", cell, class_="number" if column.is_number else "text"))
    return join(written)


def details(summary: str, *children: str) -> Html:
    """Content that a click opens."""
    return element("details", element("summary", summary), *children)


def definitions(items: Iterable[tuple[str, Any]]) -> Html:
    """Names and values."""
    return element(
        "dl",
        *(
            element("div", element("dt", name), element("dd", plain(value)))
            for name, value in items
        ),
    )


def plain(value: Any) -> str:
    """A setting as text."""
    if value is None or value == "":
        return MISSING
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return number(value)
    if isinstance(value, dict | list):
        return json.dumps(value, ensure_ascii=False)
    return str(value)


def number(value: float | int | None, digits: int = 4) -> str:
    """A number with some significant digits, or a dash for none.

    Example:
        >>> number(27.4349), number(0.5), number(123456)
        ('27.43', '0.5000', '123,456')
    """
    if value is None:
        return MISSING
    if math.isinf(value):
        return "\N{INFINITY}" if value > 0 else "\N{MINUS SIGN}\N{INFINITY}"
    if value == 0:
        return "0"
    if isinstance(value, int) or abs(value) >= 10 ** (digits - 1):
        text = f"{value:,.0f}"
    elif abs(value) < 1e-4:
        text = f"{value:.{digits - 1}e}"
    else:
        # format() pads to as many significant digits, but marks a whole number with a point.
        text = f"{value:#.{digits}g}".rstrip(".")
    return text.replace("-", "\N{MINUS SIGN}")


def sortable_number(value: float | int | None) -> Html:
    """A number that a script can sort by, as exact as it was."""
    return element("data", number(value), value="" if value is None else repr(float(value)))


def percent(value: float | None) -> str:
    """A change, always with its sign."""
    if value is None:
        return MISSING
    return f"{value:+.1f}".replace("-", "\N{MINUS SIGN}")


def duration(seconds: float | None) -> str:
    """A time in the unit that suits it."""
    return _scaled(seconds, ((1.0, "s"), (1e-3, "ms"), (1e-6, "µs")))


def count(value: float | None) -> str:
    """A large number with a metric prefix."""
    return _scaled(value, ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"), (1, "")))


def size(num_bytes: float | None) -> str:
    """Bytes with a binary prefix."""
    return _scaled(
        num_bytes,
        ((1 << 40, "TiB"), (1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB"), (1, "B")),
    )


def _scaled(value: float | None, units: Sequence[tuple[float, str]]) -> str:
    if value is None:
        return MISSING
    factor, unit = next((row for row in units if abs(value) >= row[0]), units[-1])
    return f"{number(value / factor, 3)}\N{NO-BREAK SPACE}{unit}".rstrip("\N{NO-BREAK SPACE}")
