# SPDX-License-Identifier: Apache-2.0
"""``encode`` and ``decode`` with several worker processes."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from genaccel.cli import options
from genaccel.cli.options import threads_of_each

MANY = 24


def files_below(folder):
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def wait_for(condition):
    deadline = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def workers_of(process):
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    return [
        int(child)
        for child in children
        if b"spawn_main" in Path(f"/proc/{child}/cmdline").read_bytes()
    ]


def test_threads_are_shared(monkeypatch):
    assert threads_of_each(None, 1) is None
    monkeypatch.setattr(options, "cores", lambda: 8)
    assert threads_of_each(100, 1) == 8
    assert threads_of_each(3, 1) == 3
    assert threads_of_each(8, 3) == 2
    assert threads_of_each(2, 8) == 1
    assert threads_of_each(None, 1000) == 1


def test_a_batch_in_two_processes_is_the_batch_in_one(run, photo, model_folder, tmp_path):
    for seed in range(4):
        photo(f"in/{seed}.png", seed=seed)
    (tmp_path / "in/bad.png").write_text("no image")
    arguments = ["encode", "in", "--json", "--model", model_folder]
    assert run(*arguments, "--out-dir", "alone").exit_code == 6
    (tmp_path / "shared").mkdir()
    (tmp_path / "shared/0.gac").write_bytes(b"old")
    shared = run(*arguments, "--out-dir", "shared", "--jobs", 2)
    assert shared.exit_code == 6
    assert "error: in/bad.png: " in shared.stderr
    assert "2 of 5 files failed" in shared.stderr
    reports = {report["input"]: report for report in map(json.loads, shared.stdout.splitlines())}
    assert len(reports) == 5
    assert reports["in/bad.png"]["exit_code"] == 3
    assert "--force overwrites it" in reports["in/0.png"]["error"]
    assert reports["in/1.png"]["status"] == "ok"
    alone = files_below(tmp_path / "alone")
    assert len(alone) == 4
    assert files_below(tmp_path / "shared") == {**alone, "0.gac": b"old"}

    model = ["--model", model_folder]
    assert run("decode", "alone", "--out-dir", "a", *model).exit_code == 0
    assert run("decode", "alone", "--out-dir", "b", "-j", 2, *model).exit_code == 0
    assert files_below(tmp_path / "a") == files_below(tmp_path / "b")


def test_what_is_there_can_be_left_out(run, photo, model_folder, tmp_path):
    for seed in range(3):
        photo(f"in/{seed}.png", seed=seed)
    arguments = ["encode", "in", "--out-dir", "out", "--model", model_folder]
    (tmp_path / "out").mkdir()
    (tmp_path / "out/1.gac").write_bytes(b"old")
    result = run(*arguments, "--skip-existing", "--json")
    assert result.exit_code == 0
    assert "1 of 3 files are there already" in result.stderr
    inputs = [json.loads(line)["input"] for line in result.stdout.splitlines()]
    assert inputs == ["in/0.png", "in/2.png"]
    assert (tmp_path / "out/1.gac").read_bytes() == b"old"
    nothing = run(*arguments, "--skip-existing", "--jobs", 2)
    assert (nothing.exit_code, nothing.stdout) == (0, "")
    assert run(*arguments, "--skip-existing", "--force").exit_code == 2
    decode = ["decode", "out/0.gac", "--model", model_folder, "--skip-existing"]
    assert run(*decode).exit_code == 0
    assert run(*decode, "--force").exit_code == 2
    assert (run(*decode).stdout, run(*decode[:-1]).exit_code) == ("", 1)


def test_a_killed_worker_and_an_interruption_lose_nothing(photo, model_folder, tmp_path, run):
    for seed in range(MANY):
        photo(f"in/{seed:02}.png", height=512, width=512, seed=seed)
    command = [sys.executable, "-m", "genaccel.cli", "encode", "in", "--out-dir", "out"]
    command += ["--model", str(model_folder)]
    process = subprocess.Popen(
        [*command, "--jobs", "2"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)},
        start_new_session=True,
        # A shell's background jobs ignore interrupts, and so would everything that they start.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    out = tmp_path / "out"
    try:
        wait_for(lambda: out.is_dir() and list(out.glob("*.gac")))
        victim, other = workers_of(process)
        os.kill(victim, signal.SIGKILL)
        wait_for(lambda: set(workers_of(process)) - {victim, other})
        done = len(list(out.glob("*.gac")))
        wait_for(lambda: len(list(out.glob("*.gac"))) > done)
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does
        _, stderr = process.communicate(timeout=120)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 130, stderr
    assert stderr.decode().splitlines() == ["interrupted"]
    left = files_below(out)
    assert 0 < len(left) < MANY
    assert all(name.endswith(".gac") for name in left)

    resumed = run(*command[3:], "--skip-existing")
    assert resumed.exit_code == 0, resumed.stderr
    assert f"{len(left)} of {MANY} files are there already" in resumed.stderr
    whole = run("encode", "in", "--out-dir", "whole", "--model", model_folder)
    assert whole.exit_code == 0
    assert files_below(out) == files_below(tmp_path / "whole")
