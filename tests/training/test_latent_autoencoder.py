# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL
from PIL import Image

from genaccel.training.loop import LoopConfig
from genaccel.training.recipes.latent_autoencoder import (
    LatentAutoencoderConfig,
    LatentAutoencoderTraining,
    load_latent_autoencoder,
)

CONFIG = {"image_size": 16, "channels": (8, 16), "perceptual_weight": 0.0}
LOOP = LoopConfig(steps=3, batch_size=2, warmup_steps=0, learning_rate=1e-2, ema_decay=0.0)


@pytest.fixture
def data(tmp_path):
    folder = tmp_path / "data"
    folder.mkdir()
    random = np.random.default_rng(0)
    for i in range(3):
        pixels = random.integers(0, 256, (40, 48, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{i}.png")
    return folder


@pytest.fixture
def trained(data, tmp_path):
    """Folder of an autoencoder that was trained as a whole."""
    run = tmp_path / "run"
    LatentAutoencoderTraining(
        LatentAutoencoderConfig(**CONFIG), LOOP, data=data, run=run, cpu=True
    ).train()
    load_latent_autoencoder(run, data=data).save_pretrained(run / "vae")
    return run / "vae"


def test_training_the_decoder_leaves_the_latents_as_they_are(data, trained, tmp_path):
    run = tmp_path / "decoder"
    config = LatentAutoencoderConfig(**CONFIG, decoder_only=True)
    LatentAutoencoderTraining(config, LOOP, data=data, run=run, start=trained, cpu=True).train()
    before = AutoencoderKL.from_pretrained(trained)
    after = load_latent_autoencoder(run, data=data)
    assert after.config.scaling_factor == pytest.approx(before.config.scaling_factor)
    pixels = torch.rand(1, 3, 16, 16)
    latents = [model.encode(pixels).latent_dist.mean for model in (before, after)]
    assert torch.equal(*latents)
    assert not torch.equal(before.decode(latents[0]).sample, after.decode(latents[0]).sample)


def test_a_decoder_alone_needs_something_to_start_from(data, tmp_path):
    with pytest.raises(ValueError, match="give the autoencoder to start from"):
        LatentAutoencoderTraining(
            LatentAutoencoderConfig(**CONFIG, decoder_only=True),
            LOOP,
            data=data,
            run=tmp_path / "run",
            cpu=True,
        )
