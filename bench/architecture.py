# SPDX-License-Identifier: Apache-2.0
"""Draws ``docs/architecture.svg``: the rooms of genaccel, and who imports whom, read off the imports.

    python bench/architecture.py [--check] [--out FILE]

A room is a folder of ``genaccel/`` or a file beside them. Each stands above all that it imports. An arrow that follows from
two others is left out, so that the picture shows what matters: who needs whom directly. ``--check`` writes nothing and
exits with 1 if the picture is not that of the code.
"""

from __future__ import annotations

import argparse
import ast
import functools
import itertools
import sys
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from genaccel.files.atomic import write_atomically

ROOT = Path(__file__).parents[1]
_PICTURE = ROOT / "docs" / "architecture.svg"
# Imported by everyone, or by tests alone: their arrows would tell nothing.
_LEFT_OUT = {"errors", "reference", "__init__", "_library"}
# Pixels: a room, the space beside it, a place kept free for an arrow, from row to row, and around all.
_ROOM, _HEIGHT, _GAP, _LANE, _ROW, _EDGE = 124, 36, 30, 34, 82, 24


def room_of(path: Path) -> str:
    """The room that a Python file of the checkout belongs to."""
    parts = path.relative_to(ROOT).parts
    return parts[0] if parts[0] != "genaccel" else parts[1].removesuffix(".py")


def imported_rooms(path: Path) -> set[str]:
    """Rooms of genaccel that a file imports, at any depth of its code."""
    rooms = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            module = node.module or ""
            names = (
                [f"genaccel.{alias.name}" for alias in node.names]
                if module == "genaccel"
                else [module]
            )
        rooms |= {name.split(".")[1] for name in names if name.startswith("genaccel.")}
    return rooms


def imports_of_rooms() -> dict[str, set[str]]:
    """Which rooms each room imports.

    Raises:
        ValueError: If rooms import each other in a circle.
    """
    found: dict[str, set[str]] = {}
    for folder in ("genaccel", "eval", "pipelines"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            found.setdefault(room_of(path), set()).update(imported_rooms(path))
    rooms = {room for room in found if room not in _LEFT_OUT}
    # The compiled library is what the operators and the range coder stand on; it has no Python file.
    needs = {room: (found[room] & (rooms | {"_coder"})) - {room} for room in rooms}
    needs["ops"] = needs["ops"] | {"csrc"}
    needs |= {"_coder": {"csrc"}, "csrc": set()}
    return needs


def levels(needs: Mapping[str, Collection[str]]) -> dict[str, int]:
    """The row of each room, counted from the ground: one more than that of the highest room it needs."""
    found: dict[str, int] = {}
    while len(found) < len(needs):
        ready = [
            room
            for room, wanted in needs.items()
            if room not in found and all(other in found for other in wanted)
        ]
        if not ready:
            raise ValueError(f"rooms in a circle: {sorted(set(needs) - set(found))}")
        found |= {
            room: 1 + max((found[other] for other in needs[room]), default=-1) for room in ready
        }
    return found


def direct(needs: Mapping[str, Collection[str]]) -> dict[str, list[str]]:
    """The arrows that do not follow from others (transitive reduction)."""

    @functools.cache
    def below(room: str) -> frozenset[str]:
        return frozenset(needs[room]).union(*(below(other) for other in needs[room]))

    return {
        room: sorted(
            other
            for other in wanted
            if not any(other in below(middle) for middle in wanted if middle != other)
        )
        for room, wanted in sorted(needs.items())
    }


def routes(
    arrows: Mapping[str, Collection[str]], level: Mapping[str, int]
) -> dict[tuple[str, str], list[str]]:
    """The stops of each arrow: its two rooms and, in each row between them, a place kept free for it."""
    return {
        (room, other): [
            room,
            *(f"{room} {other} {row}" for row in range(level[room] - 1, level[other], -1)),
            other,
        ]
        for room, wanted in arrows.items()
        for other in wanted
    }


def places(
    stops: Collection[Collection[str]], level: Mapping[str, int]
) -> dict[str, tuple[float, float]]:
    """The middle of each room and of each free place, near what they are linked with; the top left is (0, 0)."""
    near: dict[str, list[str]] = {room: [] for room in level}
    rows = [sorted(r for r in level if level[r] == i) for i in range(max(level.values()) + 1)]
    for route in stops:
        for above, below in itertools.pairwise(route):
            near.setdefault(above, []).append(below)
            near.setdefault(below, []).append(above)
        for stop in route:
            if stop not in level:
                rows[int(stop.rsplit(" ", 1)[1])].append(stop)
    x: dict[str, float] = {}

    def spread(row: Sequence[str]) -> None:
        widths = [_ROOM + _GAP if stop in level else _LANE for stop in row]
        ends = list(itertools.accumulate(widths))
        x.update(
            {s: end - w / 2 - ends[-1] / 2 for s, w, end in zip(row, widths, ends, strict=True)}
        )

    for row in rows:
        spread(row)
    for _ in range(40):
        for row in rows:
            wish = {s: sum(x[other] for other in near[s]) / max(1, len(near[s])) for s in row}
            spread(sorted(row, key=lambda s: (round(wish[s], 3), s)))
    left = min(x[room] for room in level) - _ROOM / 2
    return {
        stop: (x[stop] - left, (len(rows) - 1 - i) * _ROW + _HEIGHT / 2)
        for i, row in enumerate(rows)
        for stop in row
    }


def _arrow(stops: Sequence[tuple[float, float]]) -> str:
    """A curve from the lower edge of the first room to the upper edge of the last one."""
    points = [
        (x, y + _HEIGHT / 2 * (i == 0) - _HEIGHT / 2 * (i == len(stops) - 1))
        for i, (x, y) in enumerate(stops)
    ]
    path = f"M{points[0][0]:.0f} {points[0][1]:.0f}"
    for (x0, y0), (x1, y1) in itertools.pairwise(points):
        middle = (y0 + y1) / 2
        path += f"C{x0:.0f} {middle:.0f} {x1:.0f} {middle:.0f} {x1:.0f} {y1:.0f}"
    return (
        f'<path d="{path}" fill="none" stroke="#5b6b7b" stroke-width="1.3" marker-end="url(#tip)"/>'
    )


def picture() -> str:
    """The SVG."""
    needs = imports_of_rooms()
    level = levels(needs)
    lanes = routes(direct(needs), level)
    place = places(list(lanes.values()), level)
    width = max(x for x, _ in place.values()) + _ROOM / 2 + 2 * _EDGE
    height = max(y for _, y in place.values()) + _HEIGHT / 2 + 2 * _EDGE
    lines = [
        (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="{-_EDGE} {-_EDGE} {width:.0f} {height:.0f}" '
            f'width="{width:.0f}" font-family="sans-serif" font-size="15">'
        ),
        "<title>Rooms of genaccel: an arrow goes from a room to one that it imports</title>",
        (
            '<defs><marker id="tip" viewBox="0 0 8 8" refX="8" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
            '<path d="M0 0 8 4 0 8z" fill="#5b6b7b"/></marker></defs>'
        ),
        f'<rect x="{-_EDGE}" y="{-_EDGE}" width="{width:.0f}" height="{height:.0f}" fill="#ffffff"/>',
        *(_arrow([place[stop] for stop in route]) for route in lanes.values()),
    ]
    for room in sorted(level):
        x, y = place[room]
        fill = "#fde9c9" if room in ("csrc", "_coder") else "#dcebfa"
        lines += [
            (
                f'<rect x="{x - _ROOM / 2:.0f}" y="{y - _HEIGHT / 2:.0f}" width="{_ROOM}" height="{_HEIGHT}" rx="6" '
                f'fill="{fill}" stroke="#33475b"/>'
            ),
            f'<text x="{x:.0f}" y="{y + 5:.0f}" text-anchor="middle" fill="#13212e">{room}</text>',
        ]
    return "\n".join([*lines, "</svg>", ""])


def main() -> int:
    """Write or check the picture."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--out", type=Path, default=_PICTURE)
    arguments = parser.parse_args()
    drawn = picture()
    if arguments.check:
        is_current = arguments.out.is_file() and arguments.out.read_text(encoding="utf-8") == drawn
        if not is_current:
            print(f"{arguments.out} is not the picture of the code: python bench/architecture.py")
        return int(not is_current)
    write_atomically(arguments.out, drawn, overwrite=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
