# SPDX-License-Identifier: Apache-2.0
"""``genaccel encode``."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from genaccel import zoo
from genaccel.cli import options
from genaccel.cli.batch import Job, plan_jobs, run_jobs, without_existing
from genaccel.codec.format.limits import DEFAULT_MAX_PIXELS, CodecLimits

if TYPE_CHECKING:
    from genaccel.codec.batch.file_codec import FileReport
    from genaccel.codec.encoder.encode_options import EncodeOptions
    from genaccel.codec.encoder.latent_refinement import StepReport

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
    quality: Annotated[
        Literal["low", "medium", "high"] | None,
        typer.Option(
            "-q", "--quality", help="Which model of the zoo: smaller files or better ones."
        ),
    ] = None,
    bpp: Annotated[
        float | None, typer.Option(help="Bits per pixel at most; chooses the model if you do not.")
    ] = None,
    target_size: Annotated[
        str | None,
        typer.Option(
            metavar="BYTES", help="Size of each file at most: 3000, 3k, 1.5M (powers of 1000)."
        ),
    ] = None,
    rdo: Annotated[
        float,
        typer.Option(
            help="Weigh bits against distance when code words are chosen; 0.01 to 0.05 is sensible."
        ),
    ] = 0.0,
    refine: Annotated[
        int,
        typer.Option(
            metavar="STEPS",
            help="Improve each image's code by gradient descent; 16 to 40 steps, each of 10 s per megapixel on a CPU core.",
        ),
    ] = 0,
    slices: Annotated[
        int | None,
        typer.Option(
            help="Send only so many slices, coarse to fine; the decoder makes up the rest."
        ),
    ] = None,
    half_size: Annotated[
        bool | None,
        typer.Option(
            "--half-size/--full-size",
            help="Code the image at half its width and height, for very small files; by default where --bpp or --target-size need it.",
        ),
    ] = None,
    static_tables: Annotated[
        bool,
        typer.Option("--static-tables", help="Code without the entropy model: larger and faster."),
    ] = False,
    background: options.Background = None,
    drop_alpha: Annotated[
        bool, typer.Option("--drop-alpha", help="Take the colours of transparent images alone.")
    ] = False,
    keep_metadata: Annotated[
        bool,
        typer.Option(
            "--keep-metadata", help="Carry date, author, copyright, description and camera."
        ),
    ] = False,
    keep_gps: Annotated[
        bool, typer.Option("--keep-gps", help="Carry where the photograph was taken.")
    ] = False,
    preserve_times: options.PreserveTimes = False,
    reduce_depth: Annotated[
        bool,
        typer.Option("--reduce-depth", help="Take images of more than 8 bits per sample, at 8."),
    ] = False,
    force: options.Force = False,
    skip_existing: options.SkipExisting = False,
    keep_extension: options.KeepExtension = False,
    dry_run: options.DryRun = False,
    jobs: options.Jobs = 1,
    json: options.Json = False,
    max_pixels: options.MaxPixels = DEFAULT_MAX_PIXELS,
    max_memory: options.MaxMemory = None,
    timeout: options.Timeout = None,
    threads: options.Threads = None,
    device: options.Device = "cpu",
) -> None:
    """Compress images to .gac files.

    IN alone is written beside itself; OUT may be a folder. Several inputs, and folders, need --out-dir.
    """
    from genaccel.codec.encoder.encode_options import EncodeOptions
    from genaccel.codec.format.bitstream import EXTENSION
    from genaccel.files.formats import IMAGE_SUFFIXES
    from genaccel.files.images import parse_colour

    if force and skip_existing:
        raise typer.BadParameter("give --force or --skip-existing, not both")
    plan = plan_jobs(
        paths,
        out_dir=out_dir,
        input_suffixes=IMAGE_SUFFIXES,
        output_suffix=EXTENSION,
        keep_extension=keep_extension,
    )
    if model is not None and quality is not None:
        raise typer.BadParameter("give --model or --quality, not both")
    if background is not None and drop_alpha:
        raise typer.BadParameter("give --background or --drop-alpha, not both")
    with options.usage_errors():
        rate_control = EncodeOptions(
            rdo=rdo,
            bits_per_pixel=bpp,
            target_bytes=None if target_size is None else parse_bytes(target_size),
            num_slices=slices,
            refine=refine,
            half_size=half_size,
            static_tables=static_tables,
        )
        colour = None if background is None else parse_colour(background)
    if skip_existing:
        plan = without_existing(plan)
    limits: dict[str, Any] = {
        "max_pixels": max_pixels,
        "timeout_seconds": timeout,
    }
    with options.usage_errors():
        CodecLimits(**limits)  # here, and not in each worker
    workers = options.workers_for(jobs, len(plan.jobs))
    open_work = partial(
        open_encoder,
        model if quality is None else zoo.codec_of_quality(quality),
        device=device,
        max_memory=max_memory,
        processes=workers,
        limits=limits,
        threads=options.threads_of_each(threads, workers),
        overwrite=force,
        background=colour,
        drop_alpha=drop_alpha,
        keep_metadata=keep_metadata,
        keep_gps=keep_gps,
        preserve_times=preserve_times,
        reduce_depth=reduce_depth,
        rate_control=rate_control,
        show_steps=workers <= 1,
    )
    run_jobs(
        plan,
        open_work,
        verb="encoding",
        as_json=json,
        overwrite=force,
        dry_run=dry_run,
        workers=workers,
    )


_UNITS = {"": 1, "k": 1000, "m": 1000**2}


def parse_bytes(text: str) -> int:
    """Number of bytes that a person wrote.

    Raises:
        ValueError: If it cannot be read.

    Example:
        >>> parse_bytes("900"), parse_bytes("3k"), parse_bytes("1.5MB")
        (900, 3000, 1500000)
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?) ?([km]?)b?", text.strip().lower())
    if match is None:
        raise ValueError(f"a size is a number of bytes, as 3000, 3k or 1.5M; got {text!r}")
    size = float(match[1]) * _UNITS[match[2]]
    if not size < 2**63:
        raise ValueError("a size of that many bytes has no file")
    return int(size)


@contextmanager
def steps_bar(*, shown: bool) -> Iterator[StepReport | None]:
    """A progress bar of refinement, where standard error is a terminal; gives the function that moves it."""
    if not shown:
        # Even a bar that is not shown makes a semaphore, which a worker that is killed leaves behind.
        yield None
        return
    from tqdm import tqdm

    with tqdm(desc="refining", unit="step", leave=False, disable=None) as bar:

        def on_step(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        yield on_step


def open_encoder(
    model: str | None,
    *,
    device: str,
    limits: dict[str, Any],
    max_memory: int | None,
    processes: int,
    threads: int | None,
    rate_control: EncodeOptions,
    show_steps: bool,
    overwrite: bool,
    **others: Any,
) -> Callable[[Job], FileReport]:
    """Load the model and give the function that encodes a file; runs in a worker process, if there are any.

    ``others`` are further options of :func:`encode_file`.

    Raises:
        UnknownModelError: If the model is not at hand; fails the command, not each file.
    """
    import torch

    from genaccel.codec.batch.codec_pool import CodecPool
    from genaccel.codec.batch.file_codec import encode_file

    if threads is not None:
        torch.set_num_threads(threads)
    # Measured here, behind the libraries, which take most of a small address space.
    codecs = CodecPool(
        model, device=device, limits=options.limits_here(max_memory, processes, limits)
    )
    codecs.for_encoding()

    def work(job: Job) -> FileReport:
        may_replace = overwrite or job.replaces
        with steps_bar(shown=show_steps and rate_control.refine > 0) as on_step:
            return encode_file(
                codecs,
                job.open_source(),
                job.open_target(overwrite=may_replace),
                options=rate_control,
                on_step=on_step,
                overwrite=may_replace,
                **others,
            )

    return work
