# SPDX-License-Identifier: Apache-2.0
import json
from copy import deepcopy
from pathlib import Path

import numpy as np
import pytest
import torch
import typer
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from typer.testing import CliRunner

from genaccel.eval.dists import DistsOfImages, main
from genaccel.eval.held_out import held_out_photographs
from genaccel.models.dists import Dists


@pytest.fixture(scope="module")
def metric() -> Dists:
    """With a random trunk."""
    torch.manual_seed(0)
    return Dists().eval().requires_grad_(False)


@pytest.fixture(scope="module")
def crops() -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    photographs = held_out_photographs()
    return photographs["chelsea"][100:148, 150:214], photographs["coffee"][100:148, 150:214]


def _planes(image: NDArray[np.uint8]) -> Tensor:
    return torch.tensor(image).permute(2, 0, 1)[None].float() / 255


def test_reused_features_give_the_same_distance(
    metric: Dists, crops: tuple[NDArray[np.uint8], NDArray[np.uint8]]
) -> None:
    of_images = DistsOfImages(metric)
    first, second = crops
    # The original changes in place too: what counts are its pixels.
    changing = first.copy()
    for original, other in ((changing, second), (changing, first), (second, first)):
        expected = metric(_planes(original), _planes(other)).item()
        assert of_images(original, other) == pytest.approx(expected, rel=1e-5)
        changing[:] = changing[::-1].copy()
    assert of_images(first, first) == 0.0


@pytest.mark.cuda
def test_a_gpu_gives_the_values_of_the_cpu(
    metric: Dists, crops: tuple[NDArray[np.uint8], NDArray[np.uint8]]
) -> None:
    on_gpu = DistsOfImages(deepcopy(metric).to("cuda"))
    assert on_gpu(*crops) == pytest.approx(DistsOfImages(metric)(*crops), abs=1e-5)


def test_shapes_must_agree(metric: Dists) -> None:
    with pytest.raises(ValueError, match="same shape"):
        DistsOfImages(metric)(np.zeros((32, 32, 3), np.uint8), np.zeros((32, 33, 3), np.uint8))


@pytest.mark.parametrize(("options", "key"), [([], "dists"), (["--resize", "32"], "dists_r32")])
def test_the_command(
    options: list[str],
    key: str,
    metric: Dists,
    crops: tuple[NDArray[np.uint8], NDArray[np.uint8]],
    tmp_path: Path,
) -> None:
    try:
        Dists.from_pretrained(tmp_path / "absent.pth")
    except FileNotFoundError as error:
        if "pip install" in str(error):
            pytest.skip(str(error))
    for folder, image in zip("ab", crops, strict=True):
        (tmp_path / folder).mkdir()
        Image.fromarray(image).save(tmp_path / folder / "one.png")
    positions = (0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28)
    state: dict[str, Tensor] = {}
    for position, conv in zip(positions, metric.convs, strict=True):
        state |= {f"features.{position}.{k}": v for k, v in conv.state_dict().items()}
    weights = tmp_path / "vgg16.pth"
    torch.save(state, weights)
    app = typer.Typer()
    app.command()(main)
    folders = [str(tmp_path / "a"), str(tmp_path / "b")]
    arguments = [*folders, "--weights", str(weights), *options, "--json"]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    content = json.loads(result.stdout)
    assert content["metric"]["key"] == key
    assert not content["metric"]["higher_is_better"]
    resize = int(options[1]) if options else None
    expected = DistsOfImages(Dists.from_pretrained(weights, resize=resize))(*crops)
    assert content["images"] == {"one": pytest.approx(expected, abs=1e-6)}
