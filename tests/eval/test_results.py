# SPDX-License-Identifier: Apache-2.0
import json
import math
import re
import subprocess
from pathlib import Path

import pytest

import genaccel
from genaccel.eval.metrics import Metric
from genaccel.eval.results import RECORD_VERSION, record, source_commit, to_json

METRIC = Metric(key="psnr", title="PSNR", unit="dB", higher_is_better=True)


def test_a_record_says_how_it_was_made() -> None:
    found = record(
        "paired", label="mine", settings={"a": 1}, packages=["numpy", "no-such"], mean=1.5
    )
    assert found["genaccel_eval"] == RECORD_VERSION
    assert (found["kind"], found["label"], found["settings"]) == ("paired", "mine", {"a": 1})
    assert found["mean"] == 1.5
    environment = found["environment"]
    assert environment["genaccel"] == genaccel.__version__
    assert environment["no-such"] == "missing"
    assert environment["numpy"][0].isdigit()
    assert {"date", "processor", "python", "torch"} <= environment.keys()


def test_a_record_says_what_to_type_to_repeat_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["/somewhere/bin/genaccel", "eval", "psnr", "a b", "c"])
    assert record("paired")["command"] == "genaccel eval psnr 'a b' c"
    monkeypatch.setattr("sys.argv", [""])
    assert record("paired")["command"] == ""


def test_the_commit_is_that_of_the_checkout_that_holds_genaccel(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def git(*arguments: str) -> None:
        identity = ["-c", "user.name=x", "-c", "user.email=x@example.org"]
        subprocess.run(
            ["git", *identity, *arguments], cwd=tmp_path, check=True, capture_output=True
        )

    package = tmp_path / "genaccel" / "__init__.py"
    package.parent.mkdir()
    package.write_text("")
    monkeypatch.setattr(genaccel, "__file__", str(package))
    assert source_commit() == "unknown"
    git("init")
    git("commit", "--allow-empty", "-m", "somebody else's")
    # Not tracked: an installed package in somebody's project.
    assert source_commit() == "unknown"
    git("add", ".")
    git("commit", "-m", "ours")
    assert re.fullmatch("[0-9a-f]{10}", source_commit())
    package.write_text("changed")
    assert re.fullmatch(r"[0-9a-f]{10}\+", source_commit())
    assert re.fullmatch("[0-9a-f]{10}", source_commit(["csrc"]))


def test_infinities_are_texts_in_json() -> None:
    text = to_json({"a": math.inf, "b": [1.0, math.nan], "c": {"d": -math.inf, "e": "x"}})
    assert json.loads(text) == {
        "a": "Infinity",
        "b": [1.0, None],
        "c": {"d": "-Infinity", "e": "x"},
    }


def test_metrics_are_described() -> None:
    assert METRIC.to_dict() == {
        "key": "psnr",
        "title": "PSNR",
        "higher_is_better": True,
        "unit": "dB",
    }
