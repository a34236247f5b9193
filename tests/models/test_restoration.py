# SPDX-License-Identifier: Apache-2.0
import json

import numpy as np
import pytest
import torch
from PIL import Image

from genaccel.models.restoration import (
    SCALES,
    Restoration,
    RestorationConfig,
    base_sides,
    lanczos_enlarged,
)

SMALL = RestorationConfig(channels=8, num_blocks=2, num_inner_blocks=1, condition_channels=4)
SIZES = [(32, 48), (31, 47), (1, 1), (5, 66)]


def trained_model():
    """A model whose last layers do something."""
    torch.manual_seed(0)
    model = Restoration(SMALL).eval()
    with torch.no_grad():
        for tail in model.tails.values():
            tail.weight.normal_(std=0.05)
    return model


@pytest.mark.parametrize("size", SIZES)
def test_untrained_it_is_the_base_bit_for_bit(size):
    base = torch.rand(2, 3, *size)
    model = Restoration(SMALL).eval()
    assert torch.equal(model(base, torch.tensor([0.0, 100.0]), scale=1), base)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("scale", [2, 4])
def test_untrained_it_is_pillows_enlargement(size, scale):
    height, width = base_sides(*size, scale)
    base = torch.rand(1, 3, height, width)
    picture = Restoration(SMALL).eval()(base, torch.tensor([30.0]), scale=scale, size=size)
    assert picture.shape == (1, 3, *size)
    for plane, found in zip(base[0].numpy(), picture[0].detach().numpy(), strict=True):
        large = Image.fromarray(plane).resize(
            (scale * width, scale * height), Image.Resampling.LANCZOS
        )
        np.testing.assert_allclose(found, np.array(large)[: size[0], : size[1]], atol=2e-6)


@pytest.mark.parametrize("scale", SCALES)
def test_a_picture_does_not_depend_on_its_batch_nor_on_other_parts(scale):
    model = trained_model()
    bases = torch.rand(3, 3, 16 // scale, 32 // scale)
    qualities = torch.tensor([5.0, 50.0, 95.0])
    with torch.inference_mode():
        together = model(bases, qualities, scale=scale)
        assert torch.equal(together, model(bases, qualities, scale=scale))
        other = (torch.rand(1, 3, 4, 8), torch.tensor([1.0]), 4)
        mixed, _ = model.restore([(bases, qualities, scale), other])
        torch.testing.assert_close(mixed, together)
        for base, quality, expected in zip(bases, qualities, together, strict=True):
            alone = model(base[None], quality[None], scale=scale)[0]
            torch.testing.assert_close(alone, expected)


def test_quality_and_scale_matter():
    model = trained_model()
    base = torch.rand(1, 3, 8, 8)
    changes = [
        model(base, torch.tensor([quality]), scale=scale) - lanczos_enlarged(base, scale)
        for scale in SCALES
        for quality in (0.0, 80.0)
    ]
    for index, change in enumerate(changes):
        for other in changes[:index]:
            assert change.shape != other.shape or not torch.allclose(change, other, atol=1e-5)


def test_the_default_has_two_million_parameters_at_most():
    parameters = Restoration(RestorationConfig()).parameters()
    assert sum(parameter.numel() for parameter in parameters) == 1_663_856


def test_bfloat16_is_close_to_fp32():
    model = trained_model()
    base, quality = torch.rand(1, 3, 32, 32), torch.tensor([20.0])
    with torch.inference_mode():
        expected = model(base, quality, scale=1)
        with torch.autocast("cpu", torch.bfloat16):
            found = model(base, quality, scale=1)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, expected, atol=4e-3, rtol=0)


def test_a_saved_model_is_the_same(tmp_path):
    model = trained_model()
    model.save_pretrained(tmp_path / "model", dtype=torch.float32)
    loaded = Restoration.from_pretrained(tmp_path / "model")
    assert loaded.config == SMALL
    assert not loaded.training
    base, quality = torch.rand(1, 3, 17, 9), torch.tensor([40.0])
    torch.testing.assert_close(
        loaded(base, quality, scale=2), model(base, quality, scale=2), atol=1e-6, rtol=0
    )
    config = json.loads((tmp_path / "model/config.json").read_text())
    assert (config["type"], config["version"]) == ("restoration", 1)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"type": "autoencoder"}, "type 'autoencoder', not 'restoration'"),
        ({"version": 2}, "version 2 of restoration"),
        ({"colour": 3}, "unknown keys in the configuration: colour"),
        ({"channels": 12}, "multiple of 8"),
        ({"num_blocks": 3}, "num_blocks must be even and within 2 to 64"),
        ({"num_inner_blocks": 0}, "num_inner_blocks must be within 1 to 64"),
        ({"num_blocks": 4}, "do not fit"),
    ],
)
def test_a_configuration_that_does_not_fit_is_refused(tmp_path, change, message):
    Restoration(SMALL).save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(ValueError, match=message):
        Restoration.from_pretrained(tmp_path)


def test_wrong_inputs_are_refused():
    model = Restoration(SMALL)
    base, quality = torch.zeros(1, 3, 8, 8), torch.zeros(1)
    with pytest.raises(ValueError, match=r"scale must be one of \(1, 2, 4\), got 3"):
        model(base, quality, scale=3)
    with pytest.raises(ValueError, match=r"base must be \[B, 3, h, w\], got \[1, 1, 8, 8\]"):
        model(base[:, :1], quality, scale=1)
    with pytest.raises(ValueError, match=r"base must be .* got \[1, 3, 0, 8\]"):
        model(base[:, :, :0], quality, scale=1)
    with pytest.raises(ValueError, match=r"quality must be \[1\]"):
        model(base, torch.zeros(2), scale=1)
    for wrong in (-1.0, 101.0, float("nan")):
        with pytest.raises(ValueError, match="quality must be within 0 to 100"):
            model(base, torch.tensor([wrong]), scale=1)
    with pytest.raises(ValueError, match=r"a picture of 17x16 has a base of \(9, 8\) at scale 2"):
        model(base, quality, scale=2, size=(17, 16))
