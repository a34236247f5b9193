# SPDX-License-Identifier: Apache-2.0
"""Codecs small enough to be made in each test: 16 channels, 32 code words, two scales."""

import numpy as np
import torch
from PIL import Image

from genaccel.models.autoencoder import Autoencoder, AutoencoderParams
from genaccel.models.efficient_backbone import EfficientParams
from genaccel.models.masked_entropy_model import MaskedEntropyParams
from genaccel.models.vqgan_backbone import VqganParams

TINY_EFFICIENT = AutoencoderParams(
    codebook_size=32,
    codebook_dim=4,
    backbone=EfficientParams(
        widths=(16, 16),
        encoder_blocks=(1, 1),
        decoder_widths=(16, 16),
        decoder_blocks=(1, 1),
        tail_widths=(8, 8, 4),
    ),
)
# For it; windows of 32x32 pixels.
TINY_ENTROPY = MaskedEntropyParams(
    codebook_size=32,
    codebook_dim=4,
    num_scales=2,
    window_side=2,
    width=16,
    layers=1,
    heads=2,
    feed_forward_width=24,
    first_slice_without_position=False,
)
TINY_VQGAN = AutoencoderParams(
    codebook_size=32,
    codebook_dim=4,
    backbone=VqganParams(
        base_channels=8,
        channel_multipliers=(1, 2, 2),
        num_scales=2,
        latent_channels=8,
        norm_groups=4,
    ),
)


def save_tiny_codec(folder):
    """A codec as training begins with it, saved; gives the folder."""
    torch.manual_seed(0)
    Autoencoder(TINY_EFFICIENT).save_pretrained(folder)
    return folder


def save_photographs(folder, count=3):
    """A folder with smooth colour pictures of 96x80 pixels; gives the folder."""
    folder.mkdir()
    generator = np.random.default_rng(0)
    for i in range(count):
        coarse = generator.integers(0, 256, (8, 8, 3), dtype=np.uint8)
        Image.fromarray(coarse).resize((96, 80), Image.Resampling.BICUBIC).save(folder / f"{i}.png")
    return folder
