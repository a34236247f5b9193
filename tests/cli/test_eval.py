# SPDX-License-Identifier: Apache-2.0
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from genaccel.cli import app
from genaccel.eval.held_out import held_out_photographs
from genaccel.eval.psnr import psnr


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    root = tmp_path_factory.mktemp("folders")
    original = held_out_photographs()["chelsea"][:180, :200]
    for name, image in (("original", original), ("decoded", original // 16 * 16)):
        (root / name).mkdir()
        Image.fromarray(image).save(root / name / "chelsea.png")
    return [str(root / "original"), str(root / "decoded")]


@pytest.mark.parametrize(
    ("metric", "low", "high"), [("psnr", 25, 35), ("ms-ssim", 0.9, 1), ("st-lpips", 0.01, 0.3)]
)
def test_metrics_of_folders(folders: list[str], metric: str, low: float, high: float) -> None:
    result = CliRunner().invoke(app, ["eval", metric, *folders, "--json"])
    if metric == "st-lpips" and "pip install" in result.output:
        pytest.skip("the weights of ST-LPIPS are not installed")
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    assert low < report["images"]["chelsea"] < high
    assert report["mean"] == report["images"]["chelsea"]


def test_a_metric_runs_as_a_module(folders: list[str]) -> None:
    command = [sys.executable, "-m", "genaccel.eval.psnr", *folders, "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    original, decoded = (np.asarray(Image.open(Path(f) / "chelsea.png")) for f in folders)
    assert json.loads(done.stdout)["mean"] == pytest.approx(psnr(original, decoded))


def test_unmatched_files_are_a_usage_error(folders: list[str], tmp_path: Path) -> None:
    Image.new("RGB", (200, 180)).save(tmp_path / "other.png")
    result = CliRunner().invoke(app, ["eval", "psnr", folders[0], str(tmp_path)])
    assert result.exit_code == 2
    assert "other" in result.stderr
    assert "chelsea" in result.stderr
