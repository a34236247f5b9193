# SPDX-License-Identifier: Apache-2.0
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL, DDIMScheduler, DiTPipeline, DiTTransformer2DModel
from PIL import Image
from tiny_codec import TINY_ENTROPY, save_tiny_codec
from typer.testing import CliRunner

from genaccel.cli import app
from genaccel.codec.image_codec import INTEGER_ENTROPY_FOLDER
from genaccel.models.autoencoder import Autoencoder
from genaccel.models.integer_export import quantize
from genaccel.models.masked_entropy_model import MaskedEntropyModel


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory):
    """A small codec with random weights."""
    return save_tiny_codec(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="session")
def entropy_model_folder(model_folder, tmp_path_factory):
    """The same with an entropy model."""
    torch.manual_seed(0)
    model = MaskedEntropyModel(TINY_ENTROPY).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    folder = tmp_path_factory.mktemp("models") / "tiny"
    shutil.copytree(model_folder, folder)
    codebook = Autoencoder.from_pretrained(folder).quantize.codebook.detach()
    windows = torch.randint(32, (16, model.slice_order.num_tokens))
    quantize(model, codebook, windows).save_pretrained(folder / INTEGER_ENTROPY_FOLDER)
    return folder


@pytest.fixture(scope="session")
def saved_pipeline(tmp_path_factory):
    """A class-conditional pipeline with random weights, of images of 24x24."""
    torch.manual_seed(0)
    transformer = DiTTransformer2DModel(
        sample_size=24,
        num_layers=4,
        num_attention_heads=2,
        attention_head_dim=8,
        in_channels=4,
        out_channels=4,
        num_embeds_ada_norm=1000,
    )
    for parameter in transformer.parameters():
        parameter.data.normal_(0, 0.05)  # gates that begin as zeros would hide the blocks
    vae = AutoencoderKL(
        block_out_channels=(8,), norm_num_groups=4, latent_channels=4, sample_size=24
    )
    folder = tmp_path_factory.mktemp("pipelines") / "tiny"
    DiTPipeline(transformer, vae, DDIMScheduler(clip_sample=False)).save_pretrained(folder)
    return folder


@pytest.fixture
def pipeline_folder(saved_pipeline, monkeypatch, tmp_path):
    """A copy of it for one test, whose plans are kept in the test's folder."""
    monkeypatch.setenv("GENACCEL_CACHE", str(tmp_path / "cache"))
    return Path(shutil.copytree(saved_pipeline, tmp_path / "pipeline"))


@pytest.fixture
def run(monkeypatch, tmp_path):
    """Run the command in an empty folder; gives click's result with exit_code, stdout_bytes, stderr."""
    monkeypatch.chdir(tmp_path)

    def invoke(*arguments, stdin=None):
        return CliRunner().invoke(app, [str(a) for a in arguments], input=stdin)

    return invoke


@pytest.fixture
def photo(tmp_path):
    """Writes a small image file and gives its path."""

    def write(name="photo.png", height=31, width=33, mode="RGB", seed=0):
        channels = {"RGB": 3, "RGBA": 4}[mode]
        pixels = np.random.default_rng(seed).integers(0, 256, (height, width, channels), np.uint8)
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path)
        return path

    return write
