# SPDX-License-Identifier: Apache-2.0
import pytest
from PIL import Image


@pytest.fixture
def accelerate(run, pipeline_folder, tmp_path):
    def invoke(*options):
        common = ["--out", tmp_path / "new" / "sheet.png", "--steps", 8, "--no-lpips"]
        return run("accelerate", pipeline_folder, "--class-labels", "1,2", *common, *options)

    return invoke


def test_samples_times_and_reports_are_shown(accelerate, tmp_path):
    result = accelerate("--speedup", 1.5, "--speedup", 2, "--generations", 2, "--rounds", 2)
    assert result.exit_code == 0, result.output
    words = result.stdout
    for part in ("plain, 8 steps", "speed-up 1.5", "speed-up 2", "schedule", "PSNR"):
        assert part in words
    # Each speed-up has the plain pipeline in the same time below it.
    lines = [
        line.split() for line in words.splitlines() if " steps " in line and "plain" not in line
    ]
    assert sum(line[1:2] == ["steps"] and line[0].isdigit() for line in lines) == 2
    assert "…" not in words
    with Image.open(tmp_path / "new" / "sheet.png") as sheet:
        assert sheet.width > sheet.height / 5
    assert "wrote" in words


def test_out_of_reach_gets_the_best_plan_and_is_one_sentence(accelerate, tmp_path):
    result = accelerate("--speedup", 20)
    assert result.exit_code == 0, result.output
    assert "20x is out of reach here: this is the best plan below it" in result.stdout
    assert (tmp_path / "new" / "sheet.png").is_file()
