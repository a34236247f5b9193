# SPDX-License-Identifier: Apache-2.0
import math
import sys
from pathlib import Path
from typing import Any

import pytest

from genaccel.eval._page.run_files import Run, read_run
from genaccel.eval._page.subjects import badness, distinct, subjects_of, with_distinct_names

sys.path.insert(0, str(Path(__file__).parents[1]))
from report_runs import LPIPS, PSNR, paired_run, write_run

SSIM = {"key": "ssim", "title": "SSIM", "unit": "", "higher_is_better": True}


def _read(folder: Path, name: str, **changes: Any) -> Run:
    folder.mkdir(exist_ok=True)
    return read_run(write_run(folder, name, paired_run(**changes)))


@pytest.mark.parametrize(
    ("names", "folders", "expected"),
    [
        (["a", "b"], None, ["a", "b"]),
        (["a", "a", "b"], ["x", "y", "x"], ["a (x)", "a (y)", "b"]),
        (["a", "a", "a"], ["x", "x", "y"], ["a (1)", "a (2)", "a (3)"]),
        # A number that somebody gave is not given twice.
        (["a", "a", "a (1)"], None, ["a (2)", "a (3)", "a (1)"]),
        ([], None, []),
    ],
)
def test_equal_names_are_told_apart(
    names: list[str], folders: list[str] | None, expected: list[str]
) -> None:
    found = distinct(names, folders)
    assert found == expected
    assert len(set(found)) == len(found)


def test_metrics_of_the_same_pairs_are_one_subject(tmp_path: Path) -> None:
    sets = ["orig", "out/jpeg"]
    runs = [
        _read(tmp_path, "psnr.json", label="", sets=sets),
        _read(tmp_path, "ssim.json", label="", sets=sets, metric=SSIM),
        _read(tmp_path, "other.json", label="", sets=["orig", "out/webp"]),
    ]
    first, second = subjects_of(runs)
    assert (first.name, list(first.metrics)) == ("jpeg", ["psnr", "ssim"])
    assert (second.name, list(second.metrics)) == ("other", ["psnr"])


def test_a_label_joins_records_without_folders_unless_they_share_no_image(tmp_path: Path) -> None:
    runs = [
        _read(tmp_path, "psnr.json", label="mine"),
        _read(tmp_path, "ssim.json", label="mine", metric=SSIM),
        _read(tmp_path, "lpips.json", label="mine", metric=LPIPS, images={"elsewhere": 1.0}),
    ]
    subjects = subjects_of(runs)
    assert [list(subject.metrics) for subject in subjects] == [["psnr", "ssim"], ["lpips_vgg"]]
    assert [subject.name for subject in subjects] == ["mine (1)", "mine (2)"]


def test_runs_with_one_label_get_their_folders_or_numbers(tmp_path: Path) -> None:
    a = _read(tmp_path / "a", "run.json", label="mine")
    b = _read(tmp_path / "b", "run.json", label="mine")
    assert [subject.name for subject in subjects_of([a, b])] == ["mine (a)", "mine (b)"]
    assert [run.name for run in with_distinct_names([a, b])] == ["mine (a)", "mine (b)"]
    assert [subject.name for subject in subjects_of([a, a])] == ["mine (1)", "mine (2)"]
    # Two metrics may have one name.
    c = _read(tmp_path / "c", "run.json", label="mine", metric=SSIM)
    assert [run.name for run in with_distinct_names([a, c])] == ["mine", "mine"]


@pytest.mark.parametrize(
    ("higher_is_better", "order"),
    [
        (True, [-math.inf, 1.0, 2.0, math.inf, None]),
        (False, [math.inf, 2.0, 1.0, -math.inf, None]),
        (None, [2.0, -math.inf, math.inf, 1.0, None]),
    ],
)
def test_the_worst_is_first_and_what_is_missing_last(
    higher_is_better: bool | None, order: list[float | None]
) -> None:
    metric = {**PSNR, "higher_is_better": higher_is_better}
    values = [2.0, None, -math.inf, math.inf, 1.0]
    assert sorted(values, key=lambda value: badness(value, metric)) == order
