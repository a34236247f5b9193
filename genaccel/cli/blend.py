# SPDX-License-Identifier: Apache-2.0
"""``genaccel blend``."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from genaccel.cli import options
from genaccel.cli.batch import Job, Plan, plan_jobs, run_jobs, without_existing
from genaccel.codec.format.limits import DEFAULT_MAX_PIXELS

if TYPE_CHECKING:
    from genaccel.speculative_sr.blend_files import BlendReport

app = typer.Typer()


@app.command()
def blend(
    paths: Annotated[
        list[str],
        typer.Argument(
            metavar="FAITHFUL SHARP OUT",
            help="Two upscales of one size and the image to write, or three folders; or LAYERS OUT.",
        ),
    ],
    alpha: Annotated[
        float,
        typer.Option(
            callback=options.finite,
            help="Strength of the fine detail: 1 for all of it, 0.6 for softer pictures, 0 for none.",
        ),
    ] = 1.0,
    keep_layers: Annotated[
        bool,
        typer.Option(
            "--keep-layers",
            help="Write OUT.layers too, from which `genaccel blend OUT.layers OUT --alpha A` makes another strength.",
        ),
    ] = False,
    file_format: Annotated[
        Literal["png", "jpeg", "webp", "tiff", "ppm"] | None,
        typer.Option("--format", help="Image format; by default that of OUT's suffix, else png."),
    ] = None,
    background: options.Background = None,
    reduce_depth: Annotated[
        bool,
        typer.Option("--reduce-depth", help="Take images of more than 8 bits per sample, at 8."),
    ] = False,
    force: options.Force = False,
    skip_existing: options.SkipExisting = False,
    dry_run: options.DryRun = False,
    jobs: options.Jobs = 1,
    json: options.Json = False,
    max_pixels: options.MaxPixels = DEFAULT_MAX_PIXELS,
    threads: options.Threads = None,
    device: options.Device = "cpu",
) -> None:
    """Put the detail of a sharp upscale on the colours and structure of a faithful one.

    FAITHFUL is, for example, by SPAN or bicubic; SHARP by Real-ESRGAN or a diffusion model. In folders, pictures of the same
    name belong together.
    """
    from genaccel.files.images import parse_colour

    if force and skip_existing:
        raise typer.BadParameter("give --force or --skip-existing, not both")
    with options.usage_errors():
        colour = None if background is None else parse_colour(background)
    plan, sharp_of = _plan(paths, file_format)
    if keep_layers and len(paths) == 2:
        raise typer.BadParameter("--keep-layers is for two pictures: layers are there already")
    if skip_existing:
        plan = without_existing(plan)
    workers = options.workers_for(jobs, len(plan.jobs))
    open_work = partial(
        open_blender,
        sharp_of,
        threads=options.threads_of_each(threads, workers),
        overwrite=force,
        of_layers={
            "alpha": alpha,
            "file_format": file_format,
            "background": colour,
            "max_pixels": max_pixels,
        },
        of_pictures={"keep_layers": keep_layers, "reduce_depth": reduce_depth, "device": device},
    )
    run_jobs(
        plan,
        open_work,
        verb="blending",
        as_json=json,
        overwrite=force,
        dry_run=dry_run,
        workers=workers,
    )


def _plan(paths: list[str], file_format: str | None) -> tuple[Plan, dict[str, str]]:
    """What to do, and the sharp picture of each faithful one."""
    from genaccel.files.formats import IMAGE_SUFFIXES
    from genaccel.files.image_writer import WRITE_FORMATS
    from genaccel.speculative_sr.blend_files import LAYERS_SUFFIX, pair_folders

    if options.STREAM in paths:
        raise typer.BadParameter("blend reads and writes files, not standard input and output")
    if not 2 <= len(paths) <= 3:
        raise typer.BadParameter(
            f"{len(paths)} paths: give FAITHFUL SHARP OUT, or LAYERS OUT with layers that were kept"
        )
    first, out = Path(paths[0]), Path(paths[-1])
    suffix = next(s for s, f in WRITE_FORMATS.items() if f == (file_format or "png"))
    if len(paths) == 2 and not first.is_dir() and first.suffix != LAYERS_SUFFIX:
        raise typer.BadParameter(
            f"{first} is no file of layers (*{LAYERS_SUFFIX}): give FAITHFUL SHARP OUT"
        )
    if first.is_dir():
        suffixes = {LAYERS_SUFFIX} if len(paths) == 2 else IMAGE_SUFFIXES
        plan = plan_jobs([paths[0]], out_dir=out, input_suffixes=suffixes, output_suffix=suffix)
        if len(paths) == 2:
            return plan, {}
        pairs = pair_folders([job.source for job in plan.jobs], first, Path(paths[1]))
        plan = dataclasses.replace(
            plan,
            jobs=[job for job in plan.jobs if job.source in pairs.sharp_of],
            left_out=(*plan.left_out, *pairs.left_out),
            unreadable={**plan.unreadable, **pairs.unpaired},
        )
        return plan, pairs.sharp_of
    if len(paths) == 3 and Path(paths[1]).is_dir():
        raise typer.BadParameter(f"{paths[1]} is a folder, and {first} is none")
    if out.is_dir():
        out = out / first.with_suffix(suffix).name
    elif file_format is None and out.suffix.lower() not in WRITE_FORMATS:
        raise typer.BadParameter(
            f"{out} does not tell the image format: give --format, "
            f"or a name that ends in {', '.join(WRITE_FORMATS)}"
        )
    job = Job(source=str(first), target=str(out))
    return Plan(jobs=[job]), {job.source: paths[1]} if len(paths) == 3 else {}


def open_blender(
    sharp_of: Mapping[str, str],
    *,
    threads: int | None,
    overwrite: bool,
    of_layers: dict[str, Any],
    of_pictures: dict[str, Any],
) -> Callable[[Job], BlendReport]:
    """Give the function that blends a pair of files; runs in a worker process, if there are any.

    Args:
        sharp_of: Sharp picture by faithful one; what is not in it is a file of layers.
        threads: Of torch.
        overwrite: Replace files that are there.
        of_layers: Options of :func:`blend_layers_file`.
        of_pictures: What :func:`blend_file` takes besides those.
    """
    import torch

    from genaccel.speculative_sr.blend_files import blend_file, blend_layers_file

    if threads is not None:
        torch.set_num_threads(threads)

    def work(job: Job) -> BlendReport:
        may_replace = overwrite or job.replaces
        job.open_target(overwrite=may_replace)
        source, target = Path(job.source), Path(job.target)
        if job.source not in sharp_of:
            return blend_layers_file(source, target, overwrite=may_replace, **of_layers)
        sharp = Path(sharp_of[job.source])
        return blend_file(source, sharp, target, overwrite=may_replace, **of_layers, **of_pictures)

    return work
