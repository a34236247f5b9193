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
    force: options.Force = False,
    skip_existing: options.SkipExisting = False,
    jobs: options.Jobs = 1,
    json: options.Json = False,
    max_pixels: options.MaxPixels = DEFAULT_MAX_PIXELS,
    max_memory: options.MaxMemory = options.DEFAULT_MAX_MEMORY_MIB,
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

    IN alone is written beside itself as PNG. Several inputs, and folders, need --out-dir.
    """
    from genaccel.codec.format.bitstream import EXTENSION
    from genaccel.files.images import WRITE_FORMATS

    if force and skip_existing:
        raise typer.BadParameter("give --force or --skip-existing, not both")
    todo = plan_jobs(
        paths,
        out_dir=out_dir,
        input_suffixes={EXTENSION},
        output_suffix=next(s for s, f in WRITE_FORMATS.items() if f == (file_format or "png")),
    )
    for job in todo:
        if file_format is None and Path(job.target).suffix.lower() not in WRITE_FORMATS:
            where = "stdout" if job.target == options.STREAM else job.target
            raise typer.BadParameter(
                f"{where} does not tell the image format: give --format, "
                f"or a name that ends in {', '.join(WRITE_FORMATS)}"
            )

    if skip_existing:
        todo = without_existing(todo)
        if not todo:
            return
    with options.usage_errors():
        limits = CodecLimits(
            max_pixels=max_pixels,
            max_memory_bytes=max_memory * 2**20,
            free_pixels=free_pixels,
            timeout_seconds=timeout,
        )
    workers = min(jobs, len(todo))
    open_work = partial(
        open_decoder,
        model,
        device=device,
        limits=limits,
        threads=options.threads_of_each(threads, workers),
        file_format=file_format,
        overwrite=force,
        prefix=prefix,
        truncated=truncated,
        seed=None if most_likely else seed,
    )
    run_jobs(
        todo,
        open_work,
        verb="decoding",
        as_json=json,
        batch=out_dir is not None,
        workers=workers,
    )


def open_decoder(
    model: str | None,
    *,
    device: str,
    limits: CodecLimits,
    threads: int | None,
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
    codecs = CodecPool(model, device=device, limits=limits)

    def work(job: Job) -> FileReport:
        return decode_file(codecs, job.open_source(), job.open_target(), **others)

    return work
