# SPDX-License-Identifier: Apache-2.0
"""``genaccel train``: train the package's models."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

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
        from genaccel.codec.training import CodecTrainer
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
        _train(trainer)
    except (ValueError, OSError) as error:
        raise typer.BadParameter(str(error)) from error
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


Steps = Annotated[int, typer.Option(min=1, help="Optimiser steps.")]
BatchSize = Annotated[int, typer.Option(min=1, help="Samples per step and process.")]
LearningRate = Annotated[float, typer.Option(help="Peak of the cosine schedule.")]
Minutes = Annotated[float, typer.Option(help="Minutes between checkpoints.")]
Precision = Annotated[Literal["no", "fp16", "bf16"], typer.Option()]
Cpu = Annotated[bool, typer.Option("--cpu", help="Train on the CPU even where a GPU is.")]


@app.command()
def vae(
    data: Annotated[Path, typer.Option(help="Folder of training images.")],
    out: Annotated[Path, typer.Option(help="Run folder; the model is its folder `vae`.")],
    image_size: Annotated[int, typer.Option(help="Side of a crop in pixels.")] = 128,
    channels: Annotated[
        str, typer.Option(help="Widths from full resolution down, halved in between.")
    ] = "32,64,96,128",
    perceptual_weight: Annotated[
        float, typer.Option(help="Weight of ST-LPIPS beside the squared error.")
    ] = 0.5,
    start: Annotated[
        Path | None, typer.Option(help="Autoencoder to begin with, of the same widths.")
    ] = None,
    decoder_only: Annotated[
        bool,
        typer.Option("--decoder-only", help="Keep the encoder of --start, and so its latents."),
    ] = False,
    steps: Steps = 10_000,
    batch_size: BatchSize = 8,
    learning_rate: LearningRate = 4e-4,
    checkpoint_minutes: Minutes = 5.0,
    mixed_precision: Precision = "no",
    seed: Annotated[int, typer.Option()] = 0,
    cpu: Cpu = False,
) -> None:
    """Train the autoencoder of a latent diffusion model; the same command resumes."""
    try:
        from genaccel.training.latent_autoencoder import (
            LatentAutoencoderConfig,
            LatentAutoencoderTraining,
            load_latent_autoencoder,
        )
        from genaccel.training.loop import LoopConfig
    except ModuleNotFoundError as error:
        raise _missing_extra(error) from error
    try:
        training = LatentAutoencoderTraining(
            LatentAutoencoderConfig(
                image_size=image_size,
                channels=tuple(int(c) for c in channels.split(",")),
                perceptual_weight=perceptual_weight,
                decoder_only=decoder_only,
            ),
            LoopConfig(
                steps=steps,
                batch_size=batch_size,
                learning_rate=learning_rate,
                checkpoint_minutes=checkpoint_minutes,
                mixed_precision=mixed_precision,
                seed=seed,
            ),
            data=data,
            run=out,
            start=start,
            cpu=cpu,
        )
        _train(training)
    except (ValueError, OSError) as error:
        raise typer.BadParameter(str(error)) from error
    if training.accelerator.is_main_process:
        load_latent_autoencoder(out, data=data).save_pretrained(out / "vae")
        typer.echo(f"wrote {out / 'vae'}")


@app.command()
def dit(
    data: Annotated[Path, typer.Option(help="Folder of images named by their class: beach3.jpg.")],
    vae: Annotated[Path, typer.Option(help="Folder of the autoencoder, from `train vae`.")],
    out: Annotated[Path, typer.Option(help="Run folder; the pipeline is its folder `pipeline`.")],
    image_size: Annotated[
        int | None,
        typer.Option(help="Side of the images; by default that of the autoencoder's crops."),
    ] = None,
    layers: Annotated[int, typer.Option(help="Transformer blocks.")] = 12,
    heads: Annotated[int, typer.Option(help="Attention heads, of 32 channels each.")] = 7,
    latents: Annotated[int, typer.Option(help="Crops that are encoded and trained on.")] = 8192,
    steps: Steps = 20_000,
    batch_size: BatchSize = 32,
    learning_rate: LearningRate = 5e-4,
    checkpoint_minutes: Minutes = 5.0,
    mixed_precision: Precision = "no",
    seed: Annotated[int, typer.Option()] = 0,
    cpu: Cpu = False,
) -> None:
    """Train a class-conditional diffusion transformer, a `DiTPipeline`; the same command resumes."""
    try:
        from genaccel.training.class_dit import ClassDitConfig, ClassDitTraining, export_pipeline
        from genaccel.training.loop import LoopConfig
    except ModuleNotFoundError as error:
        raise _missing_extra(error) from error
    try:
        training = ClassDitTraining(
            ClassDitConfig(num_layers=layers, num_heads=heads, num_latents=latents),
            LoopConfig(
                steps=steps,
                batch_size=batch_size,
                learning_rate=learning_rate,
                checkpoint_minutes=checkpoint_minutes,
                mixed_precision=mixed_precision,
                seed=seed,
            ),
            vae=vae,
            data=data,
            run=out,
            image_size=image_size,
            cpu=cpu,
        )
        _train(training)
    except (ValueError, OSError) as error:
        raise typer.BadParameter(str(error)) from error
    if training.accelerator.is_main_process:
        export_pipeline(out, out / "pipeline", vae=vae)
        typer.echo(f"wrote {out / 'pipeline'}")


def _train(training: Any) -> None:
    from genaccel.training.loop import NonFiniteLossError

    try:
        training.train()
    except NonFiniteLossError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(1) from error
