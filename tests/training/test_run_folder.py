# SPDX-License-Identifier: Apache-2.0
import json
import zipfile
from pathlib import Path

import pytest
import torch

from genaccel.training.loop import averaged_weights
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
    with pytest.raises(ValueError, match="run of another kind, with options widths"):
        run.claim({"steps": 5})
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
    run.save({"step": 1, "model": {"x": torch.ones(2)}})

    def fail(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(torch, "save", fail)
    with pytest.raises(OSError, match="disk full"):
        run.save({"step": 2})
    state = run.load()
    assert state["step"] == 1
    torch.testing.assert_close(state["model"]["x"], torch.ones(2))
    assert [path.name for path in tmp_path.iterdir()] == [CHECKPOINT_NAME]


def test_nested_options_are_compared_one_by_one(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    run.claim({"model": {"width": 1, "inner": {"depth": 2}}})
    run.claim({"model": {"width": 1, "inner": {"depth": 2, "new": 0}}})
    with pytest.raises(ValueError, match=r"\(model\.inner\.depth: 2 -> 3\)"):
        run.claim({"model": {"width": 1, "inner": {"depth": 3}}})
    with pytest.raises(ValueError, match=r"\(model\.width: 1 -> None\)"):
        run.claim({"model": {"inner": {"depth": 2}}})


def test_damaged_files_are_named_and_left_as_they_are(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    run.save({"step": 1, "model": {"x": torch.arange(1000)}})
    path = tmp_path / CHECKPOINT_NAME
    good = path.read_bytes()
    middle = len(good) // 2
    flipped = good[:middle] + bytes([good[middle] ^ 1]) + good[middle + 1 :]
    for damaged in (good[:-100], good[:1], b"", flipped):
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match=f"{CHECKPOINT_NAME} is damaged"):
            run.load()
        assert path.read_bytes() == damaged
    path.write_bytes(good)
    assert run.load()["step"] == 1


def test_what_is_no_run_is_refused(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    torch.save({"state_dict": {}}, tmp_path / CHECKPOINT_NAME)
    with pytest.raises(ValueError, match="is no checkpoint of a training run"):
        run.load()
    torch.save(Path("an object"), tmp_path / CHECKPOINT_NAME)
    with pytest.raises(ValueError, match="is no checkpoint of a training run"):
        run.load()
    with pytest.raises(ValueError, match=f"holds a {CHECKPOINT_NAME} without its {CONFIG_NAME}"):
        run.claim({"steps": 1})
    for text, message in (("{", "is damaged"), ("[]", "holds no options")):
        (tmp_path / CONFIG_NAME).write_text(text)
        with pytest.raises(ValueError, match=f"{CONFIG_NAME} {message}"):
            run.claim({"steps": 1})


def test_a_run_that_could_not_begin_is_taken_back_unless_files_were_made_for_it(
    tmp_path: Path,
) -> None:
    run = RunFolder(tmp_path / "run")
    assert run.claim({"steps": 1})
    assert not run.claim({"steps": 1})
    run.release()
    assert not run.path.exists()
    run.claim({"steps": 1})
    (run.path / "latents.safetensors").write_bytes(b"")
    run.release()
    assert run.options() == {"steps": 1}


def test_a_run_of_another_recipe_is_named(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    run.claim({"recipe": "class-dit", "steps": 1, "dit": {}})
    with pytest.raises(ValueError, match="holds a run of class-dit, not of restoration"):
        run.claim({"recipe": "restoration", "steps": 1})


@pytest.mark.parametrize("text", ["[" * 100_000, '{"a": NaN}', '{"a": 1e999}', "[]", '"x"', "\0"])
def test_options_of_another_form_are_one_sentence(tmp_path: Path, text: str) -> None:
    (tmp_path / CONFIG_NAME).write_text(text)
    with pytest.raises(ValueError, match=CONFIG_NAME.replace(".", r"\.")) as error:
        RunFolder(tmp_path).options()
    assert "\n" not in str(error.value)


def test_a_checkpoint_that_holds_code_or_garbage_runs_nothing(tmp_path: Path) -> None:
    class Shell:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return (Path.touch, (tmp_path / "ran",))  # type: ignore[return-value]

    run = RunFolder(tmp_path)
    torch.save({"step": 1, "model": Shell()}, tmp_path / CHECKPOINT_NAME)
    with pytest.raises(ValueError, match="is no checkpoint of a training run"):
        run.load()
    assert not (tmp_path / "ran").exists()
    for parts in ({"a/data.pkl": b"\x80\x02garbage"}, {"a/version": b"3"}, {}):
        with zipfile.ZipFile(tmp_path / CHECKPOINT_NAME, "w") as archive:
            for name, data in parts.items():
                archive.writestr(name, data)
        with pytest.raises(ValueError, match="checkpoint"):
            run.load()


@pytest.mark.parametrize(
    "state", [{"model": {}}, {"model": {"weight": torch.zeros(3)}}, {"model": 3}]
)
def test_averaged_weights_of_another_model_are_refused(
    tmp_path: Path, state: dict[str, object]
) -> None:
    run = RunFolder(tmp_path)
    run.save({"step": 1, "ema": {}, **state})
    with pytest.raises(ValueError, match="is another model's"):
        averaged_weights(run, torch.nn.Linear(2, 2))
