# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest
import torch

from genaccel.eval.kid import kernel_distance, polynomial_mmd


@pytest.mark.golden
def test_it_is_the_estimator_of_torchmetrics() -> None:
    kid = pytest.importorskip("torchmetrics.image.kid")
    random = np.random.default_rng(0)
    x = random.normal(size=(20, 16)).astype(np.float32)
    y = random.normal(loc=0.3, size=(20, 16)).astype(np.float32)
    expected = kid.poly_mmd(torch.from_numpy(x).double(), torch.from_numpy(y).double())
    assert polynomial_mmd(x.astype(np.float64), y.astype(np.float64)) == pytest.approx(
        float(expected), rel=1e-9
    )


def test_it_is_unbiased_and_sees_a_shift() -> None:
    random = np.random.default_rng(1)
    same = [
        polynomial_mmd(random.normal(size=(25, 8)), random.normal(size=(30, 8))) for _ in range(200)
    ]
    assert abs(np.mean(same)) < 4 * np.std(same) / np.sqrt(200)
    shifted = polynomial_mmd(random.normal(size=(200, 8)), random.normal(loc=0.5, size=(200, 8)))
    assert shifted > 10 * np.std(same) / np.sqrt(200)


def test_subsets_are_seeded_and_small_sets_taken_whole() -> None:
    random = np.random.default_rng(2)
    x = random.normal(size=(60, 8)).astype(np.float32)
    y = random.normal(size=(50, 8)).astype(np.float32)
    whole, deviation = kernel_distance(x, y)
    assert deviation is None
    assert whole == polynomial_mmd(x.astype(np.float64), y.astype(np.float64))
    first = kernel_distance(x, y, num_subsets=20, subset_size=30)
    assert first == kernel_distance(x, y, num_subsets=20, subset_size=30)
    assert first != kernel_distance(x, y, num_subsets=20, subset_size=30, seed=1)
    assert first[1] is not None
    assert abs(first[0] - whole) < first[1]
    with pytest.raises(ValueError, match="at least two images of each set, got 1 and 50"):
        kernel_distance(x[:1], y)
