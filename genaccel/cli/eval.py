# SPDX-License-Identifier: Apache-2.0
"""``genaccel eval``: the commands of :mod:`genaccel.eval`, each in the module of its metric."""

from __future__ import annotations

import typer

from genaccel.cli.lazy_group import Subcommand, lazy_group
from genaccel.eval.metrics import METRICS

_JUDGED = {"pairs": "Pairs", "videos": "Videos", "sets": "Sets", "files": "Compressed files"}
SUBCOMMANDS = (
    *(
        Subcommand(row.name, row.module, f"{_JUDGED[row.kind]}: {row.summary}.", attribute="main")
        for row in METRICS.values()
    ),
    Subcommand(
        "rate-distortion",
        "genaccel.eval.rate_distortion",
        "Codecs: rate-distortion points, BD-rates and pictures.",
        attribute="main",
    ),
    Subcommand(
        "speed",
        "genaccel.eval.speed",
        "Functions: time, FLOPs and memory, side by side.",
        attribute="main",
    ),
    Subcommand("report", "genaccel.eval.report", "Results: one HTML page.", attribute="main"),
)

app = typer.Typer(
    cls=lazy_group(SUBCOMMANDS), help="Measure image quality, rate and speed.", no_args_is_help=True
)


@app.callback()
def eval_command() -> None:
    """Measure image quality, rate and speed. Each command also runs as python -m genaccel.eval.NAME."""
