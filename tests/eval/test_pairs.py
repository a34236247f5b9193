# SPDX-License-Identifier: Apache-2.0
import json
import math
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from genaccel.eval.pairs import Score, match_folders, mean, print_report, score_pairs
from genaccel.eval.psnr import psnr


def _write(path: Path, size: tuple[int, int] = (8, 6), value: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (value, value, value)).save(path)


def test_files_are_matched_by_path_without_extension(tmp_path: Path) -> None:
    a, b = tmp_path / "a", tmp_path / "b"
    for name in ("z.png", "sub/z.png", "c.d.png"):
        _write(a / name)
        _write((b / name).with_suffix(".bmp"))
    pairs = match_folders(a, b)
    assert [pair.name for pair in pairs] == ["c.d", "sub/z", "z"]
    assert pairs[1].original == a / "sub/z.png"
    assert pairs[1].reconstruction == b / "sub/z.bmp"


def test_unmatched_files_are_named(tmp_path: Path) -> None:
    a, b = tmp_path / "a", tmp_path / "b"
    for i in range(12):
        _write(a / f"only{i:02}.png")
    for folder in (a, b):
        _write(folder / "both.png")
    _write(b / "other.png")
    with pytest.raises(
        ValueError, match=r"only in .*a: only00, .*only09 and 2 more; only in .*b: other"
    ):
        match_folders(a, b)
    assert [pair.name for pair in match_folders(a, b, intersect=True)] == ["both"]


def test_ambiguous_and_disjoint_folders_are_refused(tmp_path: Path) -> None:
    a, b = tmp_path / "a", tmp_path / "b"
    _write(a / "x.png")
    _write(b / "y.png")
    with pytest.raises(ValueError, match="no image in common"):
        match_folders(a, b, intersect=True)
    _write(a / "x.bmp")
    with pytest.raises(ValueError, match="share the stem 'x'"):
        match_folders(a, b)


def test_nothing_is_resized(tmp_path: Path) -> None:
    a, b = tmp_path / "a", tmp_path / "b"
    _write(a / "x.png", (8, 6))
    _write(b / "x.png", (6, 8))
    with pytest.raises(ValueError, match=r"x: .* has 8x6 pixels, .* has 6x8"):
        list(score_pairs(match_folders(a, b), psnr))


def test_a_refusal_of_the_metric_names_the_pair(tmp_path: Path) -> None:
    def refuse(_a: np.ndarray, _b: np.ndarray) -> float:
        raise ValueError("too small")

    for folder in ("a", "b"):
        _write(tmp_path / folder / "x.png")
    with pytest.raises(ValueError, match="x: too small"):
        list(score_pairs(match_folders(tmp_path / "a", tmp_path / "b"), refuse))


def test_the_mean_is_that_of_the_images(tmp_path: Path) -> None:
    a, b = tmp_path / "a", tmp_path / "b"
    for name, error in (("x", 1), ("y", 10)):
        _write(a / f"{name}.png")
        _write(b / f"{name}.png", value=error)
    scores = list(score_pairs(match_folders(a, b), psnr))
    assert [round(score.value, 3) for score in scores] == [48.131, 28.131]
    assert mean(scores) == pytest.approx(38.131, abs=1e-3)


def test_infinite_values_are_null_in_json(capsys: pytest.CaptureFixture[str]) -> None:
    scores = [Score(name="x", value=math.inf), Score(name="y", value=30.0)]
    print_report("PSNR", scores, as_json=True)
    report = json.loads(capsys.readouterr().out)
    assert report == {"metric": "PSNR", "images": {"x": None, "y": 30.0}, "mean": None}
    print_report("PSNR", scores[1:], as_json=False)
    assert capsys.readouterr().out == "y  30.0000\nmean PSNR of 1 images: 30.0000\n"
