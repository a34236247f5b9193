# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest

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
