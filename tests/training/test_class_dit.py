# SPDX-License-Identifier: Apache-2.0
"""Both stages at tiny size: autoencoder, transformer, and the pipeline that diffusers loads."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import DiTPipeline
from PIL import Image

from genaccel.models.registry import check_model_folder
from genaccel.training.loop import LoopConfig, NonFiniteLossError
from genaccel.training.recipes.class_dit import (
    NO_CLASS,
    ClassDitConfig,
    ClassDitTraining,
    export_pipeline,
)
from genaccel.training.recipes.latent_autoencoder import (
    LatentAutoencoderConfig,
    LatentAutoencoderTraining,
    load_latent_autoencoder,
)

LOOP = LoopConfig(steps=6, batch_size=2, learning_rate=1e-3, warmup_steps=2, log_every=2)
VAE = LatentAutoencoderConfig(image_size=32, channels=(8, 16), perceptual_weight=0, min_scale=0.5)
DIT = ClassDitConfig(
    num_layers=1, num_heads=2, head_dim=8, num_latents=6, min_class_images=1, class_dropout=0.3
)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    random = np.random.default_rng(0)
    for i, name in enumerate(("beach0", "beach1", "sky0", "sky1")):
        coarse = random.integers(0, 256, (4, 6, 3), dtype=np.uint8) // (1 + i)
        Image.fromarray(coarse).resize((80, 48)).save(folder / f"{name}.png")
    return folder


@pytest.fixture(scope="module")
def vae_folder(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("vae")
    LatentAutoencoderTraining(VAE, LOOP, data=data, run=root / "run", cpu=True).train()
    load_latent_autoencoder(root / "run", data=data).save_pretrained(root / "vae")
    return root / "vae"


def test_latents_have_unit_deviation(vae_folder: Path, data: Path, tmp_path: Path) -> None:
    training = ClassDitTraining(
        DIT, LOOP, vae=vae_folder, data=data, run=tmp_path / "run", cpu=True
    )
    assert training.class_names == ["beach", "sky"]
    assert training.latents.shape == (6, 4, 16, 16)
    assert 0.5 < float(training.latents.std()) < 2
    assert set(training.labels.tolist()) <= {0, 1}
    # Every sample once before any comes twice.
    rows, _ = training.batch(range(6, 12))
    assert len({tuple(row.flatten().tolist()) for row in rows}) == 6


def test_a_resumed_run_equals_an_uninterrupted_one(
    vae_folder: Path, data: Path, tmp_path: Path
) -> None:
    def train(run: Path, *, until: int | None = None) -> ClassDitTraining:
        training = ClassDitTraining(DIT, LOOP, vae=vae_folder, data=data, run=run, cpu=True)
        if until is None:
            training.train()
        else:
            for _ in range(until):
                training._update()
            training.save()
        return training

    whole = train(tmp_path / "whole")
    train(tmp_path / "parts", until=3)
    resumed = train(tmp_path / "parts")
    assert resumed.step == whole.step == 6
    for a, b in zip(
        whole.plain_model().parameters(), resumed.plain_model().parameters(), strict=True
    ):
        torch.testing.assert_close(a, b, rtol=0, atol=0)
    with pytest.raises(ValueError, match=r"other options \(.*num_layers"):
        ClassDitTraining(
            replace(DIT, num_layers=2),
            LOOP,
            vae=vae_folder,
            data=data,
            run=tmp_path / "parts",
            cpu=True,
        )


def test_a_run_keeps_the_classes_that_it_began_with(
    vae_folder: Path, data: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    ClassDitTraining(DIT, LOOP, vae=vae_folder, data=data, run=run, cpu=True).save()
    options = json.loads((run / "training.json").read_text())
    former = ["beach", "photographer", "sky"]
    (run / "training.json").write_text(json.dumps({**options, "classes": former}))
    resumed = ClassDitTraining(DIT, LOOP, vae=vae_folder, data=data, run=run, cpu=True)
    assert resumed.class_names == former


def test_diffusers_runs_the_exported_pipeline(vae_folder: Path, data: Path, tmp_path: Path) -> None:
    loop = replace(LOOP, steps=60, batch_size=6, learning_rate=5e-3, ema_decay=0.9)
    training = ClassDitTraining(
        replace(DIT, class_dropout=0.0),
        loop,
        vae=vae_folder,
        data=data,
        run=tmp_path / "r",
        cpu=True,
    )

    @torch.no_grad()
    def loss() -> float:
        generator = torch.Generator().manual_seed(0)
        return float(training.loss(training.batch(range(6)), generator)[0])

    before = loss()
    training.train()
    assert loss() < 0.9 * before
    export_pipeline(tmp_path / "r", tmp_path / "pipeline", vae=vae_folder)
    check_model_folder(tmp_path / "pipeline", "pipeline")
    assert (tmp_path / "pipeline" / "genaccel.json").is_file()
    pipeline = DiTPipeline.from_pretrained(tmp_path / "pipeline")
    assert (
        pipeline.dtype == torch.float32
    )  # what diffusers makes of fp16 files unless told otherwise
    pipeline.set_progress_bar_config(disable=True)
    assert pipeline.get_label_ids(["sky"]) == [1]
    assert pipeline.transformer.config.num_embeds_ada_norm == NO_CLASS
    images = pipeline(
        class_labels=[0, 1],
        num_inference_steps=2,
        generator=torch.Generator().manual_seed(0),
        output_type="np",
    ).images
    assert images.shape == (2, 32, 32, 3)
    assert np.isfinite(images).all()


def test_a_loss_that_is_not_finite_stops_the_run(
    vae_folder: Path, data: Path, tmp_path: Path
) -> None:
    training = ClassDitTraining(DIT, LOOP, vae=vae_folder, data=data, run=tmp_path / "r", cpu=True)
    training.latents[:] = float("nan")
    with pytest.raises(NonFiniteLossError, match="at step 0"):
        training.train()


def test_bad_options_are_refused() -> None:
    with pytest.raises(ValueError, match="image_size must be a multiple of 2"):
        replace(VAE, image_size=33)
    with pytest.raises(ValueError, match="class_dropout"):
        replace(DIT, class_dropout=1.0)
    with pytest.raises(ValueError, match="mixed_precision"):
        replace(LOOP, mixed_precision="fp8")


def test_images_may_be_larger_than_the_crops_of_the_autoencoder(
    vae_folder: Path, data: Path, tmp_path: Path
) -> None:
    def training(size: int) -> ClassDitTraining:
        run = tmp_path / str(size)
        return ClassDitTraining(
            DIT, LOOP, vae=vae_folder, data=data, run=run, image_size=size, cpu=True
        )

    assert training(48).latents.shape == (6, 4, 24, 24)
    with pytest.raises(ValueError, match="image_size must be a multiple of 4, got 46"):
        training(46)
