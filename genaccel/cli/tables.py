# SPDX-License-Identifier: Apache-2.0
"""Tables of numbers that fit into a terminal of 80 columns."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.table import Table


def compact_table(texts: Sequence[str], numbers: Sequence[str], title: str | None = None) -> Table:
    """A table with columns of text and, right-aligned behind them, of numbers, with no rules between.

    Args:
        texts: Headings of the columns of text; a line break makes a column narrower.
        numbers: Headings of the columns of numbers.
        title: Title above the table.
    """
    from rich import box
    from rich.table import Table

    table = Table(
        title=title, box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, padding=(0, 1, 0, 0)
    )
    for heading in texts:
        table.add_column(heading, no_wrap=True)
    for heading in numbers:
        table.add_column(heading, justify="right", no_wrap=True)
    return table


def number(value: float | None, form: str) -> str:
    """A value in a format such as ``"{:.2f}"``; nothing for None."""
    return "" if value is None else form.format(value)
