# SPDX-License-Identifier: Apache-2.0
"""The result of a comparison of speeds: its numbers, its record and its table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from genaccel.errors import printable
from genaccel.eval.commands import verbatim_console
from genaccel.eval.metrics import Metric
from genaccel.eval.results import record

_QUANTITIES = (
    Metric(key="median_seconds", title="Median time", unit="s", higher_is_better=False),
    Metric(key="speedup", title="Speed-up", unit="x", higher_is_better=True),
    Metric(key="flops", title="FLOPs", higher_is_better=False),
    Metric(key="flop_ratio", title="FLOP ratio", unit="x", higher_is_better=True),
    Metric(key="peak_bytes", title="Peak memory", unit="bytes", higher_is_better=False),
)


# The clock cannot tell less from nothing.
_CLOCK_SECONDS = 1e-9


@dataclass(frozen=True, kw_only=True, slots=True)
class SideSpeed:
    """Measurements of one side.

    Attributes:
        name: Of the side.
        seconds: Time of each round, in order.
        median_seconds: Of ``seconds``.
        lower_quartile_seconds: Of ``seconds``.
        upper_quartile_seconds: Of ``seconds``.
        speedup: Median over the rounds of the first side's time divided by this one's. Both times of a
            ratio are neighbours, so a machine that slows down for a while changes neither.
        speedup_lower_quartile: Of those ratios.
        speedup_upper_quartile: Of those ratios.
        flops: Floating-point operations of one call, two per multiply-add: those of matrix products,
            convolutions and attention. torch's counter knows no other operation. None if it saw none.
        flop_ratio: The first side's FLOPs divided by this one's. It is not a speed-up.
        peak_bytes: On a GPU: the most that torch held allocated during one call, the weights of all sides
            included. On a CPU: how far the process's resident memory rose above what it was before the
            call. None where the system does not tell.
        quality: What the quality function said of one output.
    """

    name: str
    seconds: tuple[float, ...]
    median_seconds: float
    lower_quartile_seconds: float
    upper_quartile_seconds: float
    speedup: float
    speedup_lower_quartile: float
    speedup_upper_quartile: float
    flops: int | None
    flop_ratio: float | None
    peak_bytes: int | None
    quality: dict[str, float] = field(default_factory=dict)

    @classmethod
    def of_rounds(
        cls, name: str, seconds: Sequence[float], first_seconds: Sequence[float], **others: Any
    ) -> SideSpeed:
        """The statistics of a side's rounds beside those of the first side; ``others`` are the attributes that remain."""
        lower, median, upper = np.percentile(seconds, (25, 50, 75)).tolist()
        ratios = [a / max(b, _CLOCK_SECONDS) for a, b in zip(first_seconds, seconds, strict=True)]
        slow, speedup, fast = np.percentile(ratios, (25, 50, 75)).tolist()
        return cls(
            name=name,
            seconds=tuple(seconds),
            median_seconds=median,
            lower_quartile_seconds=lower,
            upper_quartile_seconds=upper,
            speedup=speedup,
            speedup_lower_quartile=slow,
            speedup_upper_quartile=fast,
            **others,
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class SpeedComparison:
    """Sides measured in one run.

    Attributes:
        sides: In the order given; ratios are to the first.
        device: Where time and memory were measured.
        repeats: Timed rounds.
        warm_up: Untimed calls of each side before anything was measured.
        threads: CPU threads that torch may use.
    """

    sides: tuple[SideSpeed, ...]
    device: str
    repeats: int
    warm_up: int
    threads: int

    def to_record(
        self, label: str = "", settings: Mapping[str, Any] | None = None
    ) -> dict[str, Any]:
        """The object that ``genaccel eval speed --json`` prints.

        Args:
            label: The user's name for the run.
            settings: To be kept beside the comparison's own.
        """
        metrics: dict[str, Any] = {metric.key: metric.to_dict() for metric in _QUANTITIES}
        for key in self.sides[0].quality:
            # Only the user knows the direction of their own quality function.
            metrics[key] = {"key": key, "title": key, "higher_is_better": None, "unit": ""}
        on_gpu = self.device.startswith("cuda")
        return record(
            "speed",
            label=label,
            settings={
                "device": self.device,
                "repeats": self.repeats,
                "warm_up": self.warm_up,
                "threads": self.threads,
                "clock": "torch.cuda.Event" if on_gpu else "time.perf_counter",
                "memory": "allocated by torch on the GPU" if on_gpu else "rise of resident memory",
                **(settings or {}),
            },
            metrics=metrics,
            sides=[asdict(side) for side in self.sides],
        )


def print_table(compared: SpeedComparison, environment: Mapping[str, str]) -> None:
    """Show a comparison on stdout.

    Args:
        compared: The sides.
        environment: Versions and device, as in the record.
    """
    from rich import box
    from rich.table import Table

    keys = list(compared.sides[0].quality)
    table = Table(box=box.SIMPLE_HEAD)
    table.add_column("", overflow="fold")
    columns = (
        "median ms",
        "quartiles",
        "speed-up",
        "GFLOPs",
        "FLOP ratio",
        "peak MiB",
    )
    for title in (*columns, *keys):
        table.add_column(title, justify="right")
    for side in compared.sides:
        table.add_row(
            printable(side.name),
            _number(side.median_seconds * 1e3),
            f"{_number(side.lower_quartile_seconds * 1e3)}-"
            f"{_number(side.upper_quartile_seconds * 1e3)}",
            f"{side.speedup:.2f}x "
            f"({side.speedup_lower_quartile:.2f}-{side.speedup_upper_quartile:.2f})",
            "" if side.flops is None else _number(side.flops / 1e9),
            "" if side.flop_ratio is None else f"{side.flop_ratio:.2f}x",
            "" if side.peak_bytes is None else f"{side.peak_bytes / 2**20:.1f}",
            *(_number(side.quality[key]) for key in keys),
        )
    console = verbatim_console()
    # A file or a pipe has no width to fit.
    console = console if console.is_terminal else verbatim_console(width=160)
    console.print(table)
    described = (
        f"{compared.repeats} rounds in turn on {compared.device}, {compared.threads} threads; "
        + ", ".join(f"{key} {value}" for key, value in environment.items())
    )
    console.print(described, highlight=False, soft_wrap=True)
    console.print(
        "A FLOP ratio is not a speed-up; the counter knows matrix products, convolutions and attention.",
        highlight=False,
        soft_wrap=True,
    )


def _number(value: float) -> str:
    """Four significant digits, without an exponent from 1000 on."""
    return f"{value:.0f}" if abs(value) >= 1000 else f"{value:.4g}"
