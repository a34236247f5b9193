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
from typing import TYPE_CHECKING, Annotated, Any, get_type_hints

import typer

from genaccel.errors import listing, printable
from genaccel.eval.metrics import Metric
from genaccel.files.atomic import check_target
from genaccel.sampling.device_option import checked_device

if TYPE_CHECKING:
    from rich.console import Console

    from genaccel.eval._pairs.summary import Summary

# Exit code of a command that left files out; the same as that of a batch of ``genaccel encode``.
SOME_FILES_SKIPPED = 6

Originals = Annotated[Path, typer.Argument(help="Folder or .zip of original images.")]
Intersect = Annotated[bool, typer.Option("--intersect", help="Leave out files without a partner.")]
Weights = Annotated[
    Path | None, typer.Option(help="Weight file, instead of the installed or downloaded one.")
]
WeightsOrFolder = Annotated[
    Path | None,
    typer.Option(help="Weight file, or a folder of transformers for dinov2 and clip."),
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


def check_output(path: Path, *, overwrite: bool, suffix: str = "", parents: bool = False) -> None:
    """Refuse a file that could not be written, before the work that it is to hold.

    Args:
        path: Where it shall be.
        overwrite: Whether a file that is there already is replaced.
        suffix: What its name must end in, in any case.
        parents: Whether the folders that it is to lie in are made.

    Raises:
        ValueError: If the name ends otherwise.
        OSError: If a file is there already, or the folder is missing or closed.
    """
    if suffix and path.suffix.lower() != suffix:
        raise ValueError(f"{path} must end in {suffix}")
    check_target(path, overwrite=overwrite, parents=parents)


def exit_if_skipped(skipped: Mapping[str, str], unit: str = "") -> None:
    """Name on stderr what was left out and why, and end with exit code 6 if anything was."""
    if skipped:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in skipped.items())
        typer.echo(f"{len(skipped)}{unit} left out: {printable(reasons)}", err=True)
        raise typer.Exit(SOME_FILES_SKIPPED)


def say_unmatched(unmatched: Mapping[str, list[str]]) -> None:
    """Name on stderr the files that ``--intersect`` dropped, by their folder."""
    for folder, names in unmatched.items():
        files = "file" if len(names) == 1 else "files"
        only = f"only in {folder}: {listing(names)}"
        typer.echo(f"{len(names)} {files} without a partner left out, {printable(only)}", err=True)


def verbatim_console(width: int | None = None) -> Console:
    """A console that prints names as they are: no markup, no codes of emoji, no colours by guess.

    Args:
        width: Of its lines; by default the terminal's.
    """
    from rich.console import Console

    print_any_name()
    return Console(markup=False, emoji=False, highlight=False, width=width)


def print_any_name() -> None:
    """Let standard output print names of files that are no text in its encoding, with escapes."""
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="backslashreplace")


def print_csv(metric: Metric, values: Mapping[str, float], summary: Summary) -> None:
    """Print the value of each image, and what all come to, as comma-separated values."""
    print_any_name()
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(["image", metric.key])
    writer.writerows(values.items())
    writer.writerow(["mean", summary.mean])


def print_values(
    metric: Metric,
    values: Mapping[str, float],
    summary: Summary,
    *,
    of: str = "image",
    digits: int = 4,
    pooled: Mapping[str, float] | None = None,
) -> None:
    """Print a table of values by the name of an image, or of what else ``of`` says; below several what they come to.

    Args:
        metric: What the values mean.
        values: By name.
        summary: Of these values.
        of: What the names are of.
        digits: Behind the decimal point.
        pooled: Further numbers that all values together give.
    """
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD)
    table.add_column(of, overflow="fold")
    title = f"{metric.title} {metric.unit}".rstrip()
    table.add_column(title, justify="right", no_wrap=True)
    for name, value in values.items():
        table.add_row(printable(name), f"{value:.{digits}f}")
    if len(values) > 1:
        table.add_section()
        for name, text in summary_rows(summary, len(values), digits):
            table.add_row(name, text)
        for name, value in (pooled or {}).items():
            table.add_row(name.replace("_", " "), f"{value:.{digits}f}")
    verbatim_console().print(table)


def summary_rows(summary: Summary, count: int, digits: int = 4) -> list[tuple[str, str]]:
    """The lines below a table of ``count`` values: mean, spread, interval."""
    rows = [(f"mean of {count}", f"{summary.mean:.{digits}f}")]
    if summary.num_infinite:
        rows.append(("of these infinite", str(summary.num_infinite)))
        if summary.mean_of_finite is not None:
            rows.append(("mean of the others", f"{summary.mean_of_finite:.{digits}f}"))
    if summary.standard_deviation is not None:
        rows.append(("standard deviation", f"{summary.standard_deviation:.{digits}f}"))
    if summary.interval is not None:
        low, high = summary.interval
        rows.append(("95 % interval of the mean", f"{low:.{digits}f} to {high:.{digits}f}"))
    return rows
