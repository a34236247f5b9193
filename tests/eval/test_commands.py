# SPDX-License-Identifier: Apache-2.0
"""What all commands share: names as they are, outputs checked first."""

import ast
import json
import os
from pathlib import Path

import pytest
from PIL import Image
from typer.testing import CliRunner

from genaccel.cli import app
from genaccel.eval._pairs.summary import summarise
from genaccel.eval.commands import check_output, print_values
from genaccel.eval.metrics import METRICS

ROOT = Path(__file__).parents[2]
# Markup of Rich that closes nothing, that is a style, a link, an emoji; and what no terminal should be sent.
NAMES = (
    "[/]",
    "cat [seed=1]",
    "[bold]x[/bold]",
    "[link=x]",
    ":cat:",
    "a\\[b]",
    "日本語 é",
    "long-" * 30,
)


def _run(*arguments: object, code: int = 0) -> tuple[str, str]:
    result = CliRunner().invoke(app, ["eval", *map(str, arguments)])
    assert result.exit_code == code, result.output
    return result.stdout, result.stderr


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    for folder, value in (("a", 0), ("b", 9)):
        for name in NAMES:
            path = tmp_path / folder / f"{name}.png"
            path.parent.mkdir(parents=True, exist_ok=True)  # "[/]" is "]" in a folder "["
            Image.new("RGB", (12, 12), (value,) * 3).save(path)
    return tmp_path / "a", tmp_path / "b"


@pytest.mark.parametrize("command", ["psnr", "rate"])
def test_names_are_printed_as_they_are(command: str, folders: tuple[Path, Path]) -> None:
    stdout, _ = _run(command, *folders)
    for name in NAMES:
        assert name[:20] in stdout
    lines, _ = _run(command, *folders, "--csv")
    assert [line.rsplit(",", 1)[0].strip('"') for line in lines.splitlines()[1:-1]] == sorted(NAMES)
    assert list(json.loads(_run(command, *folders, "--json")[0])["images"]) == sorted(NAMES)


def test_a_name_of_no_characters_ends_no_command(tmp_path: Path) -> None:
    names = [b"\xff\xfe", b"line\nbreak", b"\x1b[31mred"]
    for folder, value in (("a", 0), ("b", 9)):
        (tmp_path / folder).mkdir()
        for name in names:
            path = Path(os.fsdecode(os.fsencode(tmp_path / folder) + b"/" + name + b".png"))
            try:
                Image.new("RGB", (12, 12), (value,) * 3).save(path)
            except (OSError, UnicodeError):
                pytest.skip("this file system takes no such names")
    for options in ([], ["--csv"], ["--json"]):
        stdout, _ = _run("psnr", tmp_path / "a", tmp_path / "b", *options)
        assert "\x1b" not in stdout or options == ["--csv"]
        stdout.encode()
    table, _ = _run("psnr", tmp_path / "a", tmp_path / "b")
    assert r"\udcff\udcfe" in table
    assert r"line\nbreak" in table
    _, stderr = _run("psnr", tmp_path / "a", ROOT / "docs", code=2)
    assert "holds no image" in stderr


def test_a_damaged_file_of_such_a_name_is_named(folders: tuple[Path, Path]) -> None:
    (folders[1] / "[/].png").write_bytes(b"no image")
    stdout, stderr = _run("psnr", *folders, code=6)
    assert "1 left out: [/]: " in stderr
    assert "cat [seed=1]" in stdout


def test_every_console_prints_verbatim() -> None:
    places = []
    for folder in ("genaccel", "eval", "bench", "pipelines"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "Console":
                    off = {k.arg for k in node.keywords if getattr(k.value, "value", 1) is False}
                    places.append((path.relative_to(ROOT).as_posix(), {"markup", "emoji"} <= off))
    assert len(places) > 4
    assert [name for name, verbatim in places if not verbatim] == []


def test_outputs_are_checked_beforehand(tmp_path: Path) -> None:
    check_output(tmp_path / "new.npz", overwrite=False, suffix=".npz")
    check_output(tmp_path / "new.NPZ", overwrite=False, suffix=".npz")
    (tmp_path / "old.npz").write_bytes(b"")
    check_output(tmp_path / "old.npz", overwrite=True, suffix=".npz")
    check_output(tmp_path / "x" / "y" / "z", overwrite=False, parents=True)
    for path, options, error, message in (
        ("old.npz", {}, FileExistsError, "--force"),
        ("none/new.npz", {}, FileNotFoundError, "there is no folder"),
        ("old.npz/new.npz", {}, NotADirectoryError, "no folder"),
        ("old.npz/x/new.npz", {"parents": True}, NotADirectoryError, "no folder"),
        ("new", {"suffix": ".npz"}, ValueError, r"must end in \.npz"),
        ("", {"overwrite": True}, IsADirectoryError, "is a folder"),
        ("n" * 300, {}, OSError, "too long"),
    ):
        with pytest.raises(error, match=message):
            check_output(tmp_path / path, **{"overwrite": False, **options})  # type: ignore[arg-type]


def test_a_closed_folder_is_no_place_for_an_output(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "access", lambda *_: False)  # root may write anywhere
    with pytest.raises(PermissionError, match="cannot be written to"):
        check_output(tmp_path / "x.npz", overwrite=False)


def test_a_sweep_refuses_its_folder_before_it_loads_networks(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    (tmp_path / "run.json").write_text("{}")
    for out, message in ((tmp_path / "file", "no folder"), (tmp_path, "exists already")):
        _, stderr = _run("rate-distortion", "nowhere", "--codec", "none:1", "--out", out, code=2)
        assert message in " ".join(stderr.replace("│", " ").split())


def test_no_name_turns_the_order_of_its_line(capsys: pytest.CaptureFixture[str]) -> None:
    values = {"\u202egnp": 12.5, "\u2066x\u2069": 3.0, "\U0001f469\u200d\U0001f680": 4.0}
    print_values(METRICS["psnr"].metric, values, summarise(values.values()))
    shown = capsys.readouterr().out
    assert "\\u202egnp" in shown
    assert "\\u2066x\\u2069" in shown
    assert (
        "\U0001f469\u200d\U0001f680" in shown
    )  # letters and emoji that are joined stay as they are
