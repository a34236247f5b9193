# SPDX-License-Identifier: Apache-2.0
"""RDVQ's relaxation in an ablation: joint training with soft targets against the same with hard ones.

A small codec is trained here from nothing: autoencoder, then entropy model, then twice autoencoder and entropy model
together, from the same start, with the same steps, crops, dropout and rate weight. With soft targets the rate reaches
the encoder through target and context; with hard ones through the context alone, as in the paper's ablation
"without relaxation" (arXiv 2604.10546: 0.0464 bits per pixel instead of 0.0247, and worse pictures). Unless quick, a third run
with rate weight 0 says what the further steps alone do. Rates are those of the indices, not the soft ones; crops of the
evaluation are not those of the training.
"""

from __future__ import annotations

import logging
import math
import sys
import tempfile
import time
from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parents[1]))
from bench.harness import Bench
from genaccel.codec.training.autoencoder import AutoencoderTraining
from genaccel.codec.training.entropy import EntropyTraining
from genaccel.codec.training.joint import JointTraining
from genaccel.codec.training.rate_distortion_model import RateDistortionModel
from genaccel.codec.training.stage_config import (
    AutoencoderTrainingConfig,
    EntropyTrainingConfig,
    JointTrainingConfig,
)
from genaccel.eval.held_out import held_out_photographs
from genaccel.models.autoencoder import Autoencoder, AutoencoderParams
from genaccel.models.efficient_backbone import EfficientParams
from genaccel.models.masked_entropy_model import MaskedEntropyModel, MaskedEntropyParams
from genaccel.training.crops import CropConfig
from genaccel.training.distortion import Distortion, DistortionWeights
from genaccel.training.loop import LoopConfig, TrainingLoop

CODEC = AutoencoderParams(
    codebook_size=128,
    codebook_dim=8,
    backbone=EfficientParams(
        widths=(48, 32),
        encoder_blocks=(1, 1),
        decoder_widths=(48, 32),
        decoder_blocks=(1, 1),
        tail_widths=(16, 12, 8),
    ),
)
ENTROPY = MaskedEntropyParams(
    codebook_size=128,
    codebook_dim=8,
    num_scales=2,
    width=48,
    layers=2,
    heads=2,
    feed_forward_width=128,
    first_slice_without_position=False,
)
CROPS = CropConfig(crop_size=64, min_scale=0.25, color_permutation=0.0)  # a window is 64x64 pixels
# Without ST-LPIPS, which would take most of the time.
DISTORTION = DistortionWeights(perceptual_net="none", grid=0.0)
STEPS = {"autoencoder": 1500, "entropy": 1000, "joint": 1000}
QUICK_SHARE = 7
RATE_WEIGHT = 0.5
BATCH_SIZE = 4
EVALUATION_CROPS = 64


@torch.no_grad()
def measure(model: RateDistortionModel, images: Tensor) -> dict[str, float]:
    """Hard rate and distortion of images ``[B, 3, S, S]``."""
    model = deepcopy(model).eval()
    output, rate = model(images, temperature=None)
    assert output is not None
    error = (output.reconstruction.clamp(-1, 1) - images).square().mean()
    loss, _ = Distortion(DISTORTION, period=8, device="cpu")(output, images)
    bits_per_pixel = float(rate.hard_bits) / (images.numel() / 3)
    return {
        "bits_per_pixel": bits_per_pixel,
        "bits_per_token": float(rate.hard_bits) / rate.tokens,
        "psnr_db": 10 * math.log10(4 / float(error)),
        "distortion": float(loss),
        "distortion_plus_rate": float(loss) + RATE_WEIGHT * bits_per_pixel,
    }


def main() -> None:
    """Run the benchmark."""
    bench = Bench.from_command_line(
        "rdvq_relaxation",
        "Joint training with relaxed targets against hard targets.",
        {"data": (Path, None, None, "folder of images; the bundled photographs of scikit-image")},
    )
    torch.set_num_threads(1)  # tensors are small: threads would only wait for each other
    logging.getLogger("genaccel").setLevel(logging.ERROR)  # of pictures that are left out
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch)
        data = bench.options["data"]
        if data is None:
            data = root / "photographs"
            data.mkdir()
            for name, pixels in held_out_photographs().items():
                Image.fromarray(pixels).save(data / f"{name}.png", compress_level=1)
        compare(bench, data, root)
    bench.finish(["genaccel", "torch", "accelerate"])


def compare(bench: Bench, data: Path, root: Path) -> None:
    """Train all stages, and add rows and bars."""
    share = QUICK_SHARE if bench.quick else 1

    def loop(stage: str, learning_rate: float) -> LoopConfig:
        return LoopConfig(
            steps=STEPS[stage] // share,
            batch_size=BATCH_SIZE,
            learning_rate=learning_rate,
            warmup_steps=10,
            checkpoint_minutes=60,
        )

    evaluation = CROPS.dataset(data, seed=1)
    images = torch.stack([evaluation[n] for n in range(EVALUATION_CROPS)])

    def row(name: str, training: Callable[[], TrainingLoop]) -> RateDistortionModel:
        start = time.perf_counter()
        run = training()
        run.train()
        model = run.plain_model()
        seconds = time.perf_counter() - start
        bench.rows.append({"run": name, **measure(model, images), "seconds": seconds})
        return model

    torch.manual_seed(0)
    first = AutoencoderTraining(
        Autoencoder(CODEC),
        AutoencoderTrainingConfig(crops=CROPS, distortion=DISTORTION, restart_every=10),
        loop("autoencoder", 4e-3),
        data=data,
        run=root / "autoencoder",
        cpu=True,
    )
    first.train()
    torch.manual_seed(0)
    started = row(
        "start: entropy model alone",
        lambda: EntropyTraining(
            first.plain_model(),
            MaskedEntropyModel(ENTROPY),
            EntropyTrainingConfig(crops=CROPS),
            loop("entropy", 4e-3),
            data=data,
            run=root / "entropy",
            cpu=True,
        ),
    )

    def joint(name: str, config: JointTrainingConfig) -> dict[str, float]:
        networks = deepcopy(started)
        row(
            name,
            lambda: JointTraining(
                networks.autoencoder.requires_grad_(True),
                networks.entropy_model,
                config,
                loop("joint", 1e-3),
                data=data,
                run=root / name,
                cpu=True,
            ),
        )
        return {k: v for k, v in bench.rows[-1].items() if isinstance(v, float)}

    config = JointTrainingConfig(crops=CROPS, distortion=DISTORTION, rate_weight=RATE_WEIGHT)
    if not bench.quick:
        joint("joint, rate weight 0", replace(config, rate_weight=0.0))
    hard = joint("joint, hard", replace(config, relaxed=False))
    soft = joint("joint, relaxed", config)
    bench.bar(
        "rdvq_relaxed_vs_hard_rate",
        soft["bits_per_pixel"] / hard["bits_per_pixel"],
        0.9,
        higher_is_better=False,
    )
    bench.bar("rdvq_relaxed_minus_hard_psnr_db", soft["psnr_db"] - hard["psnr_db"], -0.5)
    bench.bar(
        "rdvq_relaxed_vs_hard_loss",
        soft["distortion_plus_rate"] / hard["distortion_plus_rate"],
        1.0,
        higher_is_better=False,
    )


if __name__ == "__main__":
    main()
