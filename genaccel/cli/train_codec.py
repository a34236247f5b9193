# SPDX-License-Identifier: Apache-2.0
"""``genaccel train codec``, ``entropy``, ``joint`` and ``export``: the stages of the codec's training."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

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

if TYPE_CHECKING:
    from genaccel.codec.training.export import ExportReport

Data = Annotated[Path, typer.Option(help="Folder of training images.")]
Out = Annotated[Path, typer.Option(help="Run folder: checkpoints, logs, and the model at the end.")]
CropSize = Annotated[int, typer.Option(help="Side of a crop in pixels.")]
MinScale = Annotated[
    float, typer.Option(help="Images are shrunk by a random factor from this to 1.")
]
ColorPermutation = Annotated[float, typer.Option(help="Share of the crops with colours exchanged.")]
MseWeight = Annotated[float, typer.Option(help="Weight of the mean squared error.")]
GridWeight = Annotated[
    float, typer.Option(help="Weight of errors that repeat with the decoder's stride.")
]
PerceptualWeight = Annotated[float, typer.Option(help="Weight of ST-LPIPS.")]
PerceptualNet = Annotated[Literal["alex", "vgg", "none"], typer.Option(help="Trunk of ST-LPIPS.")]
QuantizationAware = Annotated[
    bool,
    typer.Option(
        "--quantization-aware",
        help="Round the entropy model as its integer form is rounded, so that it learns for that.",
    ),
]
PerceptualFraction = Annotated[float, typer.Option(help="Share of the crops that ST-LPIPS sees.")]


def codec(
    data: Data,
    out: Out,
    preset: Annotated[str, typer.Option(help="Size of the network: small or paper.")] = "small",
    steps: Steps = 100_000,
    batch_size: BatchSize = 16,
    crop_size: CropSize = 128,
    min_scale: MinScale = 0.5,
    color_permutation: ColorPermutation = 0.25,
    learning_rate: LearningRate = 4e-4,
    warmup_steps: WarmupSteps = 200,
    mse_weight: MseWeight = 1.0,
    grid_weight: GridWeight = 100.0,
    perceptual_weight: PerceptualWeight = 1.0,
    perceptual_net: PerceptualNet = "alex",
    perceptual_start_step: Annotated[
        int, typer.Option(help="Steps on MSE alone before ST-LPIPS joins.")
    ] = 0,
    perceptual_fraction: PerceptualFraction = 0.5,
    mixed_precision: Precision = "no",
    checkpoint_minutes: Minutes = 5.0,
    num_workers: Annotated[int, typer.Option(help="Processes that prepare crops.")] = 0,
    seed: Seed = 0,
    cpu: Cpu = False,
) -> None:
    """Train the image codec; the same command resumes an interrupted run. On several GPUs: accelerate launch."""
    try:
        from genaccel.codec.training.autoencoder import CodecTrainer
    except ModuleNotFoundError as error:
        raise missing_extra(error) from error
    from genaccel.codec.training.autoencoder_config import CodecTrainingConfig

    try:
        config = CodecTrainingConfig(
            preset=preset,
            steps=steps,
            batch_size=batch_size,
            crop_size=crop_size,
            min_scale=min_scale,
            color_permutation=color_permutation,
            learning_rate=learning_rate,
            warmup_steps=warmup_steps,
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
        run_training(trainer)
    except (ValueError, OSError) as error:
        raise typer.BadParameter(str(error)) from error
    if trainer.accelerator.is_main_process:
        _export_at_the_end(out, data)


def entropy(
    data: Data,
    start: Annotated[
        str,
        typer.Option(
            help="Run folder of `genaccel train codec`, model folder, or model of the zoo; with an "
            "entropy model in it, that is trained further."
        ),
    ],
    out: Out,
    preset: Annotated[
        str, typer.Option(help="Size of a new entropy model: small or paper.")
    ] = "small",
    steps: Steps = 50_000,
    batch_size: BatchSize = 16,
    crop_size: CropSize = 128,
    min_scale: MinScale = 0.5,
    color_permutation: ColorPermutation = 0.25,
    temperature: Annotated[
        float, typer.Option(min=0.0, help="Of the relaxed targets; 0 trains on hard indices.")
    ] = 0.01,
    quantization_aware: QuantizationAware = False,
    learning_rate: LearningRate = 1e-3,
    warmup_steps: WarmupSteps = 200,
    mixed_precision: Precision = "no",
    checkpoint_minutes: Minutes = 5.0,
    seed: Seed = 0,
    cpu: Cpu = False,
) -> None:
    """Train an entropy model for a codec, which stays as it is; the same command resumes."""
    try:
        import torch

        from genaccel.codec.training.joint import EntropyTraining
        from genaccel.codec.training.rate_distortion_model import entropy_params
        from genaccel.codec.training.stage_config import CropConfig, EntropyTrainingConfig
        from genaccel.codec.training.trained_networks import load_networks
        from genaccel.models.masked_entropy_model import MaskedEntropyModel
        from genaccel.training.loop import LoopConfig
    except ModuleNotFoundError as error:
        raise missing_extra(error) from error
    try:
        autoencoder, entropy_model = load_networks(start)
        if entropy_model is None:
            torch.manual_seed(seed)
            entropy_model = MaskedEntropyModel(entropy_params(preset, autoencoder.params))
        training = EntropyTraining(
            autoencoder,
            entropy_model,
            EntropyTrainingConfig(
                crops=CropConfig(
                    crop_size=crop_size, min_scale=min_scale, color_permutation=color_permutation
                ),
                temperature=temperature or None,
                quantization_aware=quantization_aware,
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
            cpu=cpu,
        )
        run_training(training)
    except (ValueError, OSError) as error:
        raise typer.BadParameter(str(error)) from error
    if training.accelerator.is_main_process:
        _export_at_the_end(out, data)


def joint(
    data: Data,
    start: Annotated[
        str, typer.Option(help="Run folder of `genaccel train entropy` or `joint`, or its model.")
    ],
    out: Out,
    rate_weight: Annotated[
        float, typer.Option(help="Lambda: what a bit per pixel costs beside the distortion.")
    ] = 1.0,
    temperature: Annotated[
        float | None,
        typer.Option(
            help="Of the relaxed rate, above 0; by default 0.1 for high rate weights, else 0.01."
        ),
    ] = None,
    relaxed: Annotated[
        bool,
        typer.Option(
            "--relaxed/--hard-targets",
            help="Without relaxation, the rate reaches the encoder through the context only.",
        ),
    ] = True,
    adversarial_weight: Annotated[
        float, typer.Option(help="Weight of a discriminator; 0 for none, the paper's is 0.1.")
    ] = 0.0,
    adversarial_start_step: Annotated[
        int, typer.Option(help="Steps before the discriminator joins.")
    ] = 25_000,
    quantization_aware: QuantizationAware = False,
    steps: Steps = 50_000,
    batch_size: BatchSize = 8,
    crop_size: CropSize = 128,
    min_scale: MinScale = 0.5,
    color_permutation: ColorPermutation = 0.25,
    learning_rate: LearningRate = 1e-4,
    warmup_steps: WarmupSteps = 200,
    mse_weight: MseWeight = 1.0,
    grid_weight: GridWeight = 100.0,
    perceptual_weight: PerceptualWeight = 1.0,
    perceptual_net: PerceptualNet = "alex",
    perceptual_fraction: PerceptualFraction = 0.5,
    mixed_precision: Precision = "no",
    checkpoint_minutes: Minutes = 5.0,
    seed: Seed = 0,
    cpu: Cpu = False,
) -> None:
    """Train codec and entropy model together for rate and distortion; the same command resumes."""
    try:
        from genaccel.codec.training.joint import JointTraining
        from genaccel.codec.training.stage_config import CropConfig, JointTrainingConfig
        from genaccel.codec.training.trained_networks import load_networks
        from genaccel.training.distortion import DistortionWeights
        from genaccel.training.loop import LoopConfig
    except ModuleNotFoundError as error:
        raise missing_extra(error) from error
    try:
        autoencoder, entropy_model = load_networks(start)
        if entropy_model is None:
            raise ValueError(f"{start} has no entropy model: run `genaccel train entropy` first")
        training = JointTraining(
            autoencoder,
            entropy_model,
            JointTrainingConfig(
                crops=CropConfig(
                    crop_size=crop_size, min_scale=min_scale, color_permutation=color_permutation
                ),
                rate_weight=rate_weight,
                temperature=temperature,
                relaxed=relaxed,
                distortion=DistortionWeights(
                    mse=mse_weight,
                    grid=grid_weight,
                    perceptual=perceptual_weight,
                    perceptual_net=perceptual_net,
                    perceptual_fraction=perceptual_fraction,
                ),
                adversarial_weight=adversarial_weight,
                adversarial_start_step=adversarial_start_step,
                quantization_aware=quantization_aware,
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
            cpu=cpu,
        )
        run_training(training)
    except (ValueError, OSError) as error:
        raise typer.BadParameter(str(error)) from error
    if training.accelerator.is_main_process:
        _export_at_the_end(out, data)


def export(
    run: Annotated[
        Path, typer.Argument(help="Run folder of `genaccel train codec`, `entropy` or `joint`.")
    ],
    out: Annotated[Path, typer.Argument(help="Folder to write the model to.")],
    data: Annotated[Path, typer.Option(help="Folder of images to measure index tables on.")],
    max_images: Annotated[int, typer.Option(help="Images to measure on.")] = 1000,
    entropy_precision: Annotated[
        Literal["fp16", "fp32"], typer.Option(help="Of the entropy model's stored weights.")
    ] = "fp32",
) -> None:
    """Write the model of a run's last checkpoint; the run may still be going on."""
    try:
        import torch

        from genaccel.codec.training.export import export_model
    except ModuleNotFoundError as error:
        raise missing_extra(error) from error

    try:
        report = export_model(
            run,
            out,
            data=data,
            max_images=max_images,
            entropy_dtype={"fp16": torch.float16, "fp32": torch.float32}[entropy_precision],
        )
    except (ValueError, OSError) as error:
        raise typer.BadParameter(str(error)) from error
    typer.echo(
        f"{_rates(report)} on {data}; "
        f"code words used per scale, coarse to fine: {report.codes_used}"
    )


def _export_at_the_end(run: Path, data: Path) -> None:
    from genaccel.codec.training.export import export_model

    typer.echo(_rates(export_model(run, run / "model", data=data)))


def _rates(report: ExportReport) -> str:
    text = f"{report.folder}: {report.bits_per_pixel:.3f} bits per pixel"
    if report.predicted_bits_per_pixel is not None:
        text += f" by static tables, {report.predicted_bits_per_pixel:.3f} by the entropy model"
    return text
