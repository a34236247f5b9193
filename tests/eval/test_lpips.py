# SPDX-License-Identifier: Apache-2.0
import json
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import get_args

import numpy as np
import pytest
import torch
import typer
from numpy.typing import NDArray
from PIL import Image
from torch import nn
from typer.testing import CliRunner

from genaccel.eval.held_out import held_out_photographs
from genaccel.eval.lpips import MIN_SIDE, LpipsNet, LpipsOfImages, load_lpips, main

package = pytest.importorskip("lpips", reason="lpips is not installed")
pytest.importorskip("torchvision", reason="torchvision is not installed")

NETS = get_args(LpipsNet)
CLASSIFIERS = {"alex": "alexnet", "vgg": "vgg16", "squeeze": "squeezenet1_1"}


@pytest.fixture(scope="module")
def trunks(trunk_weights: Callable[[str], Path]) -> Callable[[LpipsNet], Path]:
    """Files in torchvision's layout."""
    return lambda net: trunk_weights(CLASSIFIERS[net])


@pytest.fixture(scope="module", params=NETS)
def loaded(request: pytest.FixtureRequest, trunks: Callable[[LpipsNet], Path]) -> LpipsOfImages:
    return load_lpips(request.param, trunks(request.param))


def _images(*shape: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    random = np.random.default_rng(0)
    original = random.integers(0, 256, (*shape, 3), dtype=np.uint8)
    noise = random.integers(-40, 40, original.shape)
    return original, (original + noise).clip(0, 255).astype(np.uint8)


def test_values_are_those_of_the_package(
    loaded: LpipsOfImages,
    random_features: Callable[[str], nn.Module],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # The package's own way to its trunk, except for the download.
    features = random_features(CLASSIFIERS[loaded.net])
    monkeypatch.setattr(
        package.pretrained_networks.tv,
        CLASSIFIERS[loaded.net],
        lambda pretrained: SimpleNamespace(features=features) if pretrained else None,
    )
    reference = package.LPIPS(net=loaded.net, verbose=False)
    for shape in ((32, 32), (64, 48), (51, 77), (33, 95)):
        original, other = _images(*shape)
        with torch.inference_mode():
            expected = reference(package.im2tensor(original), package.im2tensor(other)).item()
        assert expected > 1e-3
        assert loaded(original, other) == pytest.approx(expected, abs=1e-6), shape
        assert loaded(original, original) == 0.0


def test_values_repeat_and_do_not_depend_on_the_batch(loaded: LpipsOfImages) -> None:
    a, b = torch.rand(3, 3, 41, 37) * 2 - 1, torch.rand(3, 3, 41, 37) * 2 - 1
    together = loaded.distances(a, b)
    assert together.shape == (3,)
    assert torch.equal(loaded.distances(a, b), together)
    one_by_one = torch.cat([loaded.distances(a[i : i + 1], b[i : i + 1]) for i in range(3)])
    torch.testing.assert_close(together, one_by_one, rtol=0, atol=1e-6)
    assert together.std() > 1e-4  # else the test could not tell them apart


def test_it_grows_with_the_distortion(loaded: LpipsOfImages) -> None:
    photograph = held_out_photographs()["chelsea"][100:164, 150:214]
    distances = [
        loaded(photograph, photograph // step * step + step // 2) for step in (1, 8, 32, 128)
    ]
    assert distances == sorted(distances)
    assert distances[0] == 0.0 < distances[1]


def test_the_smallest_image(loaded: LpipsOfImages) -> None:
    smallest = MIN_SIDE[loaded.net]
    assert np.isfinite(loaded(*_images(smallest, smallest)))
    with pytest.raises(ValueError, match=f"at least {smallest}x{smallest} pixels, got {smallest}x"):
        loaded(*_images(smallest - 1, smallest))


@pytest.mark.cuda
def test_a_gpu_gives_the_values_of_the_cpu(
    loaded: LpipsOfImages, trunks: Callable[[LpipsNet], Path]
) -> None:
    original, other = _images(64, 48)
    on_gpu = load_lpips(loaded.net, trunks(loaded.net), "cuda")
    assert on_gpu(original, other) == pytest.approx(loaded(original, other), abs=1e-5)


def test_loading_leaves_the_random_state_and_no_gradients(
    trunks: Callable[[LpipsNet], Path],
) -> None:
    state = torch.random.get_rng_state()
    metric = load_lpips("squeeze", trunks("squeeze")).metric
    assert torch.equal(torch.random.get_rng_state(), state)
    assert not metric.training
    assert not any(p.requires_grad or p.is_meta for p in metric.parameters())
    assert not any(buffer.is_meta for buffer in metric.buffers())


def test_files_of_other_networks_are_refused(
    trunks: Callable[[LpipsNet], Path], tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match="not those of alexnet"):
        load_lpips("alex", trunks("squeeze"))
    state = torch.load(trunks("alex"), weights_only=True)
    path = tmp_path / "changed.pth"
    torch.save({**state, "features.12.weight": torch.zeros(1)}, path)
    with pytest.raises(ValueError, match=r"not those of alexnet: features\.12\.weight differs"):
        load_lpips("alex", path)
    torch.save({**state, "features.3.weight": torch.zeros(2, 2, 5, 5)}, path)
    with pytest.raises(ValueError, match=r"not those of alexnet: features\.3\.weight differs"):
        load_lpips("alex", path)


def test_bad_arguments_are_refused(loaded: LpipsOfImages, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match='net must be "alex", "vgg" or "squeeze"'):
        load_lpips("vgg19")  # type: ignore[arg-type]
    with pytest.raises(FileNotFoundError, match="no weight file"):
        load_lpips(loaded.net, tmp_path / "absent.pth")
    with pytest.raises(ValueError, match="same shape"):
        loaded(np.zeros((32, 32, 3), np.uint8), np.zeros((32, 33, 3), np.uint8))
    with pytest.raises(ValueError, match=r"\[B, 3, H, W\]"):
        loaded.distances(torch.zeros(1, 1, 32, 32), torch.zeros(1, 1, 32, 32))


def test_a_missing_package_is_one_sentence(
    trunks: Callable[[LpipsNet], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "lpips", None)
    with pytest.raises(ImportError, match=r"pip install 'genaccel\[eval\]'"):
        load_lpips("squeeze", trunks("squeeze"))


def test_the_command(trunks: Callable[[LpipsNet], Path], tmp_path: Path) -> None:
    original, other = _images(40, 32)
    for folder, image in (("a", original), ("b", other)):
        (tmp_path / folder).mkdir()
        Image.fromarray(image).save(tmp_path / folder / "one.png")
    app = typer.Typer()
    app.command()(main)
    run = partial(CliRunner().invoke, app)
    folders = [str(tmp_path / "a"), str(tmp_path / "b")]
    weights = ["--weights", str(trunks("squeeze"))]
    result = run([*folders, "--net", "squeeze", *weights, "--json"])
    assert result.exit_code == 0, result.output
    content = json.loads(result.stdout)
    assert content["metric"]["key"] == "lpips_squeeze"
    assert not content["metric"]["higher_is_better"]
    expected = load_lpips("squeeze", trunks("squeeze"))(original, other)
    assert content["images"] == {"one": pytest.approx(expected, abs=1e-6)}
    result = run([*folders, "--net", "squeeze", "--weights", str(tmp_path / "absent.pth")])
    assert result.exit_code == 2
    assert "no weight file" in result.output
