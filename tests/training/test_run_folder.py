# SPDX-License-Identifier: Apache-2.0
import json
from pathlib import Path

import pytest
import torch

from genaccel.training.run_folder import CHECKPOINT_NAME, CONFIG_NAME, RunFolder


def test_options_are_written_once_and_compared(tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "run")
    run.claim({"steps": 5, "widths": [1, 2]})
    run.claim({"steps": 5, "widths": (1, 2)})  # which JSON gives back as a list
    assert run.options() == {"steps": 5, "widths": [1, 2]}
    # An option that is newer than the run has no former value to differ from.
    run.claim({"steps": 5, "widths": [1, 2], "new": 1})
    with pytest.raises(ValueError, match=r"other options \(steps: 5 -> 6\)"):
        run.claim({"steps": 6, "widths": [1, 2]})
    assert json.loads((run.path / CONFIG_NAME).read_text())["steps"] == 5


def test_a_process_that_may_not_write_does_not(tmp_path: Path) -> None:
    RunFolder(tmp_path / "run").claim({"steps": 5}, write=False)
    assert not (tmp_path / "run").exists()


def test_an_interrupted_save_leaves_the_former_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = RunFolder(tmp_path)
    assert not run.has_checkpoint
    with pytest.raises(FileNotFoundError, match=f"{CHECKPOINT_NAME} is missing"):
        run.load()
    with pytest.raises(FileNotFoundError, match=f"{CONFIG_NAME} is missing"):
        run.options()
    run.save({"step": 1, "x": torch.ones(2)})

    def fail(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(torch, "save", fail)
    with pytest.raises(OSError, match="disk full"):
        run.save({"step": 2})
    state = run.load()
    assert state["step"] == 1
    torch.testing.assert_close(state["x"], torch.ones(2))
