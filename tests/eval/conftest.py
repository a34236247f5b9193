# SPDX-License-Identifier: Apache-2.0
"""Weights and pictures that the tests of metrics share."""

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
def random_features() -> Callable[[str], torch.nn.Module]:
    """Makes the convolutions of a classifier of torchvision, with noise that neither dies out nor grows."""

    def make(classifier: str) -> torch.nn.Module:
        models = pytest.importorskip("torchvision.models", reason="torchvision is not installed")
        torch.manual_seed(0)
        features: torch.nn.Module
        if classifier == "vgg16":  # without its classifier of half a gigabyte
            features = models.vgg.make_layers(models.vgg.cfgs["D"])
        else:
            features = getattr(models, classifier)(weights=None).features
        for module in features.modules():
            if isinstance(module, torch.nn.Conv2d):
                torch.nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
                assert module.bias is not None
                torch.nn.init.uniform_(module.bias, -0.1, 0.1)
        return features

    return make


@pytest.fixture(scope="session")
def trunk_weights(
    random_features: Callable[[str], torch.nn.Module], tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], Path]:
    """Makes files in torchvision's layout out of them."""
    folder = tmp_path_factory.mktemp("trunks")

    def make(classifier: str) -> Path:
        path = folder / f"{classifier}.pth"
        if not path.exists():
            state = random_features(classifier).state_dict()
            content = {f"features.{name}": value for name, value in state.items()}
            torch.save({**content, "classifier.1.weight": torch.zeros(1)}, path)
        return path

    return make


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
