# SPDX-License-Identifier: Apache-2.0
"""The harness of all benchmarks: arguments, bars, and a JSON record with versions and device."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from genaccel.eval.results import environment, source_commit
from genaccel.files.atomic import write_json

# Folders that a benchmark's figures depend on.
MEASURED = ("bench", ":!bench/results", "csrc", "eval", "genaccel", "pipelines")


@dataclass(kw_only=True)
class Bench:
    """One run of a benchmark script."""

    name: str
    quick: bool
    json_path: Path | None
    rows: list[dict[str, Any]] = field(default_factory=list)
    tables: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    bars: list[dict[str, Any]] = field(default_factory=list)
    options: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def from_command_line(
        cls,
        name: str,
        description: str,
        options: Mapping[str, tuple[type, Any, Any, str]] | None = None,
    ) -> Bench:
        """Parse ``--quick`` and ``--json FILE``, and options of the benchmark's own.

        Args:
            name: Name of the benchmark.
            description: Description in its help.
            options: By name: type, default, default of a quick run, help; a bool is a flag.
        """
        parser = argparse.ArgumentParser(description=description)
        parser.add_argument("--quick", action="store_true", help="under 50 s on 2 cores")
        parser.add_argument("--json", type=Path, metavar="FILE", help="also write the results here")
        for option, (kind, default, _, text) in (options or {}).items():
            if kind is bool:
                parser.add_argument(f"--{option}", action="store_true", help=text)
            else:
                parser.add_argument(f"--{option}", type=kind, help=f"{text} (default {default})")
        arguments = parser.parse_args()
        chosen = {
            option: getattr(arguments, option)
            if getattr(arguments, option) is not None
            else (quick_default if arguments.quick else default)
            for option, (_, default, quick_default, _) in (options or {}).items()
        }
        return cls(name=name, quick=arguments.quick, json_path=arguments.json, options=chosen)

    def bar(
        self,
        name: str,
        value: float | None,
        target: float,
        *,
        higher_is_better: bool = True,
        interval: tuple[float, float] | None = None,
    ) -> None:
        """Record whether a measured value (None: not measurable here) reaches its target.

        Args:
            name: Name of the bar.
            value: The measured value.
            target: The value that it is to reach.
            higher_is_better: Whether to lie above the target.
            interval: Ends of where the value lies for sure. If given, its worse end has to lie beyond
                the target.
        """
        reached = value is not None and (value >= target if higher_is_better else value <= target)
        bar: dict[str, Any] = {"name": name, "value": value, "target": target, "ok": reached}
        if interval is not None:
            low, high = interval
            bar["ok"] = reached and (low > target if higher_is_better else high < target)
            bar["interval"] = [low, high]
        self.bars.append(bar)

    def take_recorded_bars(self, targets: Mapping[str, float], path: Path) -> str:
        """Take bars that a quick run has no time for from the record of a full one.

        Args:
            targets: Targets of the bars, by name. One that was not recorded has no value.
            path: Path of the record. One that does not say which commit it measured is passed over.

        Returns:
            A sentence on where they are from.
        """
        record = json.loads(path.read_text()) if path.is_file() else {}
        commit = record.get("environment", {}).get("commit")
        known = {bar["name"]: bar for bar in record.get("bars", ())} if commit else {}
        for name, target in targets.items():
            missing = {"name": name, "value": None, "target": target, "ok": False}
            self.bars.append({**known.get(name, missing), "recorded": commit})
        names = ", ".join(targets)
        if commit is None:
            return f"{path.name} records no full run of a named commit: {names} have no value"
        when = record["environment"].get("date", "")[:10]
        return f"of the full run of commit {commit} that {path.name} records ({when}): {names}"

    def finish(self, versions_of: Sequence[str] = ()) -> None:
        """Print the tables and the bars, and write the JSON file."""
        described = environment(versions_of) | {"commit": source_commit(MEASURED)}
        console = Console(width=None if sys.stdout.isatty() else 160, markup=False, emoji=False)
        console.print("  ".join(f"{k} {v}" for k, v in described.items()), highlight=False)
        for title, rows in (("", self.rows), *self.tables.items()):
            if rows:
                console.print(_table(title, rows))
        if self.json_path is not None:
            record = {
                "benchmark": self.name,
                "quick": self.quick,
                "environment": described,
                "rows": self.rows,
                **({"tables": self.tables} if self.tables else {}),
                "bars": self.bars,
            }
            write_json(self.json_path, record, indent=1, overwrite=True, parents=True)
        for bar in self.bars:
            value = "nan" if bar["value"] is None else f"{bar['value']:.3f}"
            print(
                f"bar {bar['name']} value={value} target={bar['target']} {'ok' if bar['ok'] else 'short'}"
            )


def _table(title: str, rows: Sequence[Mapping[str, Any]]) -> Table:
    table = Table(*(column.replace("_", " ") for column in rows[0]), title=title or None)
    for row in rows:
        table.add_row(*(_cell(value) for value in row.values()))
    return table


def _cell(value: object) -> str:
    if value is None:
        return "-"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
