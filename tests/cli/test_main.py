# SPDX-License-Identifier: Apache-2.0
import importlib
import json
import subprocess
import sys
from pathlib import Path

import pytest
import typer

import genaccel
from genaccel.cli import SUBCOMMANDS
from genaccel.cli.exit_codes import ExitCode, exit_code
from genaccel.cli.lazy_group import load
from genaccel.errors import BitstreamError, LimitExceededError, UnknownModelError

PIPELINE_COMMANDS = ("accelerate", "calibrate", "tune", "doctor")
_HEAVY = ("torch", "numpy", "PIL", "diffusers")
# Runs commands one after the other, in a process of its own, and says what each was the first to import.
_RUN = f"""
import json, sys
from genaccel.cli import app
found = {{}}
for arguments in json.loads(sys.argv[1]):
    try:
        app(arguments, prog_name="genaccel")
    except SystemExit as done:
        assert not done.code, arguments
    found[" ".join(arguments)] = sorted(set({_HEAVY}) & set(sys.modules))
print(json.dumps(found), file=sys.stderr)
"""


def imported_by(*commands):
    """What is in sys.modules of the heavy ones after each command, and their standard output."""
    done = subprocess.run(
        [sys.executable, "-c", _RUN, json.dumps(commands)],
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    return json.loads(done.stderr), done.stdout


def commands_of(row):
    """A command, and what it is a group of; the commands of ``eval`` bring the libraries of their metrics."""
    names = load(row).commands if row.is_group and row.name != "eval" else ()
    return [[row.name], *([row.name, name] for name in names)]


@pytest.mark.parametrize("row", SUBCOMMANDS, ids=lambda row: row.name)
def test_every_row_of_the_table_has_its_module_and_help(row, run):
    assert isinstance(importlib.import_module(row.module).app, typer.Typer)
    result = run(row.name, "--help")
    assert result.exit_code == 0, result.output
    assert f"genaccel {row.name}" in result.stdout or f"root {row.name}" in result.stdout


def test_help_lists_all_subcommands():
    _, shown = imported_by(["--help"])
    for row in SUBCOMMANDS:
        assert row.name in shown


def test_nothing_heavy_is_imported_to_show_help_a_version_or_a_header():
    # The options of a recipe are made of its configurations, which stand beside what needs torch.
    light = [command for row in SUBCOMMANDS for command in commands_of(row)]
    light = [command for command in light if command[0] != "train" or len(command) == 1]
    helps = [[*command, "--help"] for command in light]
    file = next(Path(__file__).parents[1].glob("golden/gac/*.gac"))
    commands = [["--version"], ["--help"], ["info", str(file)], ["zoo", "list"], *helps]
    found, _ = imported_by(*commands)
    assert len(found) == len(commands) > 20
    assert {name: heavy for name, heavy in found.items() if heavy} == {}


@pytest.mark.parametrize("row", SUBCOMMANDS, ids=lambda row: row.name)
def test_subcommands_have_no_options_of_shell_completion(row, run):
    assert "completion" not in run(row.name, "--help").stdout


@pytest.mark.parametrize(
    ("command", "former", "name"),
    [
        *((command, "--arguments", "--pipeline-arguments") for command in PIPELINE_COMMANDS),
        ("tune", "--speedups", "--speedup"),
        ("demo", "--json", "--figures"),
    ],
)
def test_former_names_of_options_are_understood_and_not_shown(command, former, name, run):
    words = run(command, "--help").stdout.split()
    assert name in words
    assert former not in words
    # An argument that is missing comes behind an option that is not known.
    assert "No such option" not in run(command, former, "x", "--device").stderr


@pytest.mark.parametrize("command", sorted(set(PIPELINE_COMMANDS) - {"doctor"}))
def test_speedups_are_given_in_one_way(command, run, tmp_path):
    for given in (["--speedup", "fast"], ["--speedup", "3", "--speedup", "1"]):
        out = [] if command == "accelerate" else ["--out", str(tmp_path)]
        result = run(command, "landscapes-dit", *out, *given)
        assert result.exit_code == 2
        assert "--speedup must be" in result.stderr


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
    assert "photo-codec-high" in run("zoo", "list").stdout
    result = run("zoo", "card", "no-such-model")
    assert result.exit_code == 4
    assert "photo-codec-high" in result.stderr
