# SPDX-License-Identifier: Apache-2.0
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from genaccel.cli import app
from genaccel.eval import precision_recall
from genaccel.eval.precision_recall import ManifoldScores, manifold_scores


def _by_definition(real: np.ndarray, fake: np.ndarray, k: int) -> ManifoldScores:
    def distances(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return np.sqrt(((a[:, None] - b[None]) ** 2).sum(-1))

    real_radius = np.sort(distances(real, real), axis=1)[:, k]
    fake_radius = np.sort(distances(fake, fake), axis=1)[:, k]
    between = distances(real, fake)
    in_real = between < real_radius[:, None]
    return ManifoldScores(
        precision=in_real.any(0).mean(),
        recall=(between < fake_radius[None]).any(1).mean(),
        density=in_real.sum(0).mean() / k,
        coverage=in_real.any(1).mean(),
    )


@pytest.mark.parametrize("rows", [1024, 7])
def test_it_follows_the_definition(rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision_recall, "_ROWS", rows)
    random = np.random.default_rng(0)
    real = random.normal(size=(40, 6)).astype(np.float32)
    fake = random.normal(loc=0.5, scale=0.7, size=(30, 6)).astype(np.float32)
    for k in (1, 5):
        scores, expected = (
            f(real, fake, k) if f is _by_definition else f(real, fake, neighbours=k)
            for f in (manifold_scores, _by_definition)
        )
        for name in ("precision", "recall", "density", "coverage"):
            assert getattr(scores, name) == pytest.approx(getattr(expected, name), abs=1e-6)
        assert 0 < scores.recall < 1


def test_equal_and_distant_sets() -> None:
    random = np.random.default_rng(1)
    real = random.normal(size=(30, 4)).astype(np.float32)
    same = manifold_scores(real, real)
    assert same.precision == same.recall == same.coverage == 1
    far = manifold_scores(real, real + 100)
    assert far == ManifoldScores(precision=0, recall=0, density=0, coverage=0)


def test_too_few_images_are_refused() -> None:
    with pytest.raises(ValueError, match="at least 6 images of each set, got 5 and 9"):
        manifold_scores(np.zeros((5, 2), np.float32), np.zeros((9, 2), np.float32))


@pytest.mark.parametrize("count", [30, 4])  # distances of few rows are exact, of many rounded
def test_repeated_images_are_points(count: int) -> None:
    random = np.random.default_rng(2)
    distinct = (random.normal(size=(count, 16)) + 5).astype(np.float32)
    repeated = distinct.repeat(8, axis=0)
    # The place of an image in a batch moves its features a little.
    repeated = repeated * (1 + 1e-7 * random.normal(size=repeated.shape)).astype(np.float32)
    same = manifold_scores(repeated, repeated)
    assert (same.precision, same.recall, same.coverage) == (1, 1, 1)
    assert (same.real_points, same.fake_points) == (8 * count, 8 * count)
    assert same.density == pytest.approx(8 / 5)
    other = manifold_scores(repeated, random.normal(size=(40, 16)).astype(np.float32))
    assert (other.real_points, other.fake_points) == (8 * count, 0)
    assert other.precision == 0
    # k times is few enough for a ball.
    assert manifold_scores(repeated, repeated, neighbours=8).real_points == 0


def test_points_are_told(
    picture_folder: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = picture_folder("repeated", 1, seed=0)
    for i in range(7):
        (folder / f"copy{i}.png").write_bytes((folder / "000.png").read_bytes())
    arguments = ["precision-recall", str(folder), str(folder), "--features", "mobilenet_v2"]
    result = CliRunner().invoke(app, ["eval", *arguments, "--json"])
    if result.exit_code == 2 and "pip install" in result.stderr:
        pytest.skip(result.stderr)
    assert result.exit_code == 0, result.output
    record = json.loads(result.stdout)
    assert record["value"] == 1
    assert set(record["details"]) == {"precision", "recall", "density", "coverage"}
    assert "8 of the 8 real images are repeated more than 5 times" in record["warnings"][0]
    assert "8 of the 8 generated images" in record["warnings"][1]
