# SPDX-License-Identifier: Apache-2.0
"""Options that several subcommands have."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from genaccel.codec.format.limits import MAX_PIXELS, CodecLimits
from genaccel.sampling.device_option import checked_device

STREAM = "-"  # standard input or output, where a command takes files
# More are a slip of the finger: of threads torch dies, of processes the machine.
_MAX_THREADS = 1024
_MAX_JOBS = 256

Background = Annotated[
    str | None,
    typer.Option(metavar="COLOUR", help="Put transparent images on white, '#ff8000', ..."),
]
PreserveTimes = Annotated[
    bool, typer.Option("--preserve-times", help="Give each result the times of its input.")
]
Force = Annotated[bool, typer.Option("--force", "-f", help="Overwrite existing files.")]
Json = Annotated[
    bool, typer.Option("--json", help="Report as one JSON object per file, one per line.")
]
Model = Annotated[
    str | None, typer.Option(metavar="NAME|FOLDER", help="Model of the zoo, or a model's folder.")
]
MaxPixels = Annotated[
    int, typer.Option(min=1, max=MAX_PIXELS, help="Refuse images of more pixels.")
]
MaxMemory = Annotated[
    int | None,
    typer.Option(
        min=1,
        metavar="MIB",
        help="Refuse images that need more memory, in MiB; by default 8192, or four fifths of what is free here.",
    ),
]
Timeout = Annotated[
    float | None,
    typer.Option(
        metavar="SECONDS",
        help="Give a file up after so long; looked at between slices, tiles and steps.",
    ),
]
OutDir = Annotated[
    Path | None,
    typer.Option(help="Folder for the results of several inputs; made if it is not there."),
]
Jobs = Annotated[
    int,
    typer.Option(
        "--jobs",
        "-j",
        min=1,
        max=_MAX_JOBS,
        help="Worker processes for several files; they share the threads.",
    ),
]
SkipExisting = Annotated[
    bool,
    typer.Option(
        "--skip-existing", help="Leave out files whose results are there: go on after a break."
    ),
]
KeepExtension = Annotated[
    bool,
    typer.Option(
        "--keep-extension", help="Name results a.jpg.gac and a.gac.png, not a.gac, a.png."
    ),
]
DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Say what would be done and left out, and do nothing.")
]
Threads = Annotated[
    int | None,
    typer.Option(min=1, max=_MAX_THREADS, help="CPU threads; all cores by default, and at most."),
]


def finite(value: float | None) -> float | None:
    """A number that is one, for the callback of an option.

    Raises:
        typer.BadParameter: If it is infinite or none.
    """
    if value is not None and not math.isfinite(value):
        raise typer.BadParameter(f"must be a finite number, got {value}")
    return value


Device = Annotated[
    str,
    typer.Option(callback=checked_device, help="Where the network runs: cpu, cuda, cuda:1."),
]


@contextmanager
def usage_errors() -> Iterator[None]:
    """Turn a ValueError, which is about the user's input, into a usage error: one sentence, exit code 2."""
    try:
        yield
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error


def renamed(names: Mapping[str, str]) -> dict[str, Any]:
    """Context settings of a command that still understands what its options were once called.

    Args:
        names: Former names of options to those of today, without dashes.
    """
    return {"token_normalize_func": lambda name: names.get(name, name)}


def cores() -> int:
    """CPUs that this process may use, which a container or taskset makes fewer than the machine has."""
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity else os.cpu_count() or 1


def workers_for(jobs: int, files: int) -> int:
    """Processes for some files: no more than asked for, than files, and than twice the cores, or four."""
    most = max(4, 2 * cores())
    if min(jobs, files) > most:
        typer.echo(f"note: --jobs {jobs} on {cores()} cores: {most} processes", err=True)
    return max(1, min(jobs, files, most))


def threads_of_each(threads: int | None, workers: int) -> int | None:
    """CPU threads for each of several workers; None: as many as torch takes by itself.

    Args:
        threads: For all of them; None: all cores that this process may use. More than those are no use.
        workers: Their number.
    """
    if threads is None and workers == 1:
        return None
    return max(1, min(threads or cores(), cores()) // workers)


def limits_here(max_memory: int | None, processes: int, others: dict[str, Any]) -> CodecLimits:
    """Limits that the options give, and for memory that was not given the machine.

    Args:
        max_memory: In MiB, for one process.
        processes: Their number.
        others: Further attributes of the limits.
    """
    if max_memory is None:
        return CodecLimits.of_this_machine(processes=processes, **others)
    return CodecLimits(
        max_memory_bytes=max_memory * 2**20, memory_source="as --max-memory says", **others
    )
