# SPDX-License-Identifier: Apache-2.0
"""``genaccel encode``."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Annotated

import typer

from genaccel.cli import options
from genaccel.cli.batch import Job, plan_jobs, run_jobs, without_existing
from genaccel.codec.limits import DEFAULT_MAX_PIXELS, CodecLimits

if TYPE_CHECKING:
    from genaccel.codec.file_codec import FileReport

app = typer.Typer()


@app.command()
def encode(
    paths: Annotated[
        list[str],
        typer.Argument(
            metavar="IN... [OUT]", help="Image, and .gac file to write; - is stdin and stdout."
        ),
    ],
    out_dir: options.OutDir = None,
    model: options.Model = None,
    background: Annotated[
        str | None,
        typer.Option(metavar="COLOUR", help="Put transparent images on white, '#ff8000', ..."),
    ] = None,
    reduce_depth: Annotated[
        bool,
        typer.Option("--reduce-depth", help="Take images of more than 8 bits per sample, at 8."),
    ] = False,
    force: options.Force = False,
    skip_existing: options.SkipExisting = False,
    jobs: options.Jobs = 1,
    json: options.Json = False,
    max_pixels: options.MaxPixels = DEFAULT_MAX_PIXELS,
    max_memory: options.MaxMemory = options.DEFAULT_MAX_MEMORY_MIB,
    threads: options.Threads = None,
    device: options.Device = "cpu",
) -> None:
    """Compress images to .gac files.

    IN alone is written beside itself. Several inputs, and folders, need --out-dir.
    """
    from genaccel.codec.bitstream import EXTENSION
    from genaccel.codec.images import READ_SUFFIXES, parse_colour

    if force and skip_existing:
        raise typer.BadParameter("give --force or --skip-existing, not both")
    todo = plan_jobs(paths, out_dir=out_dir, input_suffixes=READ_SUFFIXES, output_suffix=EXTENSION)
    try:
        colour = None if background is None else parse_colour(background)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error
    if skip_existing:
        todo = without_existing(todo)
        if not todo:
            return
    workers = min(jobs, len(todo))
    open_work = partial(
        open_encoder,
        model,
        device=device,
        limits=CodecLimits(max_pixels=max_pixels, max_memory_bytes=max_memory * 2**20),
        threads=options.threads_of_each(threads, workers),
        overwrite=force,
        background=colour,
        reduce_depth=reduce_depth,
    )
    run_jobs(
        todo,
        open_work,
        verb="encoding",
        as_json=json,
        batch=out_dir is not None,
        workers=workers,
    )


def open_encoder(
    model: str | None,
    *,
    device: str,
    limits: CodecLimits,
    threads: int | None,
    overwrite: bool,
    background: tuple[int, int, int] | None,
    reduce_depth: bool,
) -> Callable[[Job], FileReport]:
    """Load the model and give the function that encodes a file; runs in a worker process, if there are any.

    Raises:
        UnknownModelError: If the model is not at hand; fails the command, not each file.
    """
    import torch

    from genaccel.codec.file_codec import encode_file
    from genaccel.codec.image_codec import CodecPool

    if threads is not None:
        torch.set_num_threads(threads)
    codecs = CodecPool(model, device=device, limits=limits)
    codecs.for_encoding()

    def work(job: Job) -> FileReport:
        return encode_file(
            codecs,
            job.open_source(),
            job.open_target(),
            overwrite=overwrite,
            background=background,
            reduce_depth=reduce_depth,
        )

    return work
