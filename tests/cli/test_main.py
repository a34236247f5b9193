# SPDX-License-Identifier: Apache-2.0
import importlib
import subprocess
import sys

import pytest
import typer

import genaccel
from genaccel.cli import SUBCOMMANDS
from genaccel.cli.exit_codes import ExitCode, exit_code
from genaccel.errors import BitstreamError, LimitExceededError, UnknownModelError

_HELP = """
import sys
from genaccel.cli import app
try:
    app(["--help"], prog_name="genaccel")
except SystemExit:
    pass
print(sorted({"torch", "numpy", "PIL", "diffusers"} & set(sys.modules)), file=sys.stderr)
"""


@pytest.mark.parametrize("row", SUBCOMMANDS, ids=lambda row: row.name)
def test_every_row_of_the_table_has_its_module_and_help(row, run):
    assert isinstance(importlib.import_module(row.module).app, typer.Typer)
    result = run(row.name, "--help")
    assert result.exit_code == 0, result.output
    assert f"genaccel {row.name}" in result.stdout or f"root {row.name}" in result.stdout


def test_help_lists_all_subcommands_and_imports_nothing_heavy():
    result = subprocess.run(
        [sys.executable, "-c", _HELP], capture_output=True, text=True, check=True, timeout=60
    )
    for row in SUBCOMMANDS:
        assert row.name in result.stdout
    assert result.stderr.strip() == "[]"


def test_version(run):
    result = run("--version")
    assert result.exit_code == 0
    assert genaccel.__version__ in result.stdout


@pytest.mark.parametrize(
    "arguments", [["no-such-command"], ["encode"], ["encode", "--no-such-option"]]
)
def test_wrong_usage_is_2(run, arguments):
    assert run(*arguments).exit_code == 2


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (BitstreamError("x"), 3),
        (UnknownModelError("x"), 4),
        (LimitExceededError("x"), 5),
        (FileNotFoundError("x"), 1),
    ],
)
def test_exit_codes(error, code):
    assert exit_code(error) == code
    assert exit_code(error) in set(ExitCode)


def test_faults_of_the_program_are_not_dressed_up():
    assert exit_code(ZeroDivisionError()) is None


def test_zoo(run):
    assert "photo-codec-small" in run("zoo", "list").stdout
    result = run("zoo", "card", "no-such-model")
    assert result.exit_code == 4
    assert "photo-codec-small" in result.stderr
