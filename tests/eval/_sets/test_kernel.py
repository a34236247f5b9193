# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest

from genaccel.eval._sets import kernel
from genaccel.eval._sets.kernel import gaussian_mmd, kernel_distance, kernel_value
from genaccel.eval._sets.moments import Statistics
from genaccel.eval._sets.set_features import SetFeatures


def _set(count: int, seed: int = 0) -> SetFeatures:
    features = np.random.default_rng(seed).normal(size=(count, 8)).astype(np.float32)
    statistics = Statistics(mean=features.mean(0), covariance=np.cov(features.T))
    return SetFeatures(name=f"{count}", statistics=statistics, features=features)


def test_sets_below_a_subset_say_what_was_done() -> None:
    whole = kernel_value(_set(40), _set(30, 1), subset_size=50)
    assert whole.details == {"standard_deviation": None}
    assert whole.settings == {"subsets": 1, "subset_size": [40, 30], "subset_seed": None}
    assert "compared whole and once" in whole.warnings[0]

    one = kernel_value(_set(40), _set(30, 1), subset_size=35)
    assert one.details["standard_deviation"] > 0  # type: ignore[operator]
    assert one.settings == {"subset_size": [35, 30]}
    assert "smaller set of 30 images" in one.warnings[0]

    both = kernel_value(_set(40), _set(30, 1), subset_size=20)
    assert (both.settings, list(both.warnings)) == ({}, [])
    expected = kernel_distance(_set(40).of_each_image, _set(30, 1).of_each_image, subset_size=20)
    assert (both.value, both.details["standard_deviation"]) == expected


@pytest.mark.parametrize("rows", [1024, 7])
def test_cmmd_is_that_of_its_published_code(rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernel, "_ROWS", rows)
    x, y = _set(20).of_each_image, _set(15, 1).of_each_image + 0.5

    def published(x: np.ndarray, y: np.ndarray) -> float:
        # google-research/cmmd/distance.py, with the embeddings brought to length 1 as embedding.py does
        x, y = (
            v / np.linalg.norm(v, axis=-1, keepdims=True)
            for v in (x.astype(float), y.astype(float))
        )
        x_sq, y_sq = np.diag(x @ x.T), np.diag(y @ y.T)
        gamma = 1 / (2 * 10**2)

        def mean(a: np.ndarray, b: np.ndarray, a_sq: np.ndarray, b_sq: np.ndarray) -> float:
            return np.mean(np.exp(-gamma * (-2 * a @ b.T + a_sq[:, None] + b_sq[None])))

        return 1000 * (mean(x, x, x_sq, x_sq) + mean(y, y, y_sq, y_sq) - 2 * mean(x, y, x_sq, y_sq))

    assert gaussian_mmd(x, y) == pytest.approx(published(x, y), rel=1e-9)
    assert gaussian_mmd(x, x) == pytest.approx(0, abs=1e-9)
    assert np.isfinite(gaussian_mmd(np.zeros((3, 8), np.float32), y))
