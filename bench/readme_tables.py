# SPDX-License-Identifier: Apache-2.0
"""Draws tables of a Markdown page from recorded results, so that no figure is copied by hand.

    python bench/readme_tables.py [--check] [PAGE...]

A table stands between two comments, of which the first says what it shows:

    <!-- table: bench/results/soda.json; columns: method, psnr as PSNR dB .1f; where: part=landscapes-dit, 2x -->
    <!-- /table -->

``where`` keeps the rows that have a value; ``of`` names a table of the file other than its rows. A file that is not there
gives a sentence instead; ``genaccel.eval.metrics`` in the place of a file gives the table of metrics. By default the pages are
README.md and docs/evaluation.md; ``--check`` writes nothing and exits with 1 if it would.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from genaccel.eval import metrics
from genaccel.files.atomic import write_atomically

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "docs" / "evaluation.md"]
_SECTION = re.compile(r"(<!-- table: (.*?) -->\n)(.*?)(<!-- /table -->)", re.DOTALL)


def _cell(value: Any, form: str) -> str:
    if value is None:
        return "-"
    return format(value, form) if isinstance(value, float) else str(value)


def draw(rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> str:
    """A Markdown table.

    Args:
        rows: Of a result file.
        columns: ``KEY``, ``KEY as TITLE`` or ``KEY as TITLE FORMAT``, where FORMAT is Python's for a float, as ``.1f``.

    Raises:
        KeyError: If a row has no such key.
    """
    parsed = []
    for column in columns:
        key, _, title = column.partition(" as ")
        match = re.fullmatch(r"(.*?)(?: (\.\d[feg%]))?", title or key)
        assert match is not None
        parsed.append((key, match[1], match[2] or ".4g"))
    lines = [
        "| " + " | ".join(title for _, title, _ in parsed) + " |",
        "| " + " | ".join("---" for _ in parsed) + " |",
        *(
            "| " + " | ".join(_cell(row[key], form) for key, _, form in parsed) + " |"
            for row in rows
        ),
    ]
    return "\n".join(lines) + "\n"


def _metric_rows() -> list[dict[str, str]]:
    return [
        {
            "command": f"`{row.name}{f' [{row.options}]' * bool(row.options)}`".replace("|", "\\|"),
            "of": row.kind,
            "metric": row.summary,
            "better": row.better,
            "weights": row.weights or "-",
            "function": f"`{row.file_name}.{row.function}`",
        }
        for row in metrics.METRICS.values()
    ]


def _section(description: str, root: Path) -> str:
    name, *rest = (part.strip() for part in description.split(";"))
    settings = dict(part.split(":", 1) for part in rest)
    path = root / name
    if name == metrics.__name__:
        rows = _metric_rows()
    elif path.is_file():
        record = json.loads(path.read_text())
        of = settings.get("of")
        rows = record["rows"] if of is None else record["tables"][of.strip()]
    else:
        return f"Not measured yet: there is no {name}.\n"
    if "where" in settings:
        key, _, value = settings["where"].strip().partition("=")
        rows = [row for row in rows if str(row[key]) == value]
    if not rows:
        raise ValueError(f"no rows for {description!r}")
    return draw(rows, [column.strip() for column in settings["columns"].split(",")])


def redraw(text: str, root: Path = ROOT) -> str:
    """A page with its tables drawn anew from the files below ``root``."""
    return _SECTION.sub(lambda m: m[1] + _section(m[2], root) + m[4], text)


def main(arguments: Sequence[str] | None = None) -> int:
    """Redraw pages."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("pages", nargs="*", type=Path, default=PAGES)
    parser.add_argument(
        "--check", action="store_true", help="write nothing, exit with 1 if it would"
    )
    options = parser.parse_args(arguments)
    stale = False
    for page in options.pages:
        text = page.read_text()
        drawn = redraw(text)
        if drawn == text:
            continue
        stale = True
        print(f"{page} {'is stale' if options.check else 'drawn anew'}")
        if not options.check:
            write_atomically(page, drawn, overwrite=True)
    return int(options.check and stale)


if __name__ == "__main__":
    sys.exit(main())
