# SPDX-License-Identifier: Apache-2.0
"""The options, errors and outputs that commands share, and commands out of two functions: one with the arguments of a
family of metrics, one with a metric's own.
"""

from __future__ import annotations

import csv
import functools
import inspect
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import typer

from genaccel.eval.metrics import Metric
from genaccel.sampling.device_option import checked_device

# Exit code of a command that left files out; the same as that of a batch of ``genaccel encode``.
SOME_FILES_SKIPPED = 6

Originals = Annotated[Path, typer.Argument(help="Folder of original images.")]
Intersect = Annotated[bool, typer.Option("--intersect", help="Leave out files without a partner.")]
Weights = Annotated[
    Path | None, typer.Option(help="Weight file, instead of the installed or downloaded one.")
]
Device = Annotated[
    str,
    typer.Option(callback=checked_device, help="Where the network runs: cpu, cuda, cuda:1."),
]
Strict = Annotated[
    bool, typer.Option("--strict", help="Stop at the first file that cannot be used.")
]
Convert = Annotated[
    bool, typer.Option("--convert", help="Put transparency on white, take 8 bits of deep samples.")
]
Workers = Annotated[
    int | None, typer.Option(min=0, help="Processes that decode; chosen by itself by default.")
]
Label = Annotated[str, typer.Option(help="Name of the run in reports.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]
AsCsv = Annotated[bool, typer.Option("--csv", help="Print comma-separated values.")]


def combine(load: Callable[..., Any], body: Callable[..., None]) -> Callable[..., None]:
    """A command that calls ``body(load, own_arguments, **shared_arguments)``.

    Its arguments are those of ``body`` after the first two, with those of ``load`` after the positional
    ones. Its help is the docstring of ``load``, which it also carries as its attribute ``load``.

    Args:
        load: Keywords with typer's annotations and defaults.
        body: Two parameters, then keywords with typer's annotations.
    """
    own = inspect.signature(load).parameters
    shared = dict(list(inspect.signature(body).parameters.items())[2:])
    hints = {
        **get_type_hints(body, include_extras=True),
        **get_type_hints(load, include_extras=True),
    }

    @functools.wraps(load)
    def command(**arguments: Any) -> None:
        common = {name: arguments.pop(name) for name in shared if name in arguments}
        body(load, arguments, **common)

    leading = [p for p in shared.values() if p.default is inspect.Parameter.empty]
    trailing = [p for p in shared.values() if p.default is not inspect.Parameter.empty]
    parameters = [
        p.replace(annotation=hints[p.name], kind=inspect.Parameter.KEYWORD_ONLY)
        for p in (*leading, *own.values(), *trailing)
    ]
    # typer reads the signature and the annotations.
    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    command.__annotations__ = {p.name: p.annotation for p in parameters}
    command.load = load  # type: ignore[attr-defined]
    return command


@contextmanager
def usage_errors(*others: type[Exception]) -> Iterator[None]:
    """Turn what is wrong with the user's input into a usage error: one sentence, exit code 2.

    Args:
        others: Exceptions beside ValueError, OSError and ImportError.
    """
    kinds: tuple[type[Exception], ...] = (ValueError, OSError, ImportError, *others)
    try:
        yield
    except kinds as error:
        raise typer.BadParameter(str(error)) from error


def exit_if_skipped(skipped: Mapping[str, str], unit: str = "") -> None:
    """Name on stderr what was left out and why, and end with exit code 6 if anything was."""
    if skipped:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in skipped.items())
        typer.echo(f"{len(skipped)}{unit} left out: {reasons}", err=True)
        raise typer.Exit(SOME_FILES_SKIPPED)


def print_csv(metric: Metric, values: Mapping[str, float], mean: float) -> None:
    """Print the value of each image, and their mean, as comma-separated values."""
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(["image", metric.key])
    writer.writerows(values.items())
    writer.writerow(["mean", mean])


def print_values(
    metric: Metric, values: Mapping[str, float], mean: float, *, of: str = "image", digits: int = 4
) -> None:
    """Print a table of values by the name of an image, or of what else ``of`` says, with their mean below several."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, show_footer=len(values) > 1)
    table.add_column(of, footer=f"mean of {len(values)}", overflow="fold")
    title = f"{metric.title} {metric.unit}".rstrip()
    table.add_column(title, footer=f"{mean:.{digits}f}", justify="right", no_wrap=True)
    for name, value in values.items():
        table.add_row(name, f"{value:.{digits}f}")
    Console().print(table)
