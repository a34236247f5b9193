# SPDX-License-Identifier: Apache-2.0
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image


@pytest.mark.slow
def test_two_processes_train_one_model(tmp_path):
    data, run = tmp_path / "data", tmp_path / "run"
    data.mkdir()
    for i in range(2):
        pixels = np.random.default_rng(i).integers(0, 256, (64, 64, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(data / f"{i}.png")
    script = Path(__file__).with_name("distributed_training.py")
    subprocess.run(
        [
            sys.executable,
            "-m",
            "torch.distributed.run",
            "--standalone",
            "--nproc-per-node=2",
            script,
            data,
            run,
        ],
        check=True,
        timeout=300,
    )
    assert torch.load(run / "checkpoint.pt", weights_only=True)["step"] == 6
    joint = torch.load(f"{run}-joint/checkpoint.pt", weights_only=True)
    assert joint["step"] == 4
    assert set(joint) >= {"model", "adversary"}
