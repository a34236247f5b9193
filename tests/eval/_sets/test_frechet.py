# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest
import torch

from genaccel.eval._sets.frechet import (
    FEW_IMAGES,
    few_images_warning,
    frechet_distance,
    frechet_limit,
)
from genaccel.eval._sets.moments import Moments, Statistics


def _statistics(features: np.ndarray) -> Statistics:
    return Statistics(
        mean=features.mean(0),
        covariance=np.cov(features, rowvar=False),
        provenance={"num_images": len(features)},
    )


def test_one_dimension_is_the_known_formula() -> None:
    a = Statistics(mean=np.array([1.0]), covariance=np.array([[4.0]]))
    b = Statistics(mean=np.array([3.0]), covariance=np.array([[9.0]]))
    # |1 - 3|^2 + (2 - 3)^2
    assert frechet_distance(a, b) == pytest.approx(5.0)


@pytest.mark.golden
@pytest.mark.parametrize(("images", "tolerance"), [(600, 1e-8), (40, 1e-4)])
def test_it_is_the_matrix_square_root_of_scipy(images: int, tolerance: float) -> None:
    linalg = pytest.importorskip("scipy.linalg")
    random = np.random.default_rng(0)
    mixing = random.normal(size=(64, 64)) / 8
    a = _statistics(random.normal(size=(images, 64)) @ mixing)
    b = _statistics(random.normal(size=(images, 64)) @ mixing * 1.2 + 0.1)
    root = linalg.sqrtm(a.covariance @ b.covariance).real
    expected = (
        np.sum((a.mean - b.mean) ** 2)
        + np.trace(a.covariance)
        + np.trace(b.covariance)
        - 2 * np.trace(root)
    )
    assert frechet_distance(a, b) == pytest.approx(expected, abs=tolerance)
    assert frechet_distance(b, a) == pytest.approx(frechet_distance(a, b), abs=1e-6)
    assert frechet_distance(a, a) == pytest.approx(0, abs=1e-5)


def test_rounding_does_not_show_where_images_are_few() -> None:
    random = np.random.default_rng(3)
    a, b = _statistics(random.normal(size=(12, 64))), _statistics(random.normal(size=(9, 64)))
    noise = random.normal(size=(64, 64)) * 1e-15
    rounded = Statistics(
        mean=a.mean, covariance=a.covariance + noise + noise.T, provenance=a.provenance
    )
    assert frechet_distance(rounded, b) == pytest.approx(frechet_distance(a, b), rel=0, abs=1e-11)
    assert frechet_distance(b, rounded) == pytest.approx(frechet_distance(a, b), rel=0, abs=1e-11)


def test_features_of_another_width_are_refused() -> None:
    a = Statistics(mean=np.zeros(2), covariance=np.eye(2))
    b = Statistics(mean=np.zeros(3), covariance=np.eye(3))
    with pytest.raises(ValueError, match="2 and 3 features"):
        frechet_distance(a, b)


def test_the_limit_takes_the_bias_of_small_sets_away() -> None:
    random = np.random.default_rng(1)
    reference = Statistics(mean=np.zeros(32), covariance=np.eye(32))
    biased, corrected = [], []
    for _ in range(4):
        features = random.normal(size=(400, 32)).astype(np.float32)
        biased.append(frechet_distance(reference, _statistics(features)))
        limit = frechet_limit(reference, features)
        assert limit is not None
        assert limit.bias > 0
        corrected.append(limit.value)
    # The true distance is 0.
    assert np.mean(biased) > 0.5
    assert abs(np.mean(corrected)) < 0.3 * np.mean(biased)


def test_the_last_point_of_the_limit_is_the_distance_itself() -> None:
    random = np.random.default_rng(2)
    features = random.normal(size=(100, 16)).astype(np.float32)
    reference = _statistics(random.normal(size=(500, 16)))
    limit = frechet_limit(reference, features)
    assert limit is not None
    distance = frechet_distance(reference, _statistics(features.astype(np.float64)))
    assert limit.value + limit.bias == pytest.approx(distance, rel=0.3)
    assert frechet_limit(reference, features) == limit
    assert frechet_limit(reference, features[:29]) is None


def test_few_images_are_warned_of() -> None:
    assert few_images_warning(None) == few_images_warning(FEW_IMAGES) == []
    assert "100 images are too few" in few_images_warning(100)[0]


def test_batches_do_not_change_the_moments() -> None:
    features = torch.randn(101, 12, generator=torch.Generator().manual_seed(0)) * 3 + 40
    whole = np.cov(features.double().numpy(), rowvar=False)
    for size in (1, 7, 101):
        moments = Moments(12)
        for batch in features.split(size):
            moments.update(batch)
        statistics = moments.statistics({"extractor": "x"})
        np.testing.assert_allclose(statistics.covariance, whole, rtol=1e-10, atol=1e-10)
        assert statistics.provenance == {"extractor": "x", "num_images": 101}
    single = Moments(12)
    single.update(features[:1])
    with pytest.raises(ValueError, match="at least two images, got 1"):
        single.statistics()
