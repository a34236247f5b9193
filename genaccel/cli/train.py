# SPDX-License-Identifier: Apache-2.0
"""``genaccel train``: train the package's models."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

app = typer.Typer(help="Train models.", no_args_is_help=True)


def _missing_extra(error: ModuleNotFoundError) -> typer.BadParameter:
    return typer.BadParameter(f"training needs {error.name}: pip install 'genaccel[train]'")


@app.command()
def codec(
    data: Annotated[Path, typer.Option(help="Folder of training images.")],
    out: Annotated[
        Path, typer.Option(help="Run folder: checkpoints, logs, and the model at the end.")
    ],
    preset: Annotated[str, typer.Option(help="Size of the network: small or paper.")] = "small",
    steps: Annotated[int, typer.Option(help="Optimiser steps.")] = 100_000,
    batch_size: Annotated[int, typer.Option(help="Crops per step and process.")] = 16,
    crop_size: Annotated[int, typer.Option(help="Side of a crop in pixels.")] = 128,
    min_scale: Annotated[
        float, typer.Option(help="Images are shrunk by a random factor from this to 1.")
    ] = 0.5,
    color_permutation: Annotated[
        float, typer.Option(help="Share of the crops with colours exchanged.")
    ] = 0.25,
    learning_rate: Annotated[float, typer.Option(help="Peak of the cosine schedule.")] = 4e-4,
    mse_weight: Annotated[float, typer.Option(help="Weight of the mean squared error.")] = 1.0,
    grid_weight: Annotated[
        float, typer.Option(help="Weight of errors that repeat with the decoder's stride.")
    ] = 100.0,
    perceptual_weight: Annotated[float, typer.Option(help="Weight of ST-LPIPS.")] = 1.0,
    perceptual_net: Annotated[
        Literal["alex", "vgg", "none"], typer.Option(help="Trunk of ST-LPIPS.")
    ] = "alex",
    perceptual_start_step: Annotated[
        int, typer.Option(help="Steps on MSE alone before ST-LPIPS joins.")
    ] = 0,
    perceptual_fraction: Annotated[
        float, typer.Option(help="Share of the crops that ST-LPIPS sees.")
    ] = 0.5,
    mixed_precision: Annotated[Literal["no", "fp16", "bf16"], typer.Option()] = "no",
    checkpoint_minutes: Annotated[float, typer.Option(help="Minutes between checkpoints.")] = 5.0,
    num_workers: Annotated[int, typer.Option(help="Processes that prepare crops.")] = 0,
    seed: Annotated[int, typer.Option()] = 0,
    cpu: Annotated[
        bool, typer.Option("--cpu", help="Train on the CPU even where a GPU is.")
    ] = False,
) -> None:
    """Train the image codec; the same command resumes an interrupted run. On several GPUs: accelerate launch."""
    try:
        from genaccel.codec.export import export_model
        from genaccel.codec.training import CodecTrainer, NonFiniteLossError
    except ModuleNotFoundError as error:
        raise _missing_extra(error) from error
    from genaccel.codec.training_config import CodecTrainingConfig

    try:
        config = CodecTrainingConfig(
            preset=preset,
            steps=steps,
            batch_size=batch_size,
            crop_size=crop_size,
            min_scale=min_scale,
            color_permutation=color_permutation,
            learning_rate=learning_rate,
            mse_weight=mse_weight,
            grid_weight=grid_weight,
            perceptual_weight=perceptual_weight,
            perceptual_net=perceptual_net,
            perceptual_start_step=perceptual_start_step,
            perceptual_fraction=perceptual_fraction,
            mixed_precision=mixed_precision,
            checkpoint_minutes=checkpoint_minutes,
            num_workers=num_workers,
            seed=seed,
        )
        trainer = CodecTrainer(config, data=data, run=out, cpu=cpu)
        trainer.train()
    except (ValueError, OSError) as error:
        raise typer.BadParameter(str(error)) from error
    except NonFiniteLossError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(1) from error
    if trainer.accelerator.is_main_process:
        report = export_model(out, out / "model", data=data)
        typer.echo(f"{report.folder}: {report.bits_per_pixel:.3f} bits per pixel")


@app.command()
def export(
    run: Annotated[Path, typer.Argument(help="Run folder of `genaccel train codec`.")],
    out: Annotated[Path, typer.Argument(help="Folder to write the model to.")],
    data: Annotated[Path, typer.Option(help="Folder of images to measure index tables on.")],
    max_images: Annotated[int, typer.Option(help="Images to measure on.")] = 1000,
) -> None:
    """Write the model of a run's last checkpoint; the run may still be going on."""
    try:
        from genaccel.codec.export import export_model
    except ModuleNotFoundError as error:
        raise _missing_extra(error) from error

    try:
        report = export_model(run, out, data=data, max_images=max_images)
    except (ValueError, OSError) as error:
        raise typer.BadParameter(str(error)) from error
    typer.echo(
        f"{report.folder}: {report.bits_per_pixel:.3f} bits per pixel on {data}; "
        f"code words used per scale, coarse to fine: {report.codes_used}"
    )
