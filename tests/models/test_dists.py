# SPDX-License-Identifier: Apache-2.0
import hashlib
import importlib.metadata
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from genaccel.eval.held_out import held_out_photographs
from genaccel.models import dists
from genaccel.models.dists import Dists

# Positions of the convolutions in torchvision's VGG-16, and their channels.
POSITIONS = (0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28)
CHANNELS = (3, 64, 64, 128, 128, 256, 256, 256, 512, 512, 512, 512, 512, 512)


def _random_trunk() -> dict[str, Tensor]:
    """VGG-16 in torchvision's layout, with noise that neither dies out nor grows."""
    generator = torch.Generator().manual_seed(0)
    state: dict[str, Tensor] = {}
    for i, (fan_in, width) in enumerate(pairwise(CHANNELS)):
        kernel = torch.randn(width, fan_in, 3, 3, generator=generator) * (2 / (9 * fan_in)) ** 0.5
        state[f"features.{POSITIONS[i]}.weight"] = kernel
        state[f"features.{POSITIONS[i]}.bias"] = 0.2 * torch.rand(width, generator=generator) - 0.1
    return state


@pytest.fixture(scope="module")
def trunk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("trunk") / "vgg16.pth"
    torch.save({**_random_trunk(), "classifier.0.weight": torch.zeros(1)}, path)
    return path


@pytest.fixture(scope="module")
def metric(trunk: Path) -> Dists:
    """The published channel weights on a random trunk."""
    try:
        return Dists.from_pretrained(trunk)
    except FileNotFoundError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def photographs() -> Tensor:
    """Two crops, ``[2, 3, 48, 64]`` in [0, 1]."""
    crops = [held_out_photographs()[name][100:148, 140:204] for name in ("chelsea", "coffee")]
    return torch.stack([torch.tensor(crop).permute(2, 0, 1) for crop in crops]).float() / 255


def _blurred(images: Tensor, width: int) -> Tensor:
    return F.avg_pool2d(F.pad(images, [width // 2] * 4, mode="reflect"), width, stride=1)


def _published_metric(monkeypatch: pytest.MonkeyPatch) -> nn.Module:
    """DISTS of the package itself, except for the download of its trunk."""
    package = pytest.importorskip("DISTS_pytorch", reason="DISTS-pytorch is not installed")
    vgg = pytest.importorskip("torchvision.models.vgg")
    features = vgg.make_layers(vgg.cfgs["D"])
    features.load_state_dict(
        {k.removeprefix("features."): v for k, v in _random_trunk().items()}, strict=True
    )
    monkeypatch.setattr(
        "torchvision.models.vgg16",
        lambda pretrained: SimpleNamespace(features=features) if pretrained else None,
    )
    published: nn.Module = package.DISTS()
    return published


def test_values_are_those_of_the_package(
    metric: Dists, photographs: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    published = _published_metric(monkeypatch)
    noisy = (photographs + 0.1 * torch.randn_like(photographs)).clamp(0, 1)
    distorted = {
        "blurred": _blurred(photographs, 5),
        "noisy": noisy,
        "shifted": photographs.roll(1, 3),
        "darker": photographs / 2,
        "other": photographs.flip(0),
    }
    sizes = [(48, 64), (16, 16), (33, 47), (24, 31), (40, 17)]
    for (name, images), (height, width) in zip(distorted.items(), sizes, strict=True):
        a, b = photographs[:, :, :height, :width], images[:, :, :height, :width]
        expected = published(a, b)
        assert expected.min() > 1e-3
        torch.testing.assert_close(metric(a, b), expected, rtol=0, atol=1e-5, msg=name)


def test_the_maps_are_those_of_the_package(
    metric: Dists, photographs: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = _published_metric(monkeypatch).forward_once(photographs)  # type: ignore[operator]
    for ours, theirs in zip(metric.features(photographs), expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


def test_equal_images_have_distance_zero(metric: Dists, photographs: Tensor) -> None:
    assert metric(photographs, photographs).abs().max() <= 1e-6
    assert metric(torch.zeros(1, 3, 8, 8), torch.zeros(1, 3, 8, 8)).item() == 0.0


def test_it_grows_with_blur(metric: Dists, photographs: Tensor) -> None:
    distances = torch.stack([metric(photographs, _blurred(photographs, w)) for w in (1, 3, 5, 9)])
    assert (distances.diff(dim=0) > 1e-3).all(), distances


def test_values_repeat_and_do_not_depend_on_the_batch(metric: Dists, photographs: Tensor) -> None:
    others = _blurred(photographs, 3)
    together = metric(photographs, others)
    assert together.shape == (2,)
    assert torch.equal(metric(photographs, others), together)
    one_by_one = torch.cat(
        [metric(a[None], b[None]) for a, b in zip(photographs, others, strict=True)]
    )
    torch.testing.assert_close(together, one_by_one, rtol=0, atol=1e-6)
    torch.testing.assert_close(metric(others, photographs), together, rtol=0, atol=1e-6)
    with_first = metric.distance(metric.features(photographs[:1]), metric.features(others))
    torch.testing.assert_close(with_first[0], together[0], rtol=0, atol=1e-6)


def test_resizing_is_that_of_piq(trunk: Path, metric: Dists, photographs: Tensor) -> None:
    resized = Dists.from_pretrained(trunk, resize=32)
    others = _blurred(photographs, 3)
    # piq 0.8: by a factor of 32 / 48, bilinear, not antialiased.
    small = [
        F.interpolate(x, scale_factor=32 / 48, mode="bilinear", recompute_scale_factor=False)
        for x in (photographs, others)
    ]
    assert small[0].shape[2:] == (32, 42)
    torch.testing.assert_close(resized(photographs, others), metric(*small))
    assert torch.equal(
        resized(photographs[..., :32, :], others[..., :32, :]),
        metric(photographs[..., :32, :], others[..., :32, :]),
    )


def test_as_a_loss_only_the_images_get_gradients(metric: Dists, photographs: Tensor) -> None:
    images = (photographs + 0.1 * torch.randn_like(photographs)).requires_grad_()
    before = metric(images, photographs)
    before.sum().backward()
    assert images.grad is not None
    assert images.grad.abs().amax((1, 2, 3)).min() > 0
    step = images.detach() - 0.01 * images.grad / images.grad.abs().max()
    assert (metric(step, photographs) < before).all()
    assert all(parameter.grad is None for parameter in metric.parameters())
    assert not metric.training


@pytest.mark.gradcheck
def test_gradients_of_the_comparison() -> None:
    a = torch.rand(2, 3, 4, 5, dtype=torch.float64, requires_grad=True)
    b = torch.rand(2, 3, 4, 5, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(dists._dissimilarities, (a, b))


def test_gradients_stay_finite_where_features_vanish() -> None:
    metric = Dists()
    with torch.no_grad():
        for parameter in metric.convs.parameters():
            parameter.zero_()
    images = torch.zeros(1, 3, 16, 16, requires_grad=True)
    metric(images, torch.ones(1, 3, 16, 16)).sum().backward()
    assert images.grad is not None
    assert images.grad.isfinite().all()


def test_half_precision_is_close(metric: Dists, photographs: Tensor) -> None:
    images = photographs[:1, :, :16, :16]
    others = _blurred(images, 5)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rough = metric(images, others)
    torch.testing.assert_close(rough.float(), metric(images, others), rtol=0.02, atol=2e-3)


def test_missing_weights_are_one_sentence(trunk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "files", missing)
    with pytest.raises(FileNotFoundError, match=r"pip install --no-deps DISTS-pytorch==0\.1"):
        Dists.from_pretrained(trunk)


def test_the_data_file_beside_the_environment_is_found(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    # An installation whose record does not list the file.
    files = [SimpleNamespace(name="__init__.py", locate=lambda: tmp_path / "__init__.py")]
    monkeypatch.setattr(importlib.metadata, "files", lambda name: files)
    monkeypatch.setattr("sys.prefix", str(tmp_path))
    with pytest.raises(FileNotFoundError, match="not installed"):
        dists._installed_heads()
    (tmp_path / "weights.pt").write_bytes(b"")
    assert dists._installed_heads() == tmp_path / "weights.pt"


def test_the_published_file_is_installed(metric: Dists) -> None:
    content = dists._installed_heads().read_bytes()
    assert hashlib.sha256(content).hexdigest() == dists._HEADS_SHA256
    assert metric.alpha.shape == metric.beta.shape == (1475,)
    assert metric.alpha.min() > 0


def test_bad_files_are_refused(trunk: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.pt"
    other.write_bytes(b"something else")
    with pytest.raises(ValueError, match="not the published weight file of DISTS"):
        Dists.from_pretrained(trunk, heads=other)
    with pytest.raises(FileNotFoundError):
        Dists.from_pretrained(trunk, heads=tmp_path / "absent.pt")
    metric = Dists()
    features = {k.removeprefix("features."): v for k, v in _random_trunk().items()}
    metric._load_trunk(features)
    for changed, name in (
        ({k: v for k, v in features.items() if k != "5.bias"}, r"5\.bias"),
        ({**features, "30.weight": torch.zeros(1)}, r"30\.weight"),
        ({**features, "2.weight": torch.zeros(64, 64, 1, 1)}, r"2\.weight"),
    ):
        with pytest.raises(ValueError, match=rf"not those of vgg16: features\.{name} differs"):
            metric._load_trunk(changed)


def test_bad_arguments_are_refused() -> None:
    metric = Dists()
    with pytest.raises(ValueError, match="same shape"):
        metric(torch.zeros(1, 3, 32, 32), torch.zeros(1, 3, 32, 33))
    for shape in ((1, 1, 8, 8), (3, 8, 8), (1, 3, 0, 8)):
        with pytest.raises(ValueError, match=r"\[B, 3, H, W\]"):
            metric(torch.zeros(shape), torch.zeros(shape))
    with pytest.raises(ValueError, match="resize must be at least 1 pixel, got 0"):
        Dists(resize=0)
