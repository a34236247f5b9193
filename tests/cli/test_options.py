# SPDX-License-Identifier: Apache-2.0
"""Numbers, devices and sizes that no option takes."""

import pytest
import torch
import typer

from genaccel.cli import options
from genaccel.cli.encode import parse_bytes
from genaccel.codec.format.bitstream import _MAX_PIXELS_PER_BYTE
from genaccel.codec.format.limits import FORMAT_VERSIONS
from genaccel.sampling.device_option import checked_device

NO_DEVICES = (
    "",
    "banana",
    "CPU",
    "cpu:0",
    "cuda:",
    "cuda:-1",
    "cuda:1000",
    "cuda:\u0661",
    "meta",
    "mps",
)
HUGE = "9" * 400


@pytest.mark.parametrize(
    "command",
    [
        ["encode", "a.png"],
        ["decode", "a.gac"],
        ["demo"],
        ["accelerate", "landscapes-dit"],
        ["calibrate", "landscapes-dit", "--out", "out"],
        ["tune", "landscapes-dit", "--out", "out"],
        ["doctor", "landscapes-dit"],
        ["eval", "fid", "a", "b"],
        ["eval", "lpips", "a", "b"],
    ],
    ids=lambda command: " ".join(command[:2]),
)
def test_no_command_takes_a_device_that_is_none(run, command, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for device in ("banana", "meta", "cuda"):
        result = run(*command, "--device", device)
        assert result.exit_code == 2, result.output
        assert "--device" in result.stderr


def test_devices_that_are_here(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    for device in ("cpu", "cuda", "cuda:0", "cuda:1"):
        assert checked_device(device) == device
    with pytest.raises(typer.BadParameter, match="has cuda:0 to cuda:1 only"):
        checked_device("cuda:2")
    for device in NO_DEVICES:
        with pytest.raises(typer.BadParameter, match="must be cpu, cuda"):
            checked_device(device)


@pytest.mark.parametrize(
    ("option", "values"),
    [
        ("--rdo", ("1e300", "nan", "inf", "-1", "1e7", "much")),
        ("--bpp", ("nan", "inf", "-1", "0")),
        ("--target-size", (HUGE, HUGE + "M", "-1", "nan", "0", "")),
        ("--refine", ("-1", "10001", HUGE, "1.5")),
        ("--slices", ("0", "-1", "many")),
        ("--threads", ("0", "-1", "1025", "100000", HUGE)),
        ("--jobs", ("0", "-1", "257", "100000", HUGE)),
        ("--max-memory", ("0", "-1")),
        ("--max-pixels", ("0", "-1", HUGE)),
        ("--background", ("", "no-colour", "#ffffff00")),
    ],
)
def test_numbers_out_of_range_are_wrong_usage(run, photo, model_folder, option, values):
    photo("a.png")
    for value in values:
        result = run("encode", "a.png", option, value, "--model", model_folder)
        assert result.exit_code == 2, (value, result.output)


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("--guidance", "nan"),
        ("--guidance", "inf"),
        ("--seed", HUGE),
        ("--steps", HUGE),
        ("--steps", "0"),
        ("--batch-size", "9999999999999"),
        ("--generations", "9999999999999"),
        ("--speedup", "nan"),
        ("--speedup", "inf"),
    ],
)
def test_numbers_of_pipelines_out_of_range_are_wrong_usage(run, option, value):
    assert run("accelerate", "landscapes-dit", option, value).exit_code == 2


def test_results_of_pipelines_that_cannot_be_written_are_said_before_the_work(run, tmp_path):
    (tmp_path / "file").touch()
    for command in ("accelerate", "calibrate", "tune"):
        result = run(command, "no-such-model", "--out", "file/sub")
        assert result.exit_code == 1
        assert "file is no folder, and file/sub would lie in it" in result.stderr
    result = run("accelerate", "no-such-model", "--out", tmp_path)
    assert (result.exit_code, "is a folder" in result.stderr) == (1, True)
    result = run("demo", "--figures", "file/sub")
    assert (result.exit_code, "file is no folder" in result.stderr) == (1, True)


def test_processes_are_no_more_than_files_and_twice_the_cores(monkeypatch, capsys):
    monkeypatch.setattr(options, "cores", lambda: 3)
    assert [options.workers_for(jobs, 10) for jobs in (1, 6, 7, 256)] == [1, 6, 6, 6]
    assert "note: --jobs 256 on 3 cores: 6 processes" in capsys.readouterr().err
    assert [options.workers_for(8, files) for files in (0, 1, 2)] == [1, 1, 2]
    monkeypatch.setattr(options, "cores", lambda: 1)
    assert options.workers_for(4, 10) == 4


def test_limits_say_where_they_are_from():
    assert (
        options.limits_here(5, 1, {"max_pixels": 7}).memory_in_words
        == "5 MiB (as --max-memory says)"
    )
    assert "--max-memory" not in options.limits_here(None, 1, {"max_pixels": 7}).memory_in_words


def test_sizes_that_no_file_has():
    assert parse_bytes("9" * 15) == int("9" * 15)
    with pytest.raises(ValueError, match="no file"):
        parse_bytes(HUGE)


def test_the_version_tells_the_versions_of_the_format(run):
    assert tuple(_MAX_PIXELS_PER_BYTE) == FORMAT_VERSIONS
    assert run("--version").stdout.endswith(".gac format versions 1 and 2\n")
