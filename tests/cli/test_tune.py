# SPDX-License-Identifier: Apache-2.0
import json
import sys

import pytest
from PIL import Image

from genaccel.models.st_lpips import StLpips
from genaccel.sensitivity.plans.plan_library import PlanLibrary
from genaccel.sensitivity.study import tune as tune_module


@pytest.fixture
def tune(run, pipeline_folder, tmp_path, monkeypatch):
    """Two candidates are enough."""
    monkeypatch.setattr(tune_module, "CANDIDATES", tune_module.CANDIDATES[:2])

    def invoke(*options):
        common = ["--out", tmp_path / "plans", "--steps", 8, "--generations", 1, "--refine", 1]
        return run("tune", pipeline_folder, *common, *options)

    return invoke


def test_plans_beside_fewer_steps_in_a_table_and_a_plot(tune, tmp_path):
    result = tune("--class-labels", 1, "--speedup", 1.5, "--speedup", 2)
    assert result.exit_code == 0, result.output
    out = tmp_path / "plans"
    library = PlanLibrary(out)
    table = json.loads((out / "pareto.json").read_text())
    assert table["steps"] == 8
    for entry, row in zip(library.entries, table["plans"], strict=True):
        assert row["psnr"] == entry.psnr
        assert row["fewer_steps"]["steps"] == min(8, max(1, round(8 / entry.speedup)))
        assert f"{entry.psnr:.2f}" in result.stdout
        assert f"{entry.speedup:.2f}x" in result.stdout
        assert f"{row['fewer_steps']['psnr']:.2f}" in result.stdout
        if "pip install" not in result.stderr:
            assert f"{entry.st_lpips:.4f}" in result.stdout
    with Image.open(out / "pareto.png") as plot:
        assert plot.size[0] >= 600
    again = tune("--class-labels", 1, "--speedups", "2", "--no-lpips", "--no-plot")
    assert again.exit_code == 0, again.output
    assert "speedup-1.5" not in again.stdout
    assert PlanLibrary(out).entries == library.entries


def test_missing_weights_leave_the_column_out_unless_it_was_asked_for(tune, monkeypatch):
    def missing(net):
        raise FileNotFoundError("run `pip install weights`")

    monkeypatch.setattr(StLpips, "from_pretrained", missing)
    options = ["--class-labels", 1, "--speedup", "2", "--no-plot"]
    result = tune(*options, "--lpips")
    assert result.exit_code == 2
    assert "pip install weights" in result.stderr
    result = tune(*options)
    assert result.exit_code == 0, result.output
    assert "without the ST-LPIPS column: run `pip install weights`" in result.stderr
    assert "ST-LPIPS" not in result.stdout


def test_a_missing_matplotlib_is_told_before_the_trials(tune, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    for name in [n for n in sys.modules if n.startswith(("matplotlib.", "genaccel.cli.pareto"))]:
        monkeypatch.delitem(sys.modules, name)
    result = tune("--class-labels", 1)
    assert result.exit_code == 2
    message = " ".join(result.stderr.replace("│", " ").split())
    assert "the plot needs matplotlib: pip install 'genaccel[eval]'" in message
    assert not (tmp_path / "plans").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--speedup", "fast"], "--speedup must be numbers such as 1.5,2,3, got 'fast'"),
        (["--speedups", "2,1"], "--speedup must be above 1, got 1"),
        ([], "name some with --class-labels"),
        (["--class-labels", 1, "--speedup", "50"], "a speed-up of 50 is out of reach"),
    ],
)
def test_wrong_usage_is_told(tune, options, message):
    result = tune("--no-lpips", *options)
    assert result.exit_code == 2
    assert message in " ".join(result.stderr.replace("│", " ").split())
