# SPDX-License-Identifier: Apache-2.0
import json
import math
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from genaccel.cli import app
from genaccel.eval._pairs.folder_pairs import ImagePair, match_folders
from genaccel.eval._pairs.pair_metrics import (
    PairedMetric,
    load_paired_metric,
    score_pairs,
    without_border,
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


def _run(*arguments: object, code: int = 0) -> tuple[str, str]:
    result = CliRunner().invoke(app, ["eval", *map(str, arguments)])
    assert result.exit_code == code, result.output
    return result.stdout, result.stderr


def test_equal_images_are_counted_and_take_no_mean_away(pairs: list[ImagePair]) -> None:
    folders = pairs[0].original.parent, pairs[0].reconstruction.parent
    pairs[0].reconstruction.write_bytes(pairs[0].original.read_bytes())
    record = json.loads(_run("psnr", *folders, "--json")[0])
    assert record["images"] == {"x": "Infinity", "y": pytest.approx(28.131, abs=1e-3)}
    assert (record["mean"], record["num_infinite"]) == ("Infinity", 1)
    assert record["mean_of_finite"] == pytest.approx(28.131, abs=1e-3)
    assert record["psnr_of_mean_error"] == pytest.approx(31.141, abs=1e-3)  # half the error
    table, _ = _run("psnr", *folders)
    assert "of these infinite" in table
    assert "mean of the others" in table
    assert _run("psnr", *folders, "--csv")[0].splitlines()[-1] == "mean,inf"


def test_the_spread_stands_beside_the_mean(pairs: list[ImagePair]) -> None:
    folders = pairs[0].original.parent, pairs[0].reconstruction.parent
    record = json.loads(_run("psnr", *folders, "--json")[0])
    assert record["standard_deviation"] == pytest.approx(14.142, abs=1e-3)
    low, high = record["confidence_interval"]
    assert low < record["mean"] < high
    assert record["confidence"] == 0.95
    assert "bootstrap" in record["confidence_method"]
    table, _ = _run("psnr", *folders)
    assert "standard deviation" in table
    assert "95 % interval of the mean" in table


def test_a_value_that_is_no_number_is_left_out_by_name(pairs: list[ImagePair]) -> None:
    metric = Metric(key="m", title="M", higher_is_better=True)
    values = iter([math.nan, -math.inf])
    result = score_pairs(
        pairs, PairedMetric(metric=metric, function=lambda a, b: next(values)), workers=0
    )
    assert result.images == {"y": -math.inf}
    assert result.skipped == {"x": "M gives no number for these images (NaN)"}


def test_borders_are_cropped(tmp_path: Path) -> None:
    image = np.full((20, 24, 3), 9, np.uint8)
    other = image.copy()
    other[:4], other[:, -4:] = 200, 100
    Image.fromarray(image).save(tmp_path / "a.png")
    Image.fromarray(other).save(tmp_path / "b.png")
    files = tmp_path / "a.png", tmp_path / "b.png"
    record = json.loads(_run("psnr", *files, "--crop-border", 4, "--luma", "--json")[0])
    assert record["images"] == {"a": "Infinity"}
    assert record["metric"]["key"] == "psnr_y"
    assert record["settings"]["crop_border"] == 4
    assert "BT.601" in record["settings"]["luma"]
    record = json.loads(_run("psnr", *files, "--crop-border", 3, "--json")[0])
    assert record["images"]["a"] < 30
    assert json.loads(_run("ssim", *files, "--crop-border", 4, "--luma", "--json")[0])["mean"] == 1
    with pytest.raises(
        ValueError, match="cropping 10 pixels at each border leaves nothing of 24x20"
    ):
        without_border(PSNR, 10).function(image, other)
    _, stderr = _run("ssim", *files, "--crop-border", 6, code=2)
    assert "SSIM needs images of at least 11x11 pixels, got 12x8" in " ".join(stderr.split())


def test_what_intersect_drops_is_recorded_and_said(pairs: list[ImagePair]) -> None:
    a, b = pairs[0].original.parent, pairs[0].reconstruction.parent
    (b / "x.png").rename(b / "z.png")
    stdout, stderr = _run("psnr", a, b, "--intersect", "--json")
    assert json.loads(stdout)["unmatched"] == {str(a): ["x"], str(b): ["z"]}
    assert f"1 file without a partner left out, only in {a}: x" in stderr
    stdout, stderr = _run("rate", a, b, "--intersect", "--json")
    assert json.loads(stdout)["unmatched"] == {str(a): ["x"], str(b): ["z"]}
    assert "without a partner" in stderr


def test_one_pixel_is_an_image(tmp_path: Path) -> None:
    for name, value in (("a", 0), ("b", 255)):
        Image.new("RGB", (1, 1), (value,) * 3).save(tmp_path / f"{name}.png")
    record = json.loads(_run("psnr", tmp_path / "a.png", tmp_path / "b.png", "--json")[0])
    assert record["mean"] == 0
    for command in ("ssim", "ms-ssim", "ssimulacra2"):
        _, stderr = _run(command, tmp_path / "a.png", tmp_path / "b.png", code=2)
        assert "needs images of at least" in " ".join(stderr.split())
