# SPDX-License-Identifier: Apache-2.0
"""Batches whose files fail in every way, and places where results cannot go."""

import importlib
import json
import os
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest

from genaccel.cli import batch
from genaccel.codec.batch import file_codec
from genaccel.codec.encoder.encode_options import EncodeOptions

NOT_UTF8 = os.fsdecode(b"not-\xff-utf8.png")


class PanicError(BaseException):
    """No Exception, as a panic in Rust."""


@pytest.fixture
def encode(run, model_folder):
    """``genaccel encode`` with the small codec."""
    return lambda *arguments: run("encode", *arguments, "--model", model_folder)


@pytest.fixture
def photos(photo, tmp_path):
    """A folder with two photographs."""
    photo("in/a.png")
    photo("in/z.png")
    return tmp_path / "in"


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (MemoryError(), "out of memory"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: 1 byte"), "out of memory (Def"),
        (OSError(12, "Cannot allocate memory"), "out of memory"),
        (OSError(5, "Input/output error"), "[Errno 5] Input/output error"),
        (PermissionError(13, "Permission denied", "b"), "[Errno 13] Permission denied: 'b'"),
        (RecursionError("too deep"), "RecursionError: too deep (test_batch.py, line"),
        (ZeroDivisionError(), "ZeroDivisionError (test_batch.py, line"),
        (PanicError("index out of bounds"), "PanicError: index out of bounds (test_batch.py"),
    ],
)
def test_whatever_a_file_raises_the_others_are_done(
    encode, photos, photo, tmp_path, monkeypatch, error, words
):
    photo("in/m.png")
    real = file_codec.encode_file

    def encode_file(codecs, source, *arguments, **options):
        if source.name == "m.png":
            raise error
        return real(codecs, source, *arguments, **options)

    monkeypatch.setattr(file_codec, "encode_file", encode_file)
    result = encode(photos, "--out-dir", "out", "--json")
    assert result.exit_code == 6
    assert f"error: {photos / 'm.png'}: {words}" in result.stderr
    assert "1 of 3 files failed" in result.stderr
    failed = json.loads(result.stdout.splitlines()[1])
    assert (failed["status"], failed["exit_code"]) == ("error", 1)
    assert words in failed["error"]
    assert sorted(os.listdir(tmp_path / "out")) == ["a.gac", "z.gac"]


def test_one_file_without_memory_is_an_error_in_a_line(encode, photo, monkeypatch):
    def encode_file(*_arguments, **_options):
        raise MemoryError

    monkeypatch.setattr(file_codec, "encode_file", encode_file)
    result = encode(photo(), "a.gac")
    assert (result.exit_code, result.stderr) == (1, "error: out of memory\n")


@pytest.mark.parametrize("blocker", ["file", "dead-link"])
def test_what_is_in_the_way_of_a_folder_stops_its_files_alone(
    encode, photos, photo, tmp_path, blocker
):
    photo("in/sub/s.png")
    (tmp_path / "out").mkdir()
    if blocker == "file":
        (tmp_path / "out/sub").write_text("in the way")
    else:
        (tmp_path / "out/sub").symlink_to("nothing")
    (tmp_path / "out/z.gac").mkdir()
    result = encode("in", "--out-dir", "out")
    assert result.exit_code == 6
    assert "in/sub/s.png: out/sub is no folder, and out/sub/s.gac would lie in it" in result.stderr
    assert "error: in/z.png: out/z.gac is a folder" in result.stderr
    assert (tmp_path / "out/a.gac").is_file()


def test_names_that_cannot_be_printed(photos, photo, model_folder, tmp_path):
    shutil.copy(photos / "a.png", photos / NOT_UTF8)
    shutil.copy(photos / "a.png", photos / "new\nline\x1b[31m.png")
    shutil.copy(photos / "a.png", photos / "größe 😀.png")
    for encoding, jobs, options in (("utf-8", 1, []), ("ascii", 2, ["--json", "--force"])):
        command = [sys.executable, "-m", "genaccel.cli", "encode", "in", "--out-dir", "out"]
        done = subprocess.run(
            [*command, "--model", str(model_folder), "--jobs", str(jobs), *options],
            cwd=tmp_path,
            env={
                **os.environ,
                "PYTHONPATH": os.pathsep.join(p for p in sys.path if p),
                "PYTHONIOENCODING": encoding,
            },
            capture_output=True,
            check=False,
            timeout=120,
        )
        assert (done.returncode, done.stderr) == (0, b"")
        assert len(done.stdout.splitlines()) == 5
        if options:
            inputs = {json.loads(line)["input"] for line in done.stdout.splitlines()}
            assert inputs == {f"in/{name}" for name in os.listdir(photos)}
        else:
            assert b"not-\\udcff-utf8.png -> out" in done.stdout
            assert b"new\\nline\\x1b[31m.png" in done.stdout
            assert "größe 😀.png".encode() in done.stdout


def test_what_is_left_out_is_said_and_what_cannot_be_read_is_code_6(
    encode, photos, photo, tmp_path, monkeypatch
):
    photo("in/closed/c.png")
    photo("in/plain/p.png")
    (photos / "notes.txt").touch()
    (photos / "raw.raw").touch()
    (photos / "linked").symlink_to("plain")
    quiet = encode("in/plain", "--out-dir", "quiet")
    assert (quiet.exit_code, quiet.stderr) == (0, "")
    named = encode("in", "--out-dir", "named")
    assert named.exit_code == 0
    assert "left out in/linked: a link to a folder, which is not followed" in named.stderr
    assert "2 other files left out: 1 .txt, 1 .raw" in named.stderr

    (photos / "dead.png").symlink_to("nothing.png")
    real = os.scandir

    def scandir(path):  # root, as whom tests may run, can read everything
        if Path(path).name == "closed":
            raise PermissionError(13, "Permission denied", str(path))
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    result = encode("in", "--out-dir", "out", "--json")
    assert result.exit_code == 6
    assert "error: in/closed: cannot be read (Permission denied)" in result.stderr
    assert "error: in/dead.png: a link to what is not there" in result.stderr
    assert "2 left out that could not be read" in result.stderr
    reports = [json.loads(line) for line in result.stdout.splitlines()]
    assert [r["input"] for r in reports if r["status"] == "error"] == ["in/closed", "in/dead.png"]
    assert sorted(os.listdir(tmp_path / "out")) == ["a.gac", "plain", "z.gac"]
    alone = encode("in/closed", "--out-dir", "alone")
    assert (alone.exit_code, "Permission denied" in alone.stderr) == (1, True)
    both = encode("in/closed", "in/plain", "--out-dir", "both")
    assert both.exit_code == 6
    assert os.listdir(tmp_path / "both") == ["p.gac"]


def test_two_inputs_of_one_name(encode, run, photo, model_folder, tmp_path):
    photo("in/a.png")
    photo("in/a.jpg")
    refused = encode("in", "--out-dir", "out")
    assert refused.exit_code == 2
    text = " ".join(refused.stderr.replace("│", " ").split())
    assert "in/a.jpg and in/a.png would both become out/a.gac: --keep-extension" in text
    assert not (tmp_path / "out").exists()
    assert encode("in", "--out-dir", "out", "--keep-extension").exit_code == 0
    assert sorted(os.listdir(tmp_path / "out")) == ["a.jpg.gac", "a.png.gac"]
    shutil.copy(tmp_path / "out/a.jpg.gac", tmp_path / "out/a.jpg.GAC")
    decode = ["decode", "out", "--out-dir", "back", "--model", model_folder]
    refused = run(*decode)
    assert (refused.exit_code, "--keep-extension" in refused.stderr) == (2, True)
    assert run(*decode, "--keep-extension").exit_code == 0
    expected = ["a.jpg.GAC.png", "a.jpg.gac.png", "a.png.gac.png"]
    assert sorted(os.listdir(tmp_path / "back")) == expected
    assert encode("in/a.jpg", "--keep-extension").exit_code == 0
    assert (tmp_path / "in/a.jpg.gac").is_file()


def test_the_same_input_twice_is_done_once(encode, photos):
    assert len(encode("in", "in", "--out-dir", "out").stdout.splitlines()) == 2


@pytest.mark.parametrize("names", [("A.png", "a.png"), ("caf\u00e9.png", "cafe\u0301.png")])
def test_results_that_a_file_system_takes_for_one_are_not_written_over(
    encode, photo, tmp_path, names
):
    first, second = (Path(name).with_suffix(".gac") for name in names)
    for seed, name in enumerate(names):
        photo(f"in/{name}", seed=seed)
    assert encode("in", "--out-dir", "out").exit_code == 0  # here they are two
    (tmp_path / "out" / second).unlink()
    (tmp_path / "out" / second).hardlink_to(tmp_path / "out" / first)
    result = encode("in", "--out-dir", "out", "--force")
    assert result.exit_code == 6
    assert "are one file on this file system" in result.stderr
    again = encode("in", "--out-dir", "out", "--skip-existing")
    assert "are one file on this file system" in again.stderr


def test_a_dry_run_says_what_would_be_done_and_does_nothing(
    encode, photos, photo, tmp_path, monkeypatch
):
    def open_encoder(*_arguments, **_options):
        raise AssertionError("a model is loaded")

    monkeypatch.setattr("genaccel.cli.encode.open_encoder", open_encoder)
    photo("in/sub/s.png")
    (photos / "notes.txt").touch()
    result = encode("in", "--out-dir", "out", "--dry-run")
    assert result.exit_code == 0
    assert result.stdout.splitlines() == [
        "in/a.png -> out/a.gac",
        "in/sub/s.png -> out/sub/s.gac",
        "in/z.png -> out/z.gac",
    ]
    assert "1 other file left out: 1 .txt" in result.stderr
    assert sorted(os.listdir(tmp_path)) == ["in"]

    (tmp_path / "out").mkdir()
    (tmp_path / "out/a.gac").write_bytes(b"old")
    (tmp_path / "out/sub").write_bytes(b"in the way")
    result = encode("in", "nothing.png", "--out-dir", "out", "--dry-run", "--json")
    assert result.exit_code == 6
    assert "3 of 4 files would fail" in result.stderr
    states = {line["input"]: line["status"] for line in map(json.loads, result.stdout.splitlines())}
    assert states == {
        "in/a.png": "error",
        "in/sub/s.png": "error",
        "in/z.png": "planned",
        "nothing.png": "error",
    }
    forced = encode("in/a.png", "out/a.gac", "--force", "--dry-run")
    assert forced.stdout == "in/a.png -> out/a.gac, which is replaced\n"
    skipping = encode("in/a.png", "in/z.png", "--out-dir", "out", "--dry-run", "--skip-existing")
    assert skipping.stdout == "in/z.png -> out/z.gac\n"
    assert (tmp_path / "out/a.gac").read_bytes() == b"old"


def test_out_may_be_a_folder(encode, run, photo, model_folder, tmp_path):
    photo("a.png")
    (tmp_path / "out").mkdir()
    assert encode("a.png", "out").exit_code == 0
    assert encode("a.png", "out/", "--keep-extension").exit_code == 0
    assert sorted(os.listdir(tmp_path / "out")) == ["a.gac", "a.png.gac"]
    assert run("decode", "out/a.gac", "out", "--model", model_folder).exit_code == 0
    assert (tmp_path / "out/a.png").is_file()
    assert encode("-", "out").exit_code == 2
    again = encode("a.png", "out")
    assert (again.exit_code, "out/a.gac exists already" in again.stderr) == (1, True)


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["a.png", "missing/x.gac"], 1, "no folder missing to write x.gac into"),
        (["a.png", "missing/"], 2, "no folder missing/"),
        (["a.png", "a.png/x.gac"], 1, "a.png is no folder, and a.png/x.gac would lie in it"),
        (["a.png", "--out-dir", "a.png"], 1, "a.png is no folder"),
        (["a.png", "--out-dir", "a.png/sub"], 1, "a.png is no folder, and a.png/sub would"),
        (["a.png", "x" * 300], 1, "File name too long"),
        (["a.png", ""], 2, "a path is empty"),
        ([""], 2, "a path is empty"),
        (["a.png", "b.png", "--out-dir", "missing", "--jobs", "257"], 2, "256"),
        (["copy", "copy", "--force"], 1, "copy is the input itself, or a link to it"),
        (["copy", "hard", "--force"], 1, "hard is the input itself"),
        (["copy", "soft", "--force"], 1, "soft is the input itself"),
    ],
)
def test_where_a_result_cannot_go_is_said_before_the_work(
    encode, photo, tmp_path, monkeypatch, arguments, code, words
):
    def open_encoder(*_arguments, **_options):
        raise AssertionError("a model is loaded")

    monkeypatch.setattr("genaccel.cli.encode.open_encoder", open_encoder)
    photo("a.png")
    shutil.copy(tmp_path / "a.png", tmp_path / "copy")
    (tmp_path / "hard").hardlink_to(tmp_path / "copy")
    (tmp_path / "soft").symlink_to("copy")
    before = sorted(os.listdir(tmp_path))
    result = encode(*arguments)
    assert result.exit_code == code, result.output
    assert words in " ".join(result.stderr.replace("│", " ").split())
    assert ".partial" not in result.stderr
    assert sorted(os.listdir(tmp_path)) == before
    assert (tmp_path / "copy").read_bytes() == (tmp_path / "a.png").read_bytes()


def test_a_file_is_not_decoded_onto_itself(encode, run, photo, model_folder, tmp_path):
    assert encode(photo("a.png"), "a").exit_code == 0
    before = (tmp_path / "a").read_bytes()
    result = run("decode", "a", "a", "--force", "--format", "png", "--model", model_folder)
    assert (result.exit_code, "the input itself" in result.stderr) == (1, True)
    assert (tmp_path / "a").read_bytes() == before


def test_pipes_with_names_are_read(encode, run, photo, tmp_path):
    data = photo("a.png").read_bytes()
    os.mkfifo(tmp_path / "pipe")
    reader, writer = os.pipe()
    os.write(writer, data)
    os.close(writer)
    with subprocess.Popen([sys.executable, "-c", f"open('pipe', 'wb').write({data!r})"]):
        assert encode("pipe", "one.gac").exit_code == 0
    assert encode(f"/dev/fd/{reader}", "two.gac").exit_code == 0
    os.close(reader)
    assert (tmp_path / "one.gac").read_bytes() == (tmp_path / "two.gac").read_bytes()
    assert run("info", "one.gac").exit_code == 0


def test_names_as_long_as_names_can_be(encode, photo, tmp_path):
    name = "😀" * 60 + "é" * 5  # 250 bytes, 254 with a suffix
    photo("a.png").rename(tmp_path / f"{name}.png")
    assert encode(f"{name}.png").exit_code == 0
    assert encode(f"{name}.png", "--out-dir", "out").exit_code == 0
    too_long = encode(f"{name}.png", "a.png", "--out-dir", "out", "--keep-extension")
    assert too_long.exit_code == 6
    assert "File name too long" in too_long.stderr


def test_a_worker_that_dies_as_soon_as_its_file_is_written_costs_no_file(
    model_folder, photo, tmp_path, monkeypatch
):
    (tmp_path / "dying.py").write_text(
        "import os, signal\n"
        "from genaccel.cli.encode import open_encoder\n"
        "def open_dying(folder, **options):\n"
        "    work = open_encoder(folder, **options)\n"
        "    def do(job):\n"
        "        report = work(job)\n"
        "        if not os.path.exists('died'):\n"
        "            open('died', 'x').close()\n"
        "            os.kill(os.getpid(), signal.SIGKILL)\n"
        "        return report\n"
        "    return do\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    open_dying = importlib.import_module("dying").open_dying
    jobs = []
    for seed in range(2):
        photo(f"{seed}.png", seed=seed)
        jobs.append(batch.Job(source=f"{seed}.png", target=f"out/{seed}.gac", makes_folders=True))
    (tmp_path / "out").mkdir()
    (tmp_path / "out/1.gac").write_bytes(b"old")
    given = {"device": "cpu", "max_pixels": 2**20, "max_memory": None, "processes": 2}
    given |= {"threads": 1, "rate_control": EncodeOptions(), "show_steps": False}
    open_work = partial(open_dying, str(model_folder), overwrite=False, **given)
    found = {o.item.target: o for o in batch._outcomes(jobs, open_work, workers=2)}
    assert found["out/0.gac"].error is None
    assert (tmp_path / "died").exists()
    assert isinstance(found["out/1.gac"].error, FileExistsError)  # of somebody else
    assert (tmp_path / "out/1.gac").read_bytes() == b"old"


def test_twins_are_found_by_case_and_normalisation():
    twins = batch._twins(["A", "a", "b", "\u00c5", "A\u030a"])
    assert twins == {"A": "a", "a": "A", "\u00c5": "A\u030a", "A\u030a": "\u00c5"}
