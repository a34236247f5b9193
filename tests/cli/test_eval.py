# SPDX-License-Identifier: Apache-2.0
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from genaccel.cli import app
from genaccel.cli.eval import SUBCOMMANDS
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
    assert report["kind"] == "paired"
    assert report["metric"]["key"].startswith(metric.replace("-", "_"))
    assert low < report["images"]["chelsea"] < high
    assert report["mean"] == report["images"]["chelsea"]


def test_tables_for_people_and_for_programs(folders: list[str]) -> None:
    table = CliRunner().invoke(app, ["eval", "psnr", *folders])
    assert table.exit_code == 0
    assert "PSNR dB" in table.stdout
    assert "chelsea" in table.stdout
    csv = CliRunner().invoke(app, ["eval", "psnr", *folders, "--csv"])
    header, line, mean = csv.stdout.splitlines()
    assert header == "image,psnr"
    assert line.split(",")[0] == "chelsea"
    assert line.split(",")[1] == mean.split(",")[1]


def test_help_lists_every_command_and_each_has_its_own() -> None:
    listed = CliRunner().invoke(app, ["eval", "--help"]).stdout
    for row in SUBCOMMANDS:
        assert row.name in listed
        result = CliRunner().invoke(app, ["eval", row.name, "--help"])
        assert result.exit_code == 0, result.output
        assert "Usage: " in result.stdout


def test_files_that_cannot_be_used_change_the_exit_code(folders: list[str], tmp_path: Path) -> None:
    for name, folder in zip("ab", folders, strict=True):
        shutil.copytree(folder, tmp_path / name)
        Image.new("RGB", (9, 9)).save(tmp_path / name / "cut.png")
    (tmp_path / "b" / "cut.png").write_bytes(b"\x89PNG")
    arguments = ["eval", "psnr", str(tmp_path / "a"), str(tmp_path / "b"), "--json"]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 6
    assert list(json.loads(result.stdout)["skipped"]) == ["cut"]
    assert "1 left out: cut: " in result.stderr
    result = CliRunner().invoke(app, [*arguments, "--strict"])
    assert result.exit_code == 2
    assert result.stdout == ""


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
