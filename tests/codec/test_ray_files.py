# SPDX-License-Identifier: Apache-2.0
import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from PIL import Image
from tiny_codec import save_tiny_codec

from genaccel.codec.batch.ray_files import FileCoder, find_jobs
from genaccel.codec.image_codec import ImageCodec


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory):
    return str(save_tiny_codec(tmp_path_factory.mktemp("models") / "tiny"))


@pytest.fixture
def photographs(tmp_path):
    def write(count, side=24):
        for i in range(count):
            pixels = np.random.default_rng(i).integers(0, 256, (side, side, 3), np.uint8)
            path = tmp_path / "in" / str(i % 3) / f"{i:03}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(path)
        return tmp_path / "in"

    return write


def columns(jobs):
    return {key: [job[key] for job in jobs] for key in ("source", "target")}


def hidden(folder):
    return [path.name for path in folder.rglob(".*")]


def test_files_are_coded_once_and_failures_are_rows(photographs, model_folder, tmp_path):
    folder = photographs(3)
    (folder / "bad.png").write_text("no image")
    jobs = find_jobs("encode", folder, tmp_path / "out")
    coder = FileCoder("encode", model=model_folder, run="now")
    first = coder(columns(jobs))
    assert first["status"] == ["done", "done", "done", "failed"]
    assert first["error"][3].startswith("BitstreamError: ")
    assert first["num_bytes"][0] == (tmp_path / "out/0/000.gac").stat().st_size
    times = [path.stat().st_mtime_ns for path in sorted((tmp_path / "out").rglob("*.gac"))]
    assert coder(columns(jobs))["status"] == ["there", "there", "there", "failed"]
    assert times == [path.stat().st_mtime_ns for path in sorted((tmp_path / "out").rglob("*.gac"))]
    assert hidden(tmp_path / "out") == []

    back = find_jobs("decode", tmp_path / "out", tmp_path / "back")
    assert (
        FileCoder("decode", model=model_folder, run="now")(columns(back))["status"] == ["done"] * 3
    )
    with Image.open(tmp_path / "back/1/001.png") as image:
        codec = ImageCodec.from_pretrained(model_folder)
        expected = codec.decode((tmp_path / "out/1/001.gac").read_bytes())
        assert np.array_equal(np.asarray(image), expected)


def test_a_file_on_which_two_workers_died_is_given_up_for_this_run(
    photographs, model_folder, tmp_path
):
    jobs = find_jobs("encode", photographs(2), tmp_path / "out")
    target = tmp_path / "out/0/000.gac"
    target.parent.mkdir(parents=True)
    tries = target.with_name(".000.gac.tries")
    coder = FileCoder("encode", model=model_folder, run="now")

    tries.write_text("now 4000001\nnow 4000002\n")
    half = target.with_name(".000.gac.4000002.abc.partial")
    half.touch()
    for other in ("done", "there"):  # also where Ray repeats the batch
        found = coder(columns(jobs))
        assert found["status"] == ["failed", other]
        assert found["error"][0] == "2 worker processes died on it"
    assert not half.exists()

    half.touch()
    again = FileCoder("encode", model=model_folder, run="next")
    assert again(columns(jobs))["status"] == ["done", "there"]
    assert hidden(tmp_path / "out") == []


def test_one_death_is_forgiven_and_a_note_beside_a_result_is_removed(
    photographs, model_folder, tmp_path
):
    jobs = find_jobs("encode", photographs(1), tmp_path / "out")
    tries = tmp_path / "out/0/.000.gac.tries"
    tries.parent.mkdir(parents=True)
    coder = FileCoder("encode", model=model_folder, run="now")
    tries.write_text("now 4000001\nbefore 4000002\n")
    assert coder(columns(jobs))["status"] == ["done"]
    tries.write_text("now 4000001\n")
    assert coder(columns(jobs))["status"] == ["there"]
    assert hidden(tmp_path / "out") == []


def test_jobs_keep_the_folders_and_refuse_two_of_one_name(photographs, tmp_path):
    folder = photographs(4)
    jobs = find_jobs("encode", folder, tmp_path / "out")
    assert jobs[1] == {
        "source": str(folder / "0/003.png"),
        "target": str(tmp_path / "out/0/003.gac"),
    }
    (folder / "0/003.jpg").touch()
    with pytest.raises(ValueError, match="both become"):
        find_jobs("encode", folder, tmp_path / "out")


@pytest.mark.slow
def test_on_ray_a_killed_worker_loses_nothing(photographs, model_folder, tmp_path):
    pytest.importorskip("ray")
    folder, out = photographs(40, side=1024), tmp_path / "out"
    command = [sys.executable, "-m", "genaccel.codec.batch.ray_files", "encode", folder, out]
    command += ["--workers", 2, "--model", model_folder, "--log", tmp_path / "log.jsonl"]
    command = [str(part) for part in command]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}

    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
    victim = None
    deadline = time.monotonic() + 1200  # two cores that are busy take minutes to start Ray
    while victim is None and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
        done = sum(1 for _ in out.rglob("*.gac"))
        for note in out.rglob(".*.tries") if done >= 5 else ():
            try:
                victim = int(note.read_text().split()[-1])
                os.kill(victim, signal.SIGKILL)
                break
            except (FileNotFoundError, IndexError, ProcessLookupError):
                victim = None  # that file is done
    output, _ = process.communicate(timeout=1200)
    assert victim is not None
    assert process.returncode == 0
    rows = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert sorted(row["source"] for row in rows) == sorted(map(str, folder.rglob("*.png")))
    assert "0 failed" in output
    files = {path: path.stat().st_mtime_ns for path in out.rglob("*.gac")}
    assert len(files) == 40
    assert hidden(out) == []

    again = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
    assert "0 done, 40 there, 0 failed" in again.stdout
    assert files == {path: path.stat().st_mtime_ns for path in out.rglob("*.gac")}
