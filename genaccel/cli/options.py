# SPDX-License-Identifier: Apache-2.0
"""Options that several subcommands have."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from genaccel.codec.format.limits import DEFAULT_MAX_MEMORY_BYTES, MAX_PIXELS

STREAM = "-"  # standard input or output, where a command takes files
DEFAULT_MAX_MEMORY_MIB = DEFAULT_MAX_MEMORY_BYTES // 2**20

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
    int, typer.Option(min=1, metavar="MIB", help="Refuse images that need more memory, in MiB.")
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
        "--jobs", "-j", min=1, help="Worker processes for several files; they share the threads."
    ),
]
SkipExisting = Annotated[
    bool,
    typer.Option(
        "--skip-existing", help="Leave out files whose results are there: go on after a break."
    ),
]
Threads = Annotated[int | None, typer.Option(min=1, help="CPU threads; all cores by default.")]
Device = Annotated[str, typer.Option(help="Where the network runs: cpu, cuda, cuda:1.")]


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


def threads_of_each(threads: int | None, workers: int) -> int | None:
    """CPU threads for each of several workers; None: as many as torch takes by itself.

    Args:
        threads: For all of them; None: all cores that this process may use.
        workers: Their number.
    """
    if workers == 1:
        return threads
    # What this process may use, which a container or taskset makes fewer than the machine has.
    affinity = getattr(os, "sched_getaffinity", None)
    cores = len(affinity(0)) if affinity else os.cpu_count() or 1
    return max(1, (threads or cores) // workers)
