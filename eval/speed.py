# SPDX-License-Identifier: Apache-2.0
"""Functions side by side: time, FLOPs, peak memory and quality, measured in one run that alternates them."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from functools import partial
from pathlib import Path
from typing import Annotated, TypeVar

import torch
import typer
from tqdm import tqdm

from genaccel.eval._speed.speed_record import SideSpeed, SpeedComparison, print_table
from genaccel.eval.commands import AsJson, Label
from genaccel.eval.results import to_json
from genaccel.sampling.costs import (
    checked_device,
    current_gpu,
    flops_of_call,
    peak_memory_of_call,
    seconds_of_call,
)
from genaccel.sampling.functions import CallableLoader, check_side, search_path
from genaccel.sampling.turns import round_order

__all__ = ["SideFailedError", "SideSpeed", "SpeedComparison", "compare_speed", "main"]

T = TypeVar("T")
Side = Callable[[], object]
Quality = Callable[[object], Mapping[str, float]]

_COUNTING = "counting FLOPs of"


class SideFailedError(RuntimeError):
    """A measured function raised; the message names the side, the cause is its exception."""


def compare_speed(
    sides: Mapping[str, Side],
    *,
    repeats: int = 5,
    warm_up: int = 1,
    device: torch.device | str | None = None,
    count_flops: bool = True,
    quality: Quality | None = None,
    show_progress: bool | None = None,
) -> SpeedComparison:
    """Measure functions in turn, so that whatever slows the machine down slows all of them.

    Each side is called ``warm_up`` times, once for memory and quality, once for FLOPs, and then once in
    each of ``repeats`` timed rounds. The order changes from round to round.

    Args:
        sides: Functions without arguments by name; ratios are to the first.
        repeats: Timed rounds, at least 1; quartiles mean something from about 5.
        warm_up: Untimed first calls of each side, at least 0.
        device: ``"cpu"``, ``"cuda"`` or ``"cuda:1"``: which clock and which memory. By default the current
            GPU if the process used one by the end of the warm-up.
        count_flops: Whether to call each side once more under ``FlopCount``, which not every
            compiled model survives.
        quality: From a side's output to numbers by name, the same names for all sides.
        show_progress: A bar on stderr; by default if that is a terminal.

    Raises:
        SideFailedError: If a side or the quality function raises.
        ValueError: If an argument is out of range, or a side cannot be called without arguments.

    Example:
        >>> x = torch.rand(64, 64)
        >>> compared = compare_speed({"twice": lambda: x @ x @ x, "once": lambda: x @ x}, repeats=3)
        >>> [side.flops for side in compared.sides], compared.sides[1].flop_ratio
        ([1048576, 524288], 2.0)
    """
    if not sides:
        raise ValueError("sides must name at least one function, got none")
    for name, run in sides.items():
        check_side(name, run)
    if repeats < 1:
        raise ValueError(f"repeats must be at least 1, got {repeats}")
    if warm_up < 0:
        raise ValueError(f"warm_up must be at least 0, got {warm_up}")
    place = None if device is None else checked_device(device)
    if place is None and warm_up == 0 and torch.cuda.is_available():
        raise ValueError("device must be given where warm_up is 0: no call has shown it yet")

    total = len(sides) * (warm_up + 1 + count_flops + repeats)
    with tqdm(
        total=total,
        unit="call",
        leave=False,
        disable=None if show_progress is None else not show_progress,
    ) as bar:

        def step(name: str, doing: str, action: Callable[[], T]) -> T:
            bar.set_description(f"{doing} {name}")
            with _named(name, doing):
                result = action()
            bar.update()
            return result

        for name, run in sides.items():
            for _ in range(warm_up):
                step(name, "warming up", run)
        if place is None:
            place = current_gpu() if torch.cuda.is_initialized() else torch.device("cpu")
        peaks, qualities = {}, {}
        for name, run in sides.items():
            peaks[name], qualities[name] = step(
                name, "examining", partial(_examine, run, quality, place)
            )
            if qualities[name].keys() != next(iter(qualities.values())).keys():
                raise ValueError(
                    "quality must give the same names for all sides, got "
                    + "; ".join(f"{side}: {', '.join(q)}" for side, q in qualities.items())
                )
        flops: dict[str, int | None] = dict.fromkeys(sides)
        if count_flops:
            for name, run in sides.items():
                flops[name] = step(name, _COUNTING, partial(flops_of_call, run))
        seconds: dict[str, list[float]] = {name: [] for name in sides}
        for index in range(repeats):
            for name in round_order(list(sides), index):
                seconds[name].append(
                    step(name, "timing", partial(seconds_of_call, sides[name], place))
                )

    first = next(iter(sides))
    most = flops[first]
    return SpeedComparison(
        sides=tuple(
            SideSpeed.of_rounds(
                name,
                seconds[name],
                seconds[first],
                flops=count,
                flop_ratio=most / count if count and most else None,
                peak_bytes=peaks[name],
                quality=qualities[name],
            )
            for name, count in flops.items()
        ),
        device=str(place),
        repeats=repeats,
        warm_up=warm_up,
        threads=torch.get_num_threads(),
    )


@contextmanager
def _named(name: str, doing: str) -> Iterator[None]:
    """Say which side an exception comes from."""
    try:
        yield
    except Exception as error:
        frames = traceback.extract_tb(error.__traceback__)
        # The user's own line says more than one inside torch.
        last = ([f for f in frames if "site-packages" not in f.filename] or frames)[-1]
        advice = "; count_flops=False (--no-flops) does without" if doing == _COUNTING else ""
        raise SideFailedError(
            f"{doing} {name!r} failed: {type(error).__name__}: {error} "
            f"({Path(last.filename).name}, line {last.lineno}){advice}"
        ) from error


def _examine(
    run: Side, quality: Quality | None, device: torch.device
) -> tuple[int | None, dict[str, float]]:
    """Peak memory of one call, and the quality of its output."""
    peak, output = peak_memory_of_call(run, device)
    if quality is None:
        return peak, {}
    values = quality(output)
    if not isinstance(values, Mapping):
        raise TypeError(f"quality must return numbers by name, got {type(values).__name__}")
    # float() of a tensor that carries a gradient warns.
    plain = {k: v.detach() if isinstance(v, torch.Tensor) else v for k, v in values.items()}
    return peak, {str(key): float(value) for key, value in plain.items()}


Sides = Annotated[
    list[str],
    typer.Argument(
        metavar="[NAME=]FILE.py:FUNCTION...",
        help="What to measure, the baseline first: functions without arguments, in a file or in a "
        "module (package.module:function).",
    ),
]
Repeats = Annotated[int, typer.Option(min=1, help="Timed rounds.")]
WarmUp = Annotated[int, typer.Option(min=0, help="Untimed first calls of each function.")]
DeviceToMeasure = Annotated[
    str | None,
    typer.Option(help="cpu, cuda or cuda:1; by default cuda if the functions use it."),
]
QualityFunction = Annotated[
    str | None,
    typer.Option(
        metavar="FILE.py:FUNCTION", help="From an output to its quality: numbers by name."
    ),
]
NoFlops = Annotated[bool, typer.Option("--no-flops", help="Do not count FLOPs: a call less.")]


def main(
    sides: Sides,
    repeats: Repeats = 5,
    warm_up: WarmUp = 1,
    device: DeviceToMeasure = None,
    quality: QualityFunction = None,
    no_flops: NoFlops = False,
    label: Label = "",
    as_json: AsJson = False,
) -> None:
    """Time, FLOPs and memory of functions, side by side.

    Models that a file loads outside its functions are loaded once and not timed.
    """
    # What the functions print must not mix with the result.
    with search_path(), redirect_stdout(sys.stderr):
        try:
            loader = CallableLoader()
            functions: dict[str, Side] = {}
            for text in sides:
                name, target = _split_name(text)
                if name in functions:
                    raise ValueError(f"two sides are called {name!r}: write NAME= before one")
                functions[name] = loader.load(target)
            compared = compare_speed(
                functions,
                repeats=repeats,
                warm_up=warm_up,
                device=device,
                count_flops=not no_flops,
                quality=None if quality is None else loader.load(quality),
            )
        except SideFailedError as error:
            typer.echo(f"error: {error}", err=True)
            raise typer.Exit(1) from error
        except ValueError as error:
            raise typer.BadParameter(str(error)) from error
    content = compared.to_record(label, {"sides": sides, "quality": quality})
    if as_json:
        print(to_json(content))
    else:
        print_table(compared, content["environment"])


def _split_name(text: str) -> tuple[str, str]:
    """``NAME=TARGET``, or a target whose function gives the name."""
    name, equals, target = text.partition("=")
    if not equals:
        return text.rpartition(":")[2], text
    if not name:
        raise ValueError(f"{text!r} has no name before its =")
    return name, target


if __name__ == "__main__":
    typer.run(main)
