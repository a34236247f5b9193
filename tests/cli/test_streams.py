# SPDX-License-Identifier: Apache-2.0
"""Standard streams that are closed, and signals that end the program."""

import os
import signal
import subprocess
import sys
import time

import pytest

from genaccel.cli.streams import shown, standard_input, standard_output


def start(arguments, folder, closed=(), **options):
    def close():
        for descriptor in closed:
            os.close(descriptor)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)

    return subprocess.Popen(
        [sys.executable, "-m", "genaccel.cli", *map(str, arguments)],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)},
        preexec_fn=close,
        **options,
    )


def test_streams_that_are_closed_are_said(monkeypatch):
    monkeypatch.setattr(sys, "stdin", None)
    monkeypatch.setattr(sys, "stdout", None)
    with pytest.raises(OSError, match="standard input is closed"):
        standard_input()
    with pytest.raises(OSError, match="standard output is closed"):
        standard_output()


def test_without_any_stream_files_are_made_and_hold_nothing_else(photo, model_folder, tmp_path):
    arguments = ["encode", photo("a.png"), "a.gac", "--model", model_folder]
    assert start(arguments, tmp_path, closed=(0, 1, 2)).wait(120) == 0
    with start(["encode", "-", "b.gac"], tmp_path, closed=(0,), stderr=subprocess.PIPE) as none:
        assert none.communicate(timeout=120)[1] == b"error: standard input is closed\n"
    assert none.returncode == 1
    assert (tmp_path / "a.gac").read_bytes()[1:4] == b"GAC"
    assert sorted(os.listdir(tmp_path)) == ["a.gac", "a.png"]


def test_termination_is_143_and_leaves_no_half_file(tmp_path):
    code = (
        "import os, sys, time\n"
        "from pathlib import Path\n"
        "from genaccel.cli.streams import set_up_process\n"
        "from genaccel.files.atomic import write_atomically\n"
        "set_up_process()\n"
        "os.fsync = lambda _: time.sleep(60)\n"
        "write_atomically(Path('a.gac'), b'half')\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        preexec_fn=lambda: signal.signal(signal.SIGTERM, signal.SIG_DFL),
    ) as process:
        deadline = time.monotonic() + 60
        while not list(tmp_path.glob(".a.gac.*.partial")):
            assert time.monotonic() < deadline
            time.sleep(0.02)
        process.terminate()
    assert process.returncode == 128 + signal.SIGTERM
    assert os.listdir(tmp_path) == []


def test_names_are_shown_in_one_line():
    assert shown("größe 😀.png") == "größe 😀.png"
    assert shown("a\nb\r\x1b[31m\x9b\u2028.png") == r"a\nb\r\x1b[31m\x9b\u2028.png"
