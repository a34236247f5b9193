# SPDX-License-Identifier: Apache-2.0
import json
from pathlib import Path

import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from genaccel.cli import app
from genaccel.models.autoencoder import PRESETS, Autoencoder


@pytest.mark.slow
def test_the_demo_prints_figures_and_draws_a_sheet(tmp_path: Path) -> None:
    torch.manual_seed(0)
    Autoencoder(PRESETS["small"]).save_pretrained(tmp_path / "model")
    out, figures = tmp_path / "new" / "demo.png", tmp_path / "demo.json"
    command = [
        "demo",
        "--out",
        str(out),
        "--model",
        str(tmp_path / "model"),
        "--figures",
        str(figures),
    ]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0, result.output
    report = json.loads(figures.read_text())
    assert len(report["measurements"]) == 7 * 4
    ours = report["means"][0]
    assert f"{ours['bits_per_pixel']:.3f}" in result.stdout
    for name in (
        "astronaut",
        "chelsea",
        "china",
        "coffee",
        "flower",
        "motorcycle",
        "rocket",
        "mean",
    ):
        assert name in result.stdout
    # A table that does not fit would be cut with an ellipsis.
    assert "…" not in result.stdout
    with Image.open(out) as sheet:
        assert sheet.width == 5 * (384 + 8) + 8


def test_an_unknown_model_is_named(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["demo", "--model", "no-such-model"])
    assert result.exit_code == 4
    assert "no-such-model" in result.stderr
