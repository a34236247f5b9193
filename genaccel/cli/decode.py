# SPDX-License-Identifier: Apache-2.0
"""``genaccel decode``."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from genaccel.cli import options
from genaccel.cli.batch import Job, plan_jobs, run_jobs, without_existing
from genaccel.codec.format.limits import DEFAULT_FREE_PIXELS, DEFAULT_MAX_PIXELS, CodecLimits

if TYPE_CHECKING:
    from genaccel.codec.batch.file_codec import FileReport

app = typer.Typer()


@app.command()
def decode(
    paths: Annotated[
        list[str],
        typer.Argument(
            metavar="IN... [OUT]", help=".gac file, and image to write; - is stdin and stdout."
        ),
    ],
    out_dir: options.OutDir = None,
    model: options.Model = None,
    file_format: Annotated[
        Literal["png", "jpeg", "webp", "tiff", "ppm"] | None,
        typer.Option("--format", help="Image format; by default that of OUT's suffix, else png."),
    ] = None,
    prefix: Annotated[
        int | None,
        typer.Option(min=1, help="Use only so many slices of the file, coarse to fine; a preview."),
    ] = None,
    truncated: Annotated[
        bool,
        typer.Option("--truncated", help="Take a file that has lost its end, as far as it goes."),
    ] = False,
    seed: Annotated[
        int, typer.Option(help="Of what is made up for slices that are not there.")
    ] = 0,
    most_likely: Annotated[
        bool,
        typer.Option("--most-likely", help="Make up what is most likely instead: smoother."),
    ] = False,
    background: options.Background = None,
    preserve_times: options.PreserveTimes = False,
    force: options.Force = False,
    skip_existing: options.SkipExisting = False,
    keep_extension: options.KeepExtension = False,
    dry_run: options.DryRun = False,
    jobs: options.Jobs = 1,
    json: options.Json = False,
    max_pixels: options.MaxPixels = DEFAULT_MAX_PIXELS,
    max_memory: options.MaxMemory = None,
    free_pixels: Annotated[
        int,
        typer.Option(
            min=1,
            help="Refuse more pixels from a file of a kilobyte: missing slices are made up at 2 CPU-seconds per megapixel.",
        ),
    ] = DEFAULT_FREE_PIXELS,
    timeout: options.Timeout = None,
    threads: options.Threads = None,
    device: options.Device = "cpu",
) -> None:
    """Restore images from .gac files.

    IN alone is written beside itself as PNG; OUT may be a folder. Several inputs, and folders, need --out-dir.
    """
    from genaccel.codec.format.bitstream import EXTENSION
    from genaccel.files.image_writer import WRITE_FORMATS
    from genaccel.files.images import parse_colour

    if force and skip_existing:
        raise typer.BadParameter("give --force or --skip-existing, not both")
    with options.usage_errors():
        colour = None if background is None else parse_colour(background)
    plan = plan_jobs(
        paths,
        out_dir=out_dir,
        input_suffixes={EXTENSION},
        output_suffix=next(s for s, f in WRITE_FORMATS.items() if f == (file_format or "png")),
        keep_extension=keep_extension,
    )
    for job in plan.jobs:
        if file_format is None and Path(job.target).suffix.lower() not in WRITE_FORMATS:
            where = "stdout" if job.target == options.STREAM else job.target
            raise typer.BadParameter(
                f"{where} does not tell the image format: give --format, "
                f"or a name that ends in {', '.join(WRITE_FORMATS)}"
            )

    if skip_existing:
        plan = without_existing(plan)
    limits: dict[str, Any] = {
        "max_pixels": max_pixels,
        "timeout_seconds": timeout,
        "free_pixels": free_pixels,
    }
    with options.usage_errors():
        CodecLimits(**limits)  # here, and not in each worker
    workers = options.workers_for(jobs, len(plan.jobs))
    open_work = partial(
        open_decoder,
        model,
        device=device,
        max_memory=max_memory,
        processes=workers,
        limits=limits,
        threads=options.threads_of_each(threads, workers),
        file_format=file_format,
        overwrite=force,
        background=colour,
        preserve_times=preserve_times,
        prefix=prefix,
        truncated=truncated,
        seed=None if most_likely else seed,
    )
    run_jobs(
        plan,
        open_work,
        verb="decoding",
        as_json=json,
        overwrite=force,
        dry_run=dry_run,
        workers=workers,
    )


def open_decoder(
    model: str | None,
    *,
    device: str,
    limits: dict[str, Any],
    max_memory: int | None,
    processes: int,
    threads: int | None,
    overwrite: bool,
    **others: Any,
) -> Callable[[Job], FileReport]:
    """Give the function that decodes a file; runs in a worker process, if there are any.

    Models are loaded as files name them, once each. ``others`` are the options of :func:`decode_file`.
    """
    import torch

    from genaccel.codec.batch.codec_pool import CodecPool
    from genaccel.codec.batch.file_codec import decode_file

    if threads is not None:
        torch.set_num_threads(threads)
    # Measured here, behind the libraries, which take most of a small address space.
    codecs = CodecPool(
        model, device=device, limits=options.limits_here(max_memory, processes, limits)
    )

    def work(job: Job) -> FileReport:
        may_replace = overwrite or job.replaces
        target = job.open_target(overwrite=may_replace)
        return decode_file(codecs, job.open_source(), target, overwrite=may_replace, **others)

    return work
