# SPDX-License-Identifier: Apache-2.0
"""Folders of millions of files on many machines, with Ray Data (docs/scale.md).

    python -m genaccel.codec.batch.ray_files encode PHOTOS FILES --workers 64 --log files.jsonl

Ray keeps the workers alive, each with its model loaded once, and gives the files of a dead worker to another. This
file sees to it that nothing is lost or done twice: a result appears whole or not at all, one that is there is left
alone, and a file on which two workers died is reported instead of killing a third.
"""

from __future__ import annotations

import json
import math
import os
import uuid
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from genaccel.codec.format.bitstream import EXTENSION
from genaccel.codec.format.limits import CodecLimits
from genaccel.files.atomic import remove_partial
from genaccel.files.folders import find_files
from genaccel.files.formats import IMAGE_SUFFIXES

Direction = Literal["encode", "decode"]

# So that the last tasks do not leave workers without work for long.
_TASKS_PER_WORKER = 4
_DEATHS_TO_GIVE_UP = 2
SOME_FILES_FAILED = 6  # as of ``genaccel encode``


class FileCoder:
    """A Ray actor: loads a model once, and codes files in batches with it.

    Args:
        direction: ``"encode"`` images to ``.gac`` files, or ``"decode"`` those to PNG.
        model: Name or folder; None as for :class:`genaccel.codec.batch.codec_pool.CodecPool`.
        device: Where the model runs.
        threads: CPU threads of one worker.
        limits: Largest images and memory that are accepted.
        run: Names this run, the same for all its workers. A file on which two workers of one run died is given
            up for the rest of it, and tried again by the next.
    """

    def __init__(
        self,
        direction: Direction,
        *,
        model: str | None = None,
        device: str = "cpu",
        threads: int = 1,
        limits: CodecLimits | None = None,
        run: str,
    ) -> None:
        import torch

        from genaccel.codec.batch.codec_pool import CodecPool

        torch.set_num_threads(threads)
        self._direction = direction
        self._run = run
        self._codecs = CodecPool(model, device=device, limits=limits)
        if direction == "encode":
            self._codecs.for_encoding()

    def __call__(self, batch: Mapping[str, Sequence[str]]) -> dict[str, list[Any]]:
        """Code the files of a batch.

        Args:
            batch: Columns ``source`` and ``target``, paths that every machine sees.

        Returns:
            Those columns, and ``status`` ("done", "there" for what was done before, "failed"), ``num_bytes``
            of the result, and ``error``.
        """
        rows = [
            self._code(Path(str(source)), Path(str(target)))
            for source, target in zip(batch["source"], batch["target"], strict=True)
        ]
        return {column: [row[column] for row in rows] for column in rows[0]} if rows else {}

    def _code(self, source: Path, target: Path) -> dict[str, Any]:
        row = {"source": str(source), "target": str(target)}
        tries = target.with_name(f".{target.name}.tries")
        try:
            if target.is_file():
                tries.unlink(
                    missing_ok=True
                )  # of a worker that died just after it wrote the target
                return {**row, "status": "there", "num_bytes": target.stat().st_size, "error": ""}
            target.parent.mkdir(parents=True, exist_ok=True)
            if self._deaths(tries, target) >= _DEATHS_TO_GIVE_UP:
                # The note stays: another file of the batch may make Ray repeat it, and this one must not
                # cost two more workers then.
                reason = f"{_DEATHS_TO_GIVE_UP} worker processes died on it"
                return {**row, "status": "failed", "num_bytes": 0, "error": reason}
            with tries.open("a") as note:
                note.write(f"{self._run} {os.getpid()}\n")
            try:
                self._code_file(source, target)
            finally:
                tries.unlink(missing_ok=True)
            return {**row, "status": "done", "num_bytes": target.stat().st_size, "error": ""}
        # Whatever is wrong with one of a million files, the others go on.
        except Exception as error:
            reason = f"{type(error).__name__}: {error}"
            return {**row, "status": "failed", "num_bytes": 0, "error": reason}

    def _code_file(self, source: Path, target: Path) -> None:
        from genaccel.codec.batch.file_codec import decode_file, encode_file

        if self._direction == "encode":
            encode_file(self._codecs, source, target)
        else:
            decode_file(self._codecs, source, target)

    def _deaths(self, tries: Path, target: Path) -> int:
        """Workers of this run that began a file and did not end it; what any of them half-wrote is removed."""
        try:
            notes = [line.split() for line in tries.read_text().splitlines()]
        except FileNotFoundError:
            return 0
        for _, process_id in notes:
            remove_partial(target, int(process_id))
        return sum(run == self._run for run, _ in notes)


def find_jobs(direction: Direction, folder: Path, out_dir: Path) -> list[dict[str, str]]:
    """Sources below a folder and their targets below another, which keeps its structure.

    Raises:
        NotADirectoryError: If ``folder`` is none.
        ValueError: If two sources would become one target.
    """
    suffixes = IMAGE_SUFFIXES if direction == "encode" else {EXTENSION}
    suffix = EXTENSION if direction == "encode" else ".png"
    sources: dict[Path, Path] = {}
    for source in find_files(folder, suffixes):
        target = (out_dir / source.relative_to(folder)).with_suffix(suffix)
        if target in sources:
            raise ValueError(f"{sources[target]} and {source} would both become {target}")
        sources[target] = source
    return [{"source": str(source), "target": str(target)} for target, source in sources.items()]


def code_files(
    jobs: Sequence[Mapping[str, str]],
    direction: Direction,
    *,
    workers: int,
    cpus_per_worker: int = 1,
    gpus_per_worker: float = 0.0,
    files_per_task: int = 64,
    **options: Any,
) -> Iterator[dict[str, Any]]:
    """Code files on the Ray cluster that this process is connected to.

    Args:
        jobs: From :func:`find_jobs`; absolute paths, unless the working directory is the same everywhere.
        direction: As for :class:`FileCoder`.
        workers: Actors, each with a model.
        cpus_per_worker: CPUs that each reserves, and its threads.
        gpus_per_worker: GPUs that each reserves; with ``device="cuda"``.
        files_per_task: Files of a task at most: those that Ray looks at again if a worker dies.
        options: ``model``, ``device``, ``limits`` of :class:`FileCoder`.

    Yields:
        The rows of :class:`FileCoder`, task by task.

    Raises:
        ImportError: If Ray is missing.
    """
    try:
        import ray.data
    except ImportError as error:
        raise ImportError("this needs Ray: run `pip install 'genaccel[scale]'`") from error
    if not jobs:
        return
    per_task = max(1, min(files_per_task, math.ceil(len(jobs) / (_TASKS_PER_WORKER * workers))))
    files = ray.data.from_items(
        [dict(job) for job in jobs], override_num_blocks=math.ceil(len(jobs) / per_task)
    )
    coded = files.map_batches(
        FileCoder,
        batch_size=per_task,
        compute=ray.data.ActorPoolStrategy(size=workers),
        fn_constructor_args=(direction,),
        fn_constructor_kwargs={"threads": cpus_per_worker, "run": uuid.uuid4().hex, **options},
        num_cpus=cpus_per_worker,
        num_gpus=gpus_per_worker,
    )
    yield from coded.iter_rows()


def main(
    direction: Annotated[Direction, typer.Argument(help="encode or decode.")],
    folder: Annotated[Path, typer.Argument(help="Images, or .gac files.")],
    out_dir: Annotated[Path, typer.Argument(help="Folder for the results.")],
    workers: Annotated[int, typer.Option(min=1, help="Processes, on all machines.")] = 1,
    cpus_per_worker: Annotated[int, typer.Option(min=1, help="Also its threads.")] = 1,
    gpus_per_worker: Annotated[float, typer.Option(min=0, help="1, 0.5, ...")] = 0.0,
    files_per_task: Annotated[int, typer.Option(min=1, help="At most.")] = 64,
    model: Annotated[str | None, typer.Option(help="Model of the zoo, or its folder.")] = None,
    device: Annotated[str, typer.Option(help="cpu or cuda, of the workers' machines.")] = "cpu",
    address: Annotated[
        str | None, typer.Option(help="Cluster; auto finds it; by default this machine alone.")
    ] = None,
    log: Annotated[Path | None, typer.Option(help="JSON lines to append, one a file.")] = None,
) -> None:
    """Encode or decode a folder with Ray; call it again to go on after a break."""
    jobs = find_jobs(direction, folder.resolve(), out_dir.resolve())
    try:
        import ray
    except ImportError as error:
        raise typer.BadParameter("Ray is missing: pip install 'genaccel[scale]'") from error
    ray.init(address=address)
    counts = {"done": 0, "there": 0, "failed": 0}
    with open(log or os.devnull, "a", encoding="utf-8") as lines:
        rows = code_files(
            jobs,
            direction,
            workers=workers,
            cpus_per_worker=cpus_per_worker,
            gpus_per_worker=gpus_per_worker,
            files_per_task=files_per_task,
            model=model,
            device=device,
        )
        for row in rows:
            counts[row["status"]] += 1
            lines.write(json.dumps(row) + "\n")
            lines.flush()
            if row["status"] == "failed":
                typer.echo(f"error: {row['source']}: {row['error']}", err=True)
    ray.shutdown()
    typer.echo(", ".join(f"{count} {status}" for status, count in counts.items()))
    if counts["failed"]:
        raise typer.Exit(SOME_FILES_FAILED)


if __name__ == "__main__":
    typer.run(main)
