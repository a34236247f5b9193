# SPDX-License-Identifier: Apache-2.0
"""Inputs and outputs of a command line, and the loop over them."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Collection, Generator, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import typer

from genaccel.cli.exit_codes import ExitCode, exit_code
from genaccel.cli.options import STREAM
from genaccel.files.atomic import remove_partial
from genaccel.files.folders import find_files
from genaccel.files.workers import OpenWork, Outcome, map_in_workers

if TYPE_CHECKING:
    from genaccel.codec.batch.file_codec import FileReport


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


def without_existing(jobs: Sequence[Job]) -> list[Job]:
    """The jobs whose results are not there yet; says how many are. A result that is there is whole."""
    left = [job for job in jobs if not Path(job.target).is_file()]
    if len(left) < len(jobs):
        typer.echo(f"{len(jobs) - len(left)} of {len(jobs)} files are there already", err=True)
    return left


def _with_folders(jobs: Sequence[Job]) -> Iterator[Job]:
    for job in jobs:
        Path(job.target).parent.mkdir(parents=True, exist_ok=True)
        yield job


def _outcomes(
    jobs: Sequence[Job], open_work: OpenWork[Job, FileReport], *, batch: bool, workers: int
) -> Generator[Outcome[Job, FileReport]]:
    items = _with_folders(jobs) if batch else iter(jobs)
    if workers > 1:
        yield from map_in_workers(
            open_work,
            items,
            workers=workers,
            clean_up=lambda job, process_id: remove_partial(Path(job.target), process_id),
        )
        return
    work = open_work()
    for job in items:
        try:
            outcome = Outcome(item=job, result=work(job))
        except Exception as error:
            outcome = Outcome(item=job, error=error)
        yield outcome


def run_jobs(
    jobs: Sequence[Job],
    open_work: OpenWork[Job, FileReport],
    *,
    verb: str,
    as_json: bool,
    batch: bool,
    workers: int = 1,
) -> None:
    """Do the jobs and report each as soon as it is done.

    Args:
        jobs: What to do.
        open_work: Loads what is needed, and gives the function that does one; called once in each worker.
        verb: For the progress bar.
        as_json: Report as JSON lines instead of sentences.
        batch: Go on after a file that fails, and say so by the exit code at the end.
        workers: Processes; with one, all is done in this process.

    Raises:
        typer.Exit: With code 6 if some files of a batch failed.
    """
    from tqdm import tqdm

    failed = 0
    outcomes = _outcomes(jobs, open_work, batch=batch, workers=workers)
    # None: only where standard error is a terminal.
    disable = None if len(jobs) > 1 else True
    with closing(outcomes), tqdm(total=len(jobs), desc=verb, unit="file", disable=disable) as bar:
        for outcome in outcomes:
            with bar.external_write_mode():  # or lines and the bar would run into each other
                failed += not _is_done(outcome, jobs, as_json=as_json, batch=batch)
            bar.update()
    if failed:
        typer.echo(f"{failed} of {len(jobs)} files failed", err=True)
        raise typer.Exit(ExitCode.PARTIAL_FAILURE)


def _is_done(
    outcome: Outcome[Job, FileReport], jobs: Sequence[Job], *, as_json: bool, batch: bool
) -> bool:
    """Report an outcome; whether it is a good one."""
    job, error = outcome.item, outcome.error
    if error is None:
        assert outcome.result is not None
        _print_report(outcome.result, as_json, jobs)
        return True
    code = exit_code(error)
    if code is None:
        raise error
    if as_json:
        _emit(_error_object(job, error, code), jobs)
    if not batch:
        raise error
    typer.echo(f"error: {job.source}: {error}", err=True)
    return False
