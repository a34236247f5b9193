# SPDX-License-Identifier: Apache-2.0
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from genaccel.eval._sets.moments import Moments, Statistics, load_kept_features

STATISTICS = Statistics(
    mean=np.array([1.0, 2.0]),
    covariance=np.array([[2.0, 0.5], [0.5, 1.0]]),
    provenance={"extractor": "x", "num_images": 7, "tile": None},
)


def test_a_file_keeps_everything(tmp_path: Path) -> None:
    path = tmp_path / "s.npz"
    STATISTICS.save(path)
    loaded = Statistics.load(path)
    np.testing.assert_array_equal(loaded.mean, STATISTICS.mean)
    np.testing.assert_array_equal(loaded.covariance, STATISTICS.covariance)
    assert loaded.provenance == STATISTICS.provenance
    assert loaded.num_images == 7
    with pytest.raises(FileExistsError):
        STATISTICS.save(path)
    STATISTICS.save(path, overwrite=True)


@pytest.mark.golden
def test_files_are_exchanged_with_pytorch_fid(tmp_path: Path) -> None:
    fid_score = pytest.importorskip("pytorch_fid.fid_score")
    STATISTICS.save(tmp_path / "ours.npz")
    mean, covariance = fid_score.compute_statistics_of_path(
        str(tmp_path / "ours.npz"), None, 1, 2, "cpu"
    )
    np.testing.assert_array_equal(mean, STATISTICS.mean)
    np.testing.assert_array_equal(covariance, STATISTICS.covariance)
    # How its --save-stats writes.
    np.savez_compressed(tmp_path / "theirs.npz", mu=mean, sigma=covariance)
    theirs = Statistics.load(tmp_path / "theirs.npz")
    assert theirs.provenance == {}
    assert theirs.num_images is None
    np.testing.assert_array_equal(theirs.covariance, covariance)


@pytest.mark.parametrize(
    ("arrays", "complaint"),
    [
        ({"mu": np.zeros(2)}, "it has no array sigma"),
        ({"features": np.zeros((4, 2))}, "no array mu and no array sigma"),
        ({"mu": np.zeros(2), "sigma": np.zeros((3, 3))}, r"mu has shape \(2,\), sigma \(3, 3\)"),
        ({"mu": np.zeros(2), "sigma": np.full((2, 2), np.nan)}, "not finite"),
        ({"mu": np.array([{}], dtype=object), "sigma": np.zeros((1, 1))}, "no statistics"),
    ],
)
def test_other_archives_are_refused(
    tmp_path: Path, arrays: dict[str, np.ndarray], complaint: str
) -> None:
    np.savez(tmp_path / "x.npz", **arrays)
    with pytest.raises(ValueError, match=complaint):
        Statistics.load(tmp_path / "x.npz")


def test_other_files_are_refused(tmp_path: Path) -> None:
    for data in (b"", b"PK\x03\x04 cut off", b"no archive at all"):
        (tmp_path / "x.npz").write_bytes(data)
        with pytest.raises(ValueError, match=r"x\.npz holds no statistics"):
            Statistics.load(tmp_path / "x.npz")
    with pytest.raises(FileNotFoundError):
        Statistics.load(tmp_path / "none.npz")


def test_no_file_unpacks_to_more_memory_than_there_are_features(tmp_path: Path) -> None:
    path = tmp_path / "bomb.npz"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in ("mu", "sigma"):
            with archive.open(f"{name}.npy", "w", force_zip64=True) as stream:
                for _ in range(600):
                    stream.write(bytes(2**20))
    assert path.stat().st_size < 2**21
    with pytest.raises(ValueError, match="its arrays take more than 1024 MiB"):
        Statistics.load(path)


def test_pickles_in_an_archive_are_not_opened(tmp_path: Path) -> None:
    path = tmp_path / "pickle.npz"
    np.savez(path, mu=np.array([print], dtype=object), sigma=np.eye(1))
    with pytest.raises(ValueError, match="holds no statistics of features"):
        Statistics.load(path)


@pytest.mark.parametrize("text", ["[]", "3", "{", "[" * 100_000])
def test_provenance_of_another_form_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "a.npz"
    np.savez(path, mu=np.zeros(2), sigma=np.eye(2), genaccel=np.array(text))
    with pytest.raises(ValueError, match="holds no statistics of features"):
        Statistics.load(path)


def test_digests_and_features_are_kept_beside_them(tmp_path: Path) -> None:
    digests = frozenset({bytes(range(16)), bytes(16)})
    features = np.arange(6, dtype=np.float32).reshape(3, 2)
    statistics = replace(STATISTICS, digests=digests)
    statistics.save(tmp_path / "s.npz", features=features)
    assert Statistics.load(tmp_path / "s.npz").digests == digests
    np.testing.assert_array_equal(load_kept_features(tmp_path / "s.npz", 2), features)
    with pytest.raises(ValueError, match=r"finite features \[N, 3\], got \[3, 2\]"):
        load_kept_features(tmp_path / "s.npz", 3)
    STATISTICS.save(tmp_path / "none.npz")
    with pytest.raises(ValueError, match="holds no features of images"):
        load_kept_features(tmp_path / "none.npz", 2)
    arrays = {"mu": STATISTICS.mean, "sigma": STATISTICS.covariance}
    for extra in ({"image_digests": np.zeros((2, 3))}, {"genaccel": np.array("[1]")}):
        np.savez(tmp_path / "odd.npz", **arrays, **extra)
        with pytest.raises(ValueError, match="holds no statistics"):
            Statistics.load(tmp_path / "odd.npz")


def test_features_that_are_not_finite_are_refused() -> None:
    moments = Moments(2)
    moments.update(torch.tensor([[1.0, 2.0], [float("nan"), 0.0]]))
    with pytest.raises(ValueError, match="not finite"):
        moments.statistics()
