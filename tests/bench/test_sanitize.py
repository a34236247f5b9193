# SPDX-License-Identifier: Apache-2.0
"""``bench/sanitize.py`` without its build: what it runs, how it reads the harness, and that a report is one."""

import json
import re
import stat
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2]))
from bench import sanitize

PRESETS = json.loads((sanitize.ROOT / "CMakePresets.json").read_text())["configurePresets"]


def harness(folder, script):
    """A program in place of the harness."""
    path = folder / "harness"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(path.stat().st_mode | stat.S_IEXEC)
    return path


def test_stages_are_those_of_the_harness_and_presets_exist():
    source = (sanitize.ROOT / "tests/native/sanitized/main.cpp").read_text()
    known = set(re.findall(r'\{"(\w+)", \w+_input\}', source))
    full = sanitize.stages(quick=False)
    assert {stage.name for stage in full} == known
    assert {stage.preset for stage in full} == {preset["name"] for preset in PRESETS}
    for name in ("coder", "ops"):
        counts = [stage.count for stage in full if stage.name == name]
        assert min(counts) >= sanitize.INPUTS_WANTED
    assert len({stage.name for stage in sanitize.stages(quick=True)}) == len(known)
    asan = next(
        p["cacheVariables"]["GENACCEL_SANITIZE"] for p in PRESETS if p["name"] == "sanitize"
    )
    assert {"address", "undefined"} <= set(asan.split(","))


def test_counts_and_the_digest_are_read(tmp_path):
    stage = sanitize.Stage(preset="sanitize", name="ops", count=3, vectors=False)
    program = harness(
        tmp_path,
        'echo "count $1 $2 $3: no vectors ($ATEN_CPU_CAPABILITY) 12"; echo "digest 00ff"',
    )
    ended = sanitize.run(program, stage)
    assert ended.counts == [("ops 0 3", "no vectors (default)", 12)]
    assert (ended.digest, ended.report) == ("00ff", "")


@pytest.mark.parametrize(
    ("script", "report"),
    [
        ("echo overflow >&2; exit 1", "overflow"),
        ("kill -FPE $$", "exit code -8"),
        ("echo digest 00ff; exit 3", "exit code 3"),
        ("echo nothing", "exit code 0"),
        ("exec sleep 60", "no end after 1 s"),
    ],
)
def test_any_other_end_is_a_report(tmp_path, monkeypatch, script, report):
    monkeypatch.setattr(sanitize, "TIMEOUT_S", 1)
    stage = sanitize.Stage(preset="sanitize", name="coder", count=1)
    assert sanitize.run(harness(tmp_path, script), stage).report == report
