# SPDX-License-Identifier: Apache-2.0
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from genaccel.eval._pairs.folder_pairs import ImagePair, match_folders
from genaccel.eval._pairs.pair_metrics import (
    PairedMetric,
    load_paired_metric,
    score_pairs,
)
from genaccel.eval.metrics import Metric

PSNR = load_paired_metric("psnr")


@pytest.fixture
def pairs(tmp_path: Path) -> list[ImagePair]:
    for name, error in (("x", 1), ("y", 10)):
        for folder, value in (("a", 0), ("b", error)):
            (tmp_path / folder).mkdir(exist_ok=True)
            Image.new("RGB", (8, 6), (value,) * 3).save(tmp_path / folder / f"{name}.png")
    return match_folders(tmp_path / "a", tmp_path / "b")


@pytest.mark.parametrize("workers", [0, 1])
def test_the_mean_is_that_of_the_images(pairs: list[ImagePair], workers: int) -> None:
    result = score_pairs(pairs, PSNR, workers=workers)
    assert {name: round(value, 3) for name, value in result.images.items()} == {
        "x": 48.131,
        "y": 28.131,
    }
    assert result.mean == pytest.approx(38.131, abs=1e-3)
    assert result.skipped == {}


def test_what_cannot_be_judged_is_named(pairs: list[ImagePair]) -> None:
    pairs[0].original.write_bytes(pairs[0].original.read_bytes()[:44])
    result = score_pairs(pairs, PSNR)
    assert list(result.images) == ["y"]
    assert "a/x.png: image does not decode" in result.skipped["x"]
    with pytest.raises(ValueError, match=r"^x: .*a/x\.png: image does not decode"):
        score_pairs(pairs, PSNR, strict=True)
    with pytest.raises(ValueError, match="no pair of images could be judged; x: "):
        score_pairs(pairs[:1], PSNR)


def test_a_refusal_of_the_metric_names_the_pair(pairs: list[ImagePair]) -> None:
    def refuse(a: np.ndarray, b: np.ndarray) -> float:
        if b.max() == 1:
            raise ValueError("too dark")
        return 2.0

    metric = Metric(key="m", title="M", higher_is_better=True)
    result = score_pairs(pairs, PairedMetric(metric=metric, function=refuse))
    assert (result.images, result.skipped) == ({"y": 2.0}, {"x": "too dark"})


def test_only_metrics_of_pairs_are_loaded() -> None:
    with pytest.raises(ValueError, match=r"metric must be one of psnr, .*got 'fid'"):
        load_paired_metric("fid")
