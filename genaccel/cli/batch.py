# SPDX-License-Identifier: Apache-2.0
"""Inputs and outputs of a command line, and the loop over them."""

from __future__ import annotations

import dataclasses
import json
import os
import unicodedata
from collections.abc import Collection, Generator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, BinaryIO, ClassVar, Protocol

import typer

from genaccel.cli.exit_codes import ExitCode, exit_code, said
from genaccel.cli.options import STREAM
from genaccel.cli.streams import remark, shown, standard_input, standard_output
from genaccel.files.atomic import check_folder, check_target, remove_partial
from genaccel.files.folders import walk_folder
from genaccel.files.workers import OpenWork, Outcome, as_failure, map_in_workers


class Report(Protocol):
    """What is said of a file that was made; a dataclass, which is said in JSON as it is."""

    __dataclass_fields__: ClassVar[dict[str, Any]]

    @property
    def input(self) -> str:
        """What was read."""

    @property
    def output(self) -> str:
        """What was written."""

    @property
    def notes(self) -> tuple[str, ...]:
        """What was changed or left out, a sentence each."""

    @property
    def summary(self) -> str:
        """Figures in words."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """One file to make of another; ``-`` stands for standard input or output.

    Attributes:
        source: What to read.
        target: What to write.
        makes_folders: Whether the target's folders are made.
        twin: Target of another job of the batch, which some file systems take for this one.
        was_there: Whether the target was there before the job was begun.
        replaces: Whether a target that is there is of the job itself, whose worker died as soon as it had written it.
    """

    source: str
    target: str
    makes_folders: bool = False
    twin: str | None = None
    was_there: bool = False
    replaces: bool = False

    def open_source(self) -> Path | BinaryIO:
        """Path to read, or standard input."""
        return standard_input() if self.source == STREAM else Path(self.source)

    def open_target(self, *, overwrite: bool) -> Path | BinaryIO:
        """Path to write, whose folder is there from now on, or standard output."""
        self.check(overwrite=overwrite)
        if self.target == STREAM:
            return standard_output()
        target = Path(self.target)
        if self.makes_folders:
            target.parent.mkdir(parents=True, exist_ok=True)
        return target

    def is_its_twin(self) -> bool:
        """Whether the results of two jobs would be one file: folders differ in what they take for one name."""
        there = self.twin is not None and os.path.exists(self.twin) and os.path.exists(self.target)
        return there and os.path.samefile(self.target, self.twin or "")

    def check(self, *, overwrite: bool) -> None:
        """Raise what would only be found after the work; see :func:`genaccel.files.atomic.check_target`."""
        if self.target == STREAM:
            standard_output()
            return
        target = Path(self.target)
        if self.is_its_twin():
            raise FileExistsError(f"{target} and {self.twin} are one file on this file system")
        # No stream is opened for it: a batch has none, and of one file it is opened before.
        source = standard_input() if self.source == STREAM else Path(self.source)
        check_target(target, source=source, overwrite=overwrite, parents=self.makes_folders)


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """What a command line comes to.

    Attributes:
        jobs: One for each file.
        is_batch: Whether the others go on after one that fails.
        left_out: Sentences on what the folders hold besides.
        unreadable: Reason by path of what could not be looked into.
    """

    jobs: list[Job]
    is_batch: bool = False
    left_out: tuple[str, ...] = ()
    unreadable: dict[str, str] = dataclasses.field(default_factory=dict)


def plan_jobs(
    arguments: Sequence[str],
    *,
    out_dir: Path | None,
    input_suffixes: Collection[str],
    output_suffix: str,
    keep_extension: bool = False,
) -> Plan:
    """Pair inputs with outputs.

    ``IN`` alone goes beside itself, ``IN OUT`` as said, or into OUT if that is a folder; several inputs and folders
    need ``out_dir``, below which folders keep their structure.

    Args:
        arguments: As given on the command line.
        out_dir: For the results of several inputs.
        input_suffixes: What to look for in folders.
        output_suffix: Of results that are not named.
        keep_extension: Put that behind the name of the input, instead of in the place of its suffix.

    Raises:
        typer.BadParameter: If the arguments do not say where results go, or two results have one name.
        OSError: If ``out_dir`` cannot be written to, or all that is given is a folder that cannot be read.
    """
    if "" in arguments:
        raise typer.BadParameter("a path is empty")
    for argument in arguments:
        if "\0" in argument:
            raise typer.BadParameter(f"{argument!r} holds a null character, which no path does")

    def named(file: Path) -> Path:
        return Path(f"{file}{output_suffix}") if keep_extension else file.with_suffix(output_suffix)

    if out_dir is None:
        job = _single_job(arguments, input_suffixes, named)
        return Plan(jobs=[job])

    check_folder(out_dir)
    sources: dict[str, str] = {}
    left_out: list[str] = []
    unreadable: dict[str, str] = {}
    first_error: OSError | None = None
    for argument in arguments:
        if argument == STREAM:
            raise typer.BadParameter("standard input has no name, so it does not go with --out-dir")
        path = Path(argument)
        if not path.is_dir():
            _pair(sources, argument, str(out_dir / named(Path(path.name))), keep_extension)
            continue
        try:
            found = walk_folder(path, input_suffixes)
        except OSError as error:
            first_error = first_error or error
            unreadable[argument] = f"{error.strerror or error}"
            continue
        left_out += found.sentences(named_apart=found.unreadable)
        unreadable |= {str(p): found.left_out[p] for p in sorted(found.unreadable)}
        for file in found.files:
            target = out_dir / named(file.relative_to(path))
            _pair(sources, str(file), str(target), keep_extension)
    if not sources:
        if first_error is not None and len(arguments) == 1:
            raise first_error
        if not unreadable:
            endings = ", ".join(sorted(input_suffixes))
            also = "".join(f"; {sentence}" for sentence in left_out)
            raise typer.BadParameter(f"no files ending in {endings} found{also}")
    twins = _twins(sources)
    jobs = [
        Job(source=source, target=target, makes_folders=True, twin=twins.get(target))
        for target, source in sources.items()
    ]
    return Plan(jobs=jobs, is_batch=True, left_out=tuple(left_out), unreadable=unreadable)


def _single_job(arguments: Sequence[str], input_suffixes: Collection[str], named: Any) -> Job:
    if len(arguments) > 2:
        raise typer.BadParameter(
            f"{len(arguments)} paths: several inputs need --out-dir, otherwise give IN and OUT"
        )
    source = arguments[0]
    if Path(source).is_dir():
        raise typer.BadParameter(f"{source} is a folder: folders need --out-dir")
    if len(arguments) == 2:
        target = arguments[1]
        if target != STREAM and Path(target).is_dir():
            if source == STREAM:
                raise typer.BadParameter(
                    f"{target} is a folder, and standard input has no name to give to a file in it"
                )
            target = str(Path(target) / named(Path(Path(source).name)))
        elif target.endswith("/"):
            raise typer.BadParameter(f"there is no folder {target}")
        elif Path(target).suffix.lower() in input_suffixes:
            raise typer.BadParameter(
                f"OUT is {target}, which has the suffix of an input: several inputs need --out-dir"
            )
    else:
        target = STREAM if source == STREAM else str(named(Path(source)))
    if target == STREAM:
        standard_output()
    return Job(source=source, target=target)


def _pair(sources: dict[str, str], source: str, target: str, keep_extension: bool) -> None:
    """Note a source by its target, unless another has it."""
    first = sources.setdefault(target, source)
    if first != source:
        remedy = "" if keep_extension else ": --keep-extension names each after the whole input"
        raise typer.BadParameter(f"{first} and {source} would both become {target}{remedy}")


def _twins(targets: Collection[str]) -> dict[str, str]:
    """Another target by each that differs from it in case or Unicode normalisation alone."""
    alike: dict[str, str] = {}
    twins: dict[str, str] = {}
    for target in targets:
        first = alike.setdefault(unicodedata.normalize("NFC", target).casefold(), target)
        if first != target:
            twins[target] = first
            twins[first] = target
    return twins


def _emit(line: str, jobs: Sequence[Job]) -> None:
    # Standard output belongs to the data when a result goes there.
    if any(job.target == STREAM for job in jobs):
        remark(line)
    else:
        typer.echo(line)


def _print_report(report: Report, as_json: bool, jobs: Sequence[Job]) -> None:
    for note in report.notes:
        remark(shown(f"note: {report.input}: {note}"))
    if as_json:
        _emit(json.dumps({"status": "ok", **dataclasses.asdict(report)}), jobs)
    else:
        _emit(shown(f"{report.input} -> {report.output}: {report.summary}"), jobs)


def _error_object(source: str, target: str | None, error: str, code: ExitCode) -> str:
    values: dict[str, Any] = {"status": "error", "input": source, "output": target}
    return json.dumps({**values, "error": error, "exit_code": int(code)})


def without_existing(plan: Plan) -> Plan:
    """The jobs whose results are not there yet; says how many are. A result that is there is whole."""
    left = [job for job in plan.jobs if not _is_there(job)]
    count = len(plan.jobs)
    if len(left) < count:
        remark(f"{count - len(left)} of {count} files are there already")
    return dataclasses.replace(plan, jobs=left)


def _is_there(job: Job) -> bool:
    try:
        return Path(job.target).is_file() and not job.is_its_twin()
    except OSError:  # as with a name that is too long, which the job will say
        return False


def _outcomes(
    jobs: Sequence[Job], open_work: OpenWork[Job, Report], *, workers: int
) -> Generator[Outcome[Job, Report]]:
    if workers > 1:
        # Looked at as each is handed out, so that another try knows what an earlier one has made.
        begun = (dataclasses.replace(job, was_there=os.path.lexists(job.target)) for job in jobs)
        yield from map_in_workers(
            open_work,
            begun,
            workers=workers,
            again=lambda job: dataclasses.replace(job, replaces=not job.was_there),
            clean_up=lambda job, process_id: remove_partial(Path(job.target), process_id),
        )
        return
    work = open_work()
    for job in jobs:
        try:
            outcome = Outcome(item=job, result=work(job))
        except BaseException as error:
            outcome = Outcome(item=job, error=as_failure(error))
        yield outcome


def run_jobs(
    plan: Plan,
    open_work: OpenWork[Job, Report],
    *,
    verb: str,
    as_json: bool,
    overwrite: bool,
    dry_run: bool = False,
    workers: int = 1,
) -> None:
    """Do the jobs of a plan and report each as soon as it is done; say what is left out.

    Args:
        plan: What to do.
        open_work: Loads what is needed, and gives the function that does one; called once in each worker.
        verb: For the progress bar.
        as_json: Report as JSON lines instead of sentences.
        overwrite: Whether results that are there are replaced.
        dry_run: Only say what would be done.
        workers: Processes; with one, all is done in this process.

    Raises:
        typer.Exit: With code 6 if some files of a batch failed, or could not be looked for.
    """
    jobs = plan.jobs
    for sentence in plan.left_out:
        remark(shown(sentence))
    for path, reason in plan.unreadable.items():
        remark(shown(f"error: {path}: {reason}"))
        if as_json:
            _emit(_error_object(path, None, reason, ExitCode.FAILURE), jobs)
    unsaid = None
    if dry_run:
        failed = sum(not _would_be_done(job, plan, as_json, overwrite) for job in jobs)
    elif jobs:
        failed, unsaid = _run(plan, open_work, verb, as_json, overwrite, workers)
    else:
        failed = 0
    if failed:
        would = "would fail" if dry_run else "failed"
        remark(f"{failed} of {len(jobs)} files {would}")
    if plan.unreadable:
        remark(f"{len(plan.unreadable)} left out that could not be read")
    if unsaid is not None:
        remark(f"error: reports could not be written to standard output: {unsaid.strerror}")
    if failed or plan.unreadable:
        raise typer.Exit(ExitCode.PARTIAL_FAILURE if plan.is_batch else ExitCode.FAILURE)
    if unsaid is not None:
        raise typer.Exit(ExitCode.FAILURE)


def _would_be_done(job: Job, plan: Plan, as_json: bool, overwrite: bool) -> bool:
    """Say what would become of a job, as far as its names tell."""
    try:
        if job.source != STREAM:
            Path(job.source).stat()
        job.check(overwrite=overwrite)
    except OSError as error:
        remark(shown(f"error: {job.source}: {error}"))
        if as_json:
            _emit(_error_object(job.source, job.target, f"{error}", ExitCode.FAILURE), plan.jobs)
        return False
    if as_json:
        planned = {"status": "planned", "input": job.source, "output": job.target}
        _emit(json.dumps(planned), plan.jobs)
    else:
        replaced = job.target != STREAM and Path(job.target).exists()
        end = ", which is replaced" if replaced else ""
        _emit(shown(f"{job.source} -> {job.target}{end}"), plan.jobs)
    return True


def _run(
    plan: Plan,
    open_work: OpenWork[Job, Report],
    verb: str,
    as_json: bool,
    overwrite: bool,
    workers: int,
) -> tuple[int, OSError | None]:
    """Do the jobs; the number of those that failed, and why a batch's reports could not be written."""
    from tqdm import tqdm

    jobs = plan.jobs
    if not plan.is_batch:  # before a model is loaded
        for job in jobs:
            job.check(overwrite=overwrite)
    failed, unsaid = 0, None
    outcomes = _outcomes(jobs, open_work, workers=workers)
    # None: only where standard error is a terminal.
    disable = None if len(jobs) > 1 else True
    with closing(outcomes), tqdm(total=len(jobs), desc=verb, unit="file", disable=disable) as bar:
        for outcome in outcomes:
            with bar.external_write_mode():  # or lines and the bar would run into each other
                failed += outcome.error is not None
                try:
                    _report_outcome(outcome, plan, as_json=as_json)
                except BrokenPipeError:
                    raise
                except OSError as error:  # as of a full disk, which is no fault of the files
                    if not plan.is_batch:
                        raise
                    unsaid = error
            bar.update()
    return failed, unsaid


def _report_outcome(outcome: Outcome[Job, Report], plan: Plan, *, as_json: bool) -> None:
    """Report an outcome.

    Raises:
        Exception: That of a job alone.
        OSError: If standard output cannot be written to.
    """
    job, error = outcome.item, outcome.error
    if error is None:
        assert outcome.result is not None
        _print_report(outcome.result, as_json, plan.jobs)
        return
    code = exit_code(error)
    if code is None and not plan.is_batch:
        raise error
    if plan.is_batch:
        remark(shown(f"error: {job.source}: {said(error)}"))
    if as_json:
        object_ = _error_object(job.source, job.target, said(error), code or ExitCode.FAILURE)
        _emit(object_, plan.jobs)
    if not plan.is_batch:
        raise error
