# SPDX-License-Identifier: Apache-2.0
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from genaccel.eval._pairs.folder_pairs import ImagePair, match_folders
from genaccel.eval._pairs.pair_metrics import (
    PAIRED_METRICS,
    PairedMetric,
    default_workers,
    load_paired_metric,
    score_pairs,
)
from genaccel.eval.held_out import held_out_photographs
from genaccel.eval.results import Metric

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


def test_every_metric_of_the_table_has_a_command() -> None:
    import importlib

    for module in PAIRED_METRICS.values():
        assert callable(importlib.import_module(module).main.load)
    with pytest.raises(ValueError, match=r"metric must be one of psnr, .*got 'fid'"):
        load_paired_metric("fid")


def test_few_pairs_need_no_workers() -> None:
    assert default_workers(10) == 0
    assert 1 <= default_workers(1000) <= 8


@pytest.mark.parametrize("name", ["psnr", "ssim", "ms-ssim", "st-lpips", "ssimulacra2"])
def test_a_value_does_not_depend_on_the_other_images(name: str, tmp_path: Path) -> None:
    try:
        metric = load_paired_metric(name)
    except (FileNotFoundError, ImportError) as error:
        pytest.skip(str(error))
    photographs = held_out_photographs()
    for photograph in ("chelsea", "coffee", "rocket"):
        crop = photographs[photograph][40:216, 30:214]
        for folder, image in (("a", crop), ("b", crop // 16 * 16)):
            (tmp_path / folder).mkdir(exist_ok=True)
            Image.fromarray(image).save(tmp_path / folder / f"{photograph}.png")
    pairs = match_folders(tmp_path / "a", tmp_path / "b")
    together = score_pairs(pairs, metric).images
    assert together == score_pairs(pairs[::-1], metric).images
    alone = {k: v for pair in pairs for k, v in score_pairs([pair], metric).images.items()}
    assert alone == together
