# SPDX-License-Identifier: Apache-2.0
"""Weights and pictures that the tests of set metrics share."""

import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from genaccel.models.fid_inception import FidInception


@pytest.fixture(scope="session")
def inception_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file in the layout of the published weights, with random values of a sane scale."""
    generator = torch.Generator().manual_seed(0)
    state: dict[str, torch.Tensor] = {}
    for name, module in FidInception().named_modules():
        if isinstance(module, torch.nn.Conv2d):
            fan_in = module.weight[0].numel()
            kernel = torch.randn(module.weight.shape, generator=generator) * (2 / fan_in) ** 0.5
            state[f"{name}.conv.weight"] = kernel
            channels = len(module.weight)
            state[f"{name}.bn.weight"] = 0.8 + 0.4 * torch.rand(channels, generator=generator)
            state[f"{name}.bn.bias"] = 0.2 * torch.rand(channels, generator=generator) - 0.1
            state[f"{name}.bn.running_mean"] = 0.1 * torch.randn(channels, generator=generator)
            state[f"{name}.bn.running_var"] = 0.8 + 0.4 * torch.rand(channels, generator=generator)
            state[f"{name}.bn.num_batches_tracked"] = torch.tensor(1)
    state["fc.weight"], state["fc.bias"] = torch.zeros(1008, 2048), torch.zeros(1008)
    path = tmp_path_factory.mktemp("weights") / "inception.pth"
    torch.save(state, path)
    return path


@pytest.fixture(scope="session")
def picture_folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Makes a folder of smooth random pictures."""

    def make(
        name: str, count: int, *, seed: int, size: tuple[int, int] = (80, 64), contrast: float = 1.0
    ) -> Path:
        folder = tmp_path_factory.mktemp(name)
        random = np.random.default_rng(seed)
        for i in range(count):
            coarse = 127.5 + contrast * (random.integers(0, 256, (5, 6, 3)) - 127.5)
            picture = Image.fromarray(coarse.round().astype(np.uint8)).resize(
                size, Image.Resampling.BICUBIC
            )
            picture.save(folder / f"{i:03}.png")
        return folder

    return make


@pytest.fixture
def quiet_torchvision() -> object:
    """torchvision's model builders warn about their own arguments."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="torchvision")
        yield
