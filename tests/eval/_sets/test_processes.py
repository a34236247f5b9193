# SPDX-License-Identifier: Apache-2.0
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from genaccel.eval._sets.processes import Processes

MakeFolder = Callable[..., Path]


def test_alone_there_is_one_process() -> None:
    alone = Processes()
    assert alone.is_main
    assert alone.gather("x") == ["x"]


def _run(command: list[object]) -> subprocess.CompletedProcess[str]:
    # One thread, as torchrun gives to each of its processes.
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, *map(str, command)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )


def _launch(*command: object) -> subprocess.CompletedProcess[str]:
    return _run(["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", *command])


def test_two_processes_find_what_one_finds(picture_folder: MakeFolder, tmp_path: Path) -> None:
    folder = picture_folder("shared", 20, seed=0)
    (folder / "broken.png").write_bytes(b"\x89PNG nothing more")
    script = Path(__file__).with_name("distributed_features.py")
    one, two = tmp_path / "one.npz", tmp_path / "two.npz"
    done = _run([script, folder, one, "lenient"])
    assert done.returncode == 0, done.stderr
    done = _launch(script, folder, two, "lenient")
    assert done.returncode == 0, done.stderr
    with np.load(one) as expected, np.load(two) as found:
        np.testing.assert_array_equal(found["features"], expected["features"])
        assert found["features"].shape == (20, 12)
        for name in ("mean", "covariance"):
            np.testing.assert_allclose(found[name], expected[name], rtol=0, atol=1e-13)
        assert found["skipped"].tolist() == [str(folder / "broken.png")]

    # One process meets the broken file; the other must not wait for it for ever.
    done = _launch(script, folder, two, "strict")
    assert done.returncode != 0
    assert "broken.png: " in done.stderr


def test_the_command_reports_once(picture_folder: MakeFolder, inception_weights: Path) -> None:
    real, fake = picture_folder("real", 12, seed=0), picture_folder("fake", 9, seed=1)
    arguments = [real, fake, "--weights", inception_weights, "--dimensions", 64]
    arguments += ["--batch-size", 4, "--json"]
    one = _run(["-m", "genaccel.eval.fid", *arguments])
    two = _launch("-m", "genaccel.eval.fid", *arguments)
    assert one.returncode == two.returncode == 0, one.stderr + two.stderr
    expected, found = json.loads(one.stdout), json.loads(two.stdout)
    assert found["num_images"] == expected["num_images"] == [12, 9]
    assert expected["value"] > 0.01
    assert found["value"] == pytest.approx(expected["value"], rel=0, abs=1e-9)
