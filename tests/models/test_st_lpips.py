# SPDX-License-Identifier: Apache-2.0
import io
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image, ImageFilter
from torch import Tensor

from genaccel.eval.held_out import held_out_photographs
from genaccel.models.st_lpips import StLpips, StLpipsNet

NETS: tuple[StLpipsNet, ...] = ("alex", "vgg")


@pytest.fixture(scope="module")
def chelsea() -> Image.Image:
    return Image.fromarray(held_out_photographs()["chelsea"][20:276, 100:356])


@pytest.fixture(scope="module", params=NETS)
def metric(request: pytest.FixtureRequest) -> StLpips:
    try:
        return StLpips.from_pretrained(request.param)
    except FileNotFoundError as error:
        pytest.skip(str(error))


def _tensor(image: Image.Image | NDArray[np.uint8]) -> Tensor:
    return torch.tensor(np.array(image)).permute(2, 0, 1)[None].float() / 127.5 - 1  # [1, 3, H, W]


def _jpeg(image: Image.Image, quality: int) -> Image.Image:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return Image.open(buffer)


# From the network and weights as published, on the same pixels.
PUBLISHED = {
    "alex": {
        "jpeg 75": 0.0154,
        "jpeg 50": 0.0247,
        "jpeg 10": 0.2063,
        "blur 2": 0.4699,
        "shift": 0.0040,
    },
    "vgg": {
        "jpeg 75": 0.0423,
        "jpeg 50": 0.1002,
        "jpeg 10": 0.3239,
        "blur 2": 0.6232,
        "shift": 0.0088,
    },
}


@torch.inference_mode()
def test_distances_are_those_of_the_published_metric(metric: StLpips, chelsea: Image.Image) -> None:
    original = _tensor(chelsea)
    expected = PUBLISHED[metric.net]
    for distortion in ("jpeg 75", "jpeg 50", "jpeg 10", "blur 2"):
        kind, amount = distortion.split()
        if kind == "jpeg":
            distorted = _jpeg(chelsea, int(amount))
        else:
            distorted = chelsea.filter(ImageFilter.GaussianBlur(int(amount)))
        distance = metric(original, _tensor(distorted)).item()
        assert distance == pytest.approx(expected[distortion], abs=6e-4), distortion
    assert metric(original, original.roll(1, 3)).item() == pytest.approx(
        expected["shift"], abs=1e-4
    )
    assert metric(original, original).item() == 0.0


def test_as_a_loss_only_the_images_get_gradients(metric: StLpips) -> None:
    torch.manual_seed(0)
    target = torch.rand(2, 3, 32, 32) * 2 - 1
    images = (target + 0.2 * torch.randn_like(target)).requires_grad_()
    metric(images, target).sum().backward()
    assert images.grad is not None
    assert images.grad.abs().amax((1, 2, 3)).min() > 0
    assert all(parameter.grad is None for parameter in metric.parameters())
    assert not metric.training


def test_gradients_stay_finite_where_features_vanish() -> None:
    metric = StLpips("alex")
    with torch.no_grad():
        for parameter in metric.trunk.parameters():
            parameter.zero_()
    images = torch.zeros(1, 3, 32, 32, requires_grad=True)
    metric(images, torch.ones(1, 3, 32, 32)).sum().backward()
    assert images.grad is not None
    assert images.grad.isfinite().all()


@pytest.mark.parametrize("net", NETS)
def test_features_are_of_unit_length_and_can_be_reused(net: StLpipsNet) -> None:
    torch.manual_seed(0)
    metric = StLpips(net).requires_grad_(False)
    original, others = torch.rand(1, 3, 33, 41), torch.rand(3, 3, 33, 41)
    features = metric.features(original)
    lengths = [h.norm(dim=1) for h in features]
    for length in lengths:
        torch.testing.assert_close(length, (length > 0).float(), rtol=0, atol=1e-5)
    together = metric.distance(features, metric.features(others))
    one_by_one = torch.cat([metric(original, other[None]) for other in others])
    torch.testing.assert_close(together, one_by_one, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(("net", "smallest"), [("alex", 21), ("vgg", 18)])
def test_the_smallest_image(net: StLpipsNet, smallest: int) -> None:
    metric = StLpips(net)
    images = torch.rand(1, 3, smallest, smallest)
    assert metric(images, images.flip(3)).isfinite().all()
    with pytest.raises(ValueError, match=f"at least {smallest}x{smallest} pixels"):
        metric(images[..., 1:], images[..., 1:])


def test_bad_arguments_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match='net must be "alex" or "vgg"'):
        StLpips("squeeze")  # type: ignore[arg-type]
    metric = StLpips("alex")
    with pytest.raises(ValueError, match="same shape"):
        metric(torch.zeros(1, 3, 32, 32), torch.zeros(1, 3, 32, 33))
    with pytest.raises(ValueError, match=r"\[B, 3, H, W\]"):
        metric(torch.zeros(1, 1, 32, 32), torch.zeros(1, 1, 32, 32))
    (tmp_path / "other.pth").write_bytes(b"something else")
    with pytest.raises(ValueError, match="not the published weight file"):
        StLpips.from_pretrained("alex", tmp_path / "other.pth")
