# SPDX-License-Identifier: Apache-2.0
from pathlib import Path

import pytest
import torch

from genaccel.models.fid_inception import FidInception


@pytest.mark.parametrize("dimensions", [64, 192, 768, 2048])
def test_features_have_the_stages_width(dimensions: int) -> None:
    torch.manual_seed(0)
    network = FidInception(dimensions).eval()
    with torch.inference_mode():
        assert network(torch.rand(2, 3, 299, 299)).shape == (2, dimensions)


def test_other_stages_and_other_weights_are_refused() -> None:
    with pytest.raises(ValueError, match="64, 192, 768 or 2048, got 100"):
        FidInception(100)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="no weights of the Inception-v3"):
        FidInception().load_published({"conv1.weight": torch.zeros(1)})


def test_a_wrong_shape_is_refused(tmp_path: Path) -> None:
    network = FidInception()
    state = {}
    for name, module in network.named_modules():
        if isinstance(module, torch.nn.Conv2d):
            state[f"{name}.conv.weight"] = torch.zeros_like(module.weight)
            for part in ("weight", "bias", "running_mean", "running_var"):
                state[f"{name}.bn.{part}"] = torch.ones(len(module.weight))
    with pytest.raises(ValueError, match="they have no classifier"):
        network.load_published(state)
    state["fc.weight"] = torch.zeros(1000, 2048)
    with pytest.raises(ValueError, match=r"1008 classes .* they have a classifier of 1000 classes"):
        network.load_published(state)
    state["fc.weight"] = torch.zeros(1008, 2048)
    with pytest.raises(ValueError, match="no auxiliary classifier"):
        network.load_published({**state, "AuxLogits.fc.weight": torch.zeros(1008, 768)})
    network.load_published(state)
    state["Mixed_5b.branch1x1.conv.weight"] = torch.zeros(64, 7, 1, 1)
    with pytest.raises(ValueError, match="no weights of the Inception-v3"):
        network.load_published(state)


def test_the_inception_of_torchvision_is_another_one() -> None:
    models = pytest.importorskip("torchvision.models", reason="torchvision is not installed")
    for auxiliary in (True, False):
        with torch.device("meta"):
            other = models.inception_v3(weights=None, init_weights=False, aux_logits=auxiliary)
        with pytest.raises(ValueError, match="1000 classes"):
            FidInception().load_published(other.state_dict())
