# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest
import torch
from tiny_codec import TINY_EFFICIENT, TINY_ENTROPY, TINY_VQGAN, save_photographs

from genaccel.codec.image_codec import INTEGER_ENTROPY_FOLDER, ImageCodec
from genaccel.models.autoencoder import Autoencoder
from genaccel.models.integer_export import quantize
from genaccel.models.masked_entropy_model import MaskedEntropyModel


def random_model(params, seed=0):
    """Every weight at random: zero-initialised branches would hide what a tile sees of its neighbours."""
    generator = torch.Generator().manual_seed(seed)
    model = Autoencoder(params).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:  # biases would drown the image
                noise = torch.randn(parameter.shape, generator=generator)
                parameter.copy_((noise * (2 / parameter[0].numel()) ** 0.5).half())
        # Frequent and rare code words, other ones in each scale.
        for scale, cdf in enumerate(model.index_cdfs):
            frequencies = 1 + np.roll(60000 // 2 ** np.arange(1, params.codebook_size + 1), scale)
            frequencies[-1] += 65536 - frequencies.sum()
            cdf[1:] = torch.from_numpy(frequencies.cumsum())
    return model


@pytest.fixture(scope="session")
def local_model():
    """Efficient backbone: its tiles are exact."""
    return random_model(TINY_EFFICIENT)


@pytest.fixture(scope="session")
def global_model():
    """VQGAN backbone: its group norms see the whole image."""
    return random_model(TINY_VQGAN)


@pytest.fixture
def fresh_networks():
    """Makes an autoencoder and an entropy model for it as training begins with them, always the same."""

    def make():
        torch.manual_seed(0)
        return Autoencoder(TINY_EFFICIENT), MaskedEntropyModel(TINY_ENTROPY)

    return make


@pytest.fixture(scope="session")
def codec(local_model):
    return ImageCodec(local_model)


@pytest.fixture(scope="session")
def integer_entropy_model(local_model):
    """For the local model: as if trained, it finds some indices likely and others not."""
    torch.manual_seed(0)
    model = MaskedEntropyModel(TINY_ENTROPY).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    codebook = local_model.quantize.codebook.detach()
    tokens = model.slice_order.num_tokens
    return quantize(model, codebook, torch.randint(TINY_EFFICIENT.codebook_size, (16, tokens)))


@pytest.fixture(scope="session")
def entropy_codec(local_model, integer_entropy_model):
    return ImageCodec(local_model, entropy_model=integer_entropy_model)


@pytest.fixture(scope="session")
def entropy_model_folder(local_model, integer_entropy_model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "local"
    local_model.save_pretrained(folder)
    integer_entropy_model.save_pretrained(folder / INTEGER_ENTROPY_FOLDER)
    return folder


@pytest.fixture(scope="session")
def model_folder(local_model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "local"
    local_model.save_pretrained(folder)
    return folder


@pytest.fixture
def photographs(tmp_path):
    """A folder with three smooth colour pictures."""
    return save_photographs(tmp_path / "photographs")
