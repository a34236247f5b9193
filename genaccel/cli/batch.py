# SPDX-License-Identifier: Apache-2.0
"""Inputs and outputs of a command line, and the loop over them."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import typer

from genaccel.cli.exit_codes import ExitCode, exit_code
from genaccel.data.image_files import find_files

if TYPE_CHECKING:
    from genaccel.codec.file_codec import FileReport

STREAM = "-"


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """One file to make of another; ``-`` stands for standard input or output."""

    source: str
    target: str

    def open_source(self) -> Path | BinaryIO:
        """Path to read, or standard input."""
        return sys.stdin.buffer if self.source == STREAM else Path(self.source)

    def open_target(self) -> Path | BinaryIO:
        """Path to write, or standard output."""
        return sys.stdout.buffer if self.target == STREAM else Path(self.target)


def plan_jobs(
    arguments: Sequence[str],
    *,
    out_dir: Path | None,
    input_suffixes: Collection[str],
    output_suffix: str,
) -> list[Job]:
    """Pair inputs with outputs.

    ``IN`` alone goes beside itself, ``IN OUT`` as said; several inputs and folders need ``out_dir``, below
    which folders keep their structure.

    Args:
        arguments: As given on the command line.
        out_dir: For the results of several inputs.
        input_suffixes: What to look for in folders.
        output_suffix: Of results that are not named.

    Raises:
        typer.BadParameter: If the arguments do not say where results go, or two results have one name.
    """
    if out_dir is None:
        if len(arguments) > 2:
            raise typer.BadParameter(
                f"{len(arguments)} paths: several inputs need --out-dir, otherwise give IN and OUT"
            )
        if Path(arguments[0]).is_dir():
            raise typer.BadParameter(f"{arguments[0]} is a folder: folders need --out-dir")
        if len(arguments) == 2:
            source, target = arguments
            if Path(target).suffix.lower() in input_suffixes:
                raise typer.BadParameter(
                    f"OUT is {target}, which has the suffix of an input: several inputs need --out-dir"
                )
        else:
            source = arguments[0]
            target = STREAM if source == STREAM else str(Path(source).with_suffix(output_suffix))
        if target == STREAM and sys.stdout.isatty():
            raise typer.BadParameter("refusing to write binary data to a terminal")
        return [Job(source=source, target=target)]

    jobs = []
    for argument in arguments:
        if argument == STREAM:
            raise typer.BadParameter("standard input has no name, so it does not go with --out-dir")
        path = Path(argument)
        files = find_files(path, input_suffixes) if path.is_dir() else [path]
        for file in files:
            relative = file.relative_to(path) if path.is_dir() else Path(file.name)
            target_path = (out_dir / relative).with_suffix(output_suffix)
            jobs.append(Job(source=str(file), target=str(target_path)))
    if not jobs:
        raise typer.BadParameter(f"no files ending in {', '.join(sorted(input_suffixes))} found")
    sources: dict[str, str] = {}
    for job in jobs:
        first = sources.setdefault(job.target, job.source)
        if first != job.source:
            raise typer.BadParameter(f"{first} and {job.source} would both become {job.target}")
    return jobs


def _emit(line: str, jobs: Sequence[Job]) -> None:
    # Standard output belongs to the data when a result goes there.
    typer.echo(line, err=any(job.target == STREAM for job in jobs))


def _print_report(report: FileReport, as_json: bool, jobs: Sequence[Job]) -> None:
    for note in report.notes:
        typer.echo(f"note: {report.input}: {note}", err=True)
    if as_json:
        _emit(json.dumps({"status": "ok", **dataclasses.asdict(report)}), jobs)
    else:
        _emit(
            f"{report.input} -> {report.output}: {report.width}x{report.height}, "
            f"{report.file_bytes} bytes, {report.bits_per_pixel:.3f} bits per pixel, "
            f"{1000 * report.coding_seconds:.0f} ms",
            jobs,
        )


def _error_object(job: Job, error: Exception, code: ExitCode) -> str:
    values: dict[str, Any] = {"status": "error", "input": job.source, "output": job.target}
    return json.dumps({**values, "error": str(error), "exit_code": int(code)})


def _with_progress(jobs: Sequence[Job], verb: str) -> Iterator[Job]:
    from tqdm import tqdm

    # None: only where standard error is a terminal.
    yield from tqdm(jobs, desc=verb, unit="file", disable=None if len(jobs) > 1 else True)


def run_jobs(
    jobs: Sequence[Job], work: Callable[[Job], FileReport], *, verb: str, as_json: bool, batch: bool
) -> None:
    """Do the jobs one after the other and report each.

    Args:
        jobs: What to do.
        work: Does one.
        verb: For the progress bar.
        as_json: Report as JSON lines instead of sentences.
        batch: Go on after a file that fails, and say so by the exit code at the end.

    Raises:
        typer.Exit: With code 6 if some files of a batch failed.
    """
    failed = 0
    for job in _with_progress(jobs, verb):
        if batch:
            Path(job.target).parent.mkdir(parents=True, exist_ok=True)
        try:
            report = work(job)
        except Exception as error:
            code = exit_code(error)
            if code is None:
                raise
            if as_json:
                _emit(_error_object(job, error, code), jobs)
            if not batch:
                raise
            typer.echo(f"error: {job.source}: {error}", err=True)
            failed += 1
        else:
            _print_report(report, as_json, jobs)
    if failed:
        typer.echo(f"{failed} of {len(jobs)} files failed", err=True)
        raise typer.Exit(ExitCode.PARTIAL_FAILURE)
