# SPDX-License-Identifier: Apache-2.0
"""The paper's ablations of skipped verification (arXiv:2511.13587), and ours, as pairs of modes that differ in one thing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from bench._decoding.generator import Mode

_TREE = Mode(name="uniform", widths=(2, 2, 1), skip=(("interval", 3),))
# Of paths that end at different depths, as those of EAGLE-2 do: only there does gamma cut anything.
_UNEVEN = Mode(name="uneven paths", parents=(0, 0, 1, 1, 3, 5), skip=(("interval", 3),))

# By name.
MODES: dict[str, Mode] = {
    mode.name: mode
    for mode in (
        _TREE,
        _TREE.with_skip("confidence", path="confidence"),
        _UNEVEN,
        _UNEVEN.with_skip("uneven paths, not truncated", truncates=False),
        replace(_TREE, name="staleness 0, 0", staleness=(0, 0)),
        replace(_TREE, name="staleness -1, 3", staleness=(-1, 3)),
        _TREE.with_skip("interval 2", interval=2),
        _TREE.with_skip("interval 4", interval=4),
        _TREE.with_skip("rollback", rollback_below=1e-4),
    )
}


@dataclass(frozen=True, slots=True)
class Direction:
    """Two modes, and what the paper's table says of the step from the first to the second.

    Attributes:
        name: For the table.
        first: Name of a mode.
        second: Of another.
        source: The paper's numbers, or that there are none.
        speed: Sign of the change of tokens a forward; 0 where they stay within 2 %. None if the paper does not say.
        loss: Sign of the change of the distance from plain decoding, by FID there, by likelihood here.
    """

    name: str
    first: str
    second: str
    source: str
    speed: int | None
    loss: int | None


DIRECTIONS = (
    Direction(
        "without truncation (gamma)",
        "uneven paths",
        "uneven paths, not truncated",
        "TPF 2.16 to 2.42, FID 24.71 to 26.24 (of the likeliest path)",
        1,
        1,
    ),
    Direction(
        "old features after verified rounds too",
        "uniform",
        "staleness 0, 0",
        "TPF 2.31 to 2.23, FID 27.69 to 32.63",
        -1,
        1,
    ),
    Direction(
        "older features after skipped rounds",
        "uniform",
        "staleness -1, 3",
        "TPF 2.31 to 2.27, FID 27.69 to 28.93",
        -1,
        1,
    ),
    Direction(
        "the likeliest path",
        "uniform",
        "confidence",
        "TPF 2.16 to 2.16, FID 23.88 to 24.71",
        0,
        1,
    ),
    Direction("every second round", "uniform", "interval 2", "none for one delta", 1, 1),
    Direction("every fourth round", "uniform", "interval 4", "none for one delta", -1, -1),
    Direction("unlikely tokens taken back", "uniform", "rollback", "none: ours", None, -1),
)
# Of these the paper has numbers.
NUM_OF_PAPER = 4


def direction_rows(found: Mapping[str, Mapping[str, float]]) -> list[dict[str, Any]]:
    """The table.

    Args:
        found: By mode: ``tokens_per_forward``, and ``excess`` and ``excess_error`` in nats.
    """
    rows = []
    for one in DIRECTIONS:
        a, b = found[one.first], found[one.second]
        ratio = b["tokens_per_forward"] / a["tokens_per_forward"]
        speed = 0 if abs(ratio - 1) < 0.02 else (1 if ratio > 1 else -1)
        change = b["excess"] - a["excess"]
        error = (a["excess_error"] ** 2 + b["excess_error"] ** 2) ** 0.5
        loss = 1 if change > 0 else -1
        agrees = one.speed in (None, speed) and one.loss in (None, loss)
        rows.append(
            {
                "from": one.first,
                "step": one.name,
                "paper": one.source,
                "tokens_per_forward": f"{a['tokens_per_forward']:.2f} to {b['tokens_per_forward']:.2f}",
                "nats": f"{change:+.3f} +- {error:.3f}",
                "as_the_paper": agrees,
            }
        )
    return rows
