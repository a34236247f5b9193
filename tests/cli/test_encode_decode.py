# SPDX-License-Identifier: Apache-2.0
import array
import fcntl
import io
import json
import os
import signal
import subprocess
import sys
import termios
import time
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from genaccel.cli.encode import steps_bar
from genaccel.codec.format.bitstream import Bitstream


def genaccel(*arguments, **options):
    command = [sys.executable, "-m", "genaccel.cli", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, timeout=120, check=False, **options)


def test_there_and_back(run, photo, model_folder, tmp_path):
    result = run("encode", photo(), "a.gac", "--model", model_folder)
    assert result.exit_code == 0, result.output
    assert "33x31" in result.stdout
    size = (tmp_path / "a.gac").stat().st_size
    assert f"{size} bytes" in result.stdout
    result = run("decode", "a.gac", "back.png", "--model", model_folder, "--threads", 1)
    assert result.exit_code == 0, result.output
    with Image.open(tmp_path / "back.png") as image:
        assert (image.format, image.size, image.mode) == ("PNG", (33, 31), "RGB")


def test_out_is_beside_in_by_default(run, photo, model_folder, tmp_path):
    photo("sub/x.jpg")
    assert run("encode", "sub/x.jpg", "--model", model_folder).exit_code == 0
    assert run("decode", "sub/x.gac", "--model", model_folder).exit_code == 0
    assert run("decode", "sub/x.gac", "--format", "webp", "--model", model_folder).exit_code == 0
    assert sorted(os.listdir(tmp_path / "sub")) == ["x.gac", "x.jpg", "x.png", "x.webp"]


def test_json(run, photo, model_folder, tmp_path):
    result = run("encode", photo(), "a.gac", "--json", "--model", model_folder)
    report = json.loads(result.stdout)
    data = (tmp_path / "a.gac").read_bytes()
    assert report["status"] == "ok"
    assert report["file_bytes"] == len(data)
    assert report["payload_bytes"] == len(Bitstream.from_bytes(data).payload)
    assert report["bits_per_pixel"] == pytest.approx(8 * len(data) / 33 / 31)
    assert report["model"] == str(model_folder)
    assert report["coding_seconds"] > 0
    result = run("decode", "a.gac", "a.ppm", "--json", "--model", model_folder)
    assert json.loads(result.stdout)["output"] == "a.ppm"
    (tmp_path / "bad.gac").write_bytes(data[:-1])
    result = run("decode", "bad.gac", "b.png", "--json", "--model", model_folder)
    assert result.exit_code == 3
    report = json.loads(result.stdout)
    assert (report["status"], report["exit_code"], report["input"]) == ("error", 3, "bad.gac")


def test_existing_files_are_kept_without_force(run, photo, model_folder, tmp_path):
    (tmp_path / "a.gac").write_bytes(b"old")
    result = run("encode", photo(), "a.gac", "--model", model_folder)
    assert result.exit_code == 1
    assert "--force" in result.stderr
    assert (tmp_path / "a.gac").read_bytes() == b"old"
    assert run("encode", photo(), "a.gac", "--force", "--model", model_folder).exit_code == 0
    assert (tmp_path / "a.gac").read_bytes() != b"old"


def test_a_failing_decode_leaves_the_old_file(run, photo, model_folder, tmp_path):
    run("encode", photo(), "a.gac", "--model", model_folder)
    data = (tmp_path / "a.gac").read_bytes()
    (tmp_path / "a.gac").write_bytes(data[:20] + b"\xff" + data[21:])
    (tmp_path / "out.png").write_bytes(b"old")
    result = run("decode", "a.gac", "out.png", "--force", "--model", model_folder)
    assert result.exit_code == 3
    assert (tmp_path / "out.png").read_bytes() == b"old"
    assert sorted(os.listdir(tmp_path)) == ["a.gac", "out.png", "photo.png"]


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["encode", "missing.png", "o.gac"], 1, "missing.png"),
        (["encode", "text.png", "o.gac"], 3, "known format"),
        (["encode", "deep.png", "o.gac"], 1, "--reduce-depth"),
        (["encode", "photo.png", "o.gac", "--max-pixels", "1022"], 5, "33x31"),
        (["encode", "photo.png", "o.gac", "--max-memory", "1"], 5, "MiB"),
        (["encode", "photo.png", "o.gac", "--max-pixels", "0"], 2, "max-pixels"),
        (["encode", "clear.png", "o.gac", "--background", "no-colour"], 2, "no-colour"),
        (["encode", "photo.png", "clear.png"], 2, "--out-dir"),
        (["encode", "photo.png", "clear.png", "o.gac"], 2, "--out-dir"),
        (["encode", "."], 2, "--out-dir"),
        (["decode", "photo.png", "o.png"], 3, "not a .gac file"),
        (["decode", "good.gac", "o.gif"], 2, "--format"),
        (["decode", "good.gac", "o.png", "--max-pixels", "1022"], 5, "33x31"),
        (["decode", "newer.gac", "o.png"], 3, "version 9"),
        (["decode", "-"], 2, "--format"),
        (["encode", "photo.png", "o.gac", "--timeout", "1e-9"], 5, "time limit"),
        (["decode", "good.gac", "o.png", "--timeout", "1e-9"], 5, "time limit"),
        (["encode", "photo.png", "o.gac", "--timeout", "0"], 2, "timeout_seconds"),
        (["decode", "good.gac", "o.png", "--timeout", "nan"], 2, "timeout_seconds"),
        (["decode", "good.gac", "o.png", "--free-pixels", "1022"], 5, "free pixels"),
        (["decode", "good.gac", "o.png", "--free-pixels", "0"], 2, "free-pixels"),
        (["info", "text.png"], 3, "not a .gac file"),
        (["info", "good.gac", "--max-pixels", "1022"], 5, "33x31"),
    ],
)
def test_exit_codes_and_messages(run, photo, model_folder, tmp_path, arguments, code, words):
    photo("photo.png")
    photo("clear.png", mode="RGBA")
    run("encode", "photo.png", "good.gac", "--model", model_folder)
    data = (tmp_path / "good.gac").read_bytes()
    (tmp_path / "newer.gac").write_bytes(data[:4] + b"\x90" + data[5:])
    (tmp_path / "text.png").write_text("no image")
    Image.fromarray(np.full((31, 33), 7, np.uint16)).save(tmp_path / "deep.png")
    before = sorted(os.listdir(tmp_path))
    model = [] if arguments[0] == "info" else ["--model", model_folder]
    if "--max-memory" in arguments:
        photo("photo.png", height=400, width=400)
    result = run(*arguments, *model)
    assert result.exit_code == code, result.output
    assert words in "".join(result.stderr.replace("│", "").split("\n")).replace("  ", " ")
    assert sorted(os.listdir(tmp_path)) == before


def test_unknown_models_are_4(run, photo, model_folder):
    assert run("encode", photo(), "a.gac", "--model", "no-such-model").exit_code == 4
    run("encode", photo(), "a.gac", "--model", model_folder)
    result = run("decode", "a.gac", "a.png")
    assert result.exit_code == 4
    assert "--model FOLDER" in result.stderr


def test_transparent_images_on_a_background(run, photo, model_folder):
    arguments = ["encode", photo(mode="RGBA"), "a.gac", "--model", model_folder]
    result = run(*arguments, "--background", "white")
    assert result.exit_code == 0, result.output
    assert "note: " in result.stderr
    assert "background colour" in result.stderr


def test_a_batch_goes_on_after_a_bad_file(run, photo, model_folder, tmp_path):
    photo("in/a.png")
    photo("in/deep/b.jpg", seed=1)
    (tmp_path / "in/bad.png").write_text("no image")
    (tmp_path / "in/notes.txt").write_text("not an image by name")
    result = run("encode", "in", "--out-dir", "out", "--json", "--model", model_folder)
    assert result.exit_code == 6
    reports = [json.loads(line) for line in result.stdout.splitlines()]
    assert [(r["input"], r["status"]) for r in reports] == [
        ("in/a.png", "ok"),
        ("in/bad.png", "error"),
        ("in/deep/b.jpg", "ok"),
    ]
    assert "1 of 3 files failed" in result.stderr
    result = run("decode", "out", "--out-dir", "back", "--model", model_folder)
    assert result.exit_code == 0, result.output
    found = sorted(
        p.relative_to(tmp_path / "back").as_posix() for p in (tmp_path / "back").rglob("*.*")
    )
    assert found == ["a.png", "deep/b.png"]


def test_a_batch_goes_on_after_a_file_that_takes_too_long(
    run, photo, entropy_model_folder, tmp_path, monkeypatch
):
    """The clock moves by a second with each look at it, and there are more looks at a larger picture."""
    model = ["--model", entropy_model_folder]
    for name, side in (("a", 32), ("b", 500), ("c", 32)):
        photo(f"in/{name}.png", height=side, width=side)
    run("encode", "in", "--out-dir", "files", *model)
    monkeypatch.setattr(
        "genaccel.codec.format.limits.time",
        SimpleNamespace(monotonic=iter(range(10**6)).__next__),
    )
    for verb, folder in (("encode", "in"), ("decode", "files")):
        result = run(verb, folder, "--out-dir", verb, "--json", "--timeout", 20, *model)
        reports = [json.loads(line) for line in result.stdout.splitlines()]
        assert [r["status"] for r in reports] == ["ok", "error", "ok"], result.output
        assert (reports[1]["exit_code"], result.exit_code) == (5, 6)
        assert "--timeout" in reports[1]["error"]
        assert len(os.listdir(tmp_path / verb)) == 2


def test_time_limits_hold_in_workers(run, photo, entropy_model_folder, tmp_path):
    photo("in/a.png")
    photo("in/b.png")
    model = ["--model", entropy_model_folder]
    result = run("encode", "in", "--out-dir", "out", "--jobs", 2, "--timeout", 1e-9, *model)
    assert result.exit_code == 6
    assert result.stderr.count("--timeout") == 2
    assert not list((tmp_path / "out").glob("*"))


def test_batches_that_cannot_be_named_are_refused(run, photo, model_folder, tmp_path):
    photo("in/a.png")
    photo("in/a.jpg")
    result = run("encode", "in", "--out-dir", "out", "--model", model_folder)
    assert result.exit_code == 2
    assert not (tmp_path / "out").exists()
    (tmp_path / "none").mkdir()
    assert run("encode", "none", "--out-dir", "out", "--model", model_folder).exit_code == 2
    assert run("encode", "-", "--out-dir", "out", "--model", model_folder).exit_code == 2


def test_info(run, photo, model_folder, tmp_path):
    run("encode", photo(), "a.gac", "--model", model_folder)
    text = run("info", "a.gac").stdout
    assert "33x31" in text
    assert "outside the zoo" in text
    described = json.loads(run("info", "a.gac", "--json").stdout)
    assert (described["width"], described["height"], described["model"]) == (33, 31, None)
    result = run("info", "a.gac", "missing.gac", "--json")
    assert result.exit_code == 6
    assert len(result.stdout.splitlines()) == 1
    data = (tmp_path / "a.gac").read_bytes()
    assert json.loads(run("info", "-", "--json", stdin=data).stdout) == {**described, "input": "-"}


def test_streams_of_a_real_process(photo, model_folder):
    encoded = genaccel("encode", "-", "-", "--model", model_folder, input=photo().read_bytes())
    assert encoded.returncode == 0, encoded.stderr
    assert Bitstream.from_bytes(encoded.stdout).width == 33
    assert b"bits per pixel" in encoded.stderr
    decoded = genaccel(
        "decode",
        "-",
        "-",
        "--format",
        "ppm",
        "--json",
        "--model",
        model_folder,
        input=encoded.stdout,
    )
    assert decoded.returncode == 0, decoded.stderr
    assert np.asarray(Image.open(io.BytesIO(decoded.stdout))).shape == (31, 33, 3)
    assert json.loads(decoded.stderr)["output"] == "-"
    damaged = genaccel(
        "decode", "-", "-", "--format", "png", "--model", model_folder, input=encoded.stdout[:-3]
    )
    assert damaged.returncode == 3
    assert damaged.stdout == b""
    assert b"error: checksum" in damaged.stderr


def _bytes_waiting(pipe):
    count = array.array("i", [0])
    fcntl.ioctl(pipe, termios.FIONREAD, count)
    return count[0]


def test_interruption_is_130_and_leaves_no_file(model_folder, tmp_path):
    reader, writer = os.pipe()  # standard input that never ends
    process = subprocess.Popen(
        [sys.executable, "-m", "genaccel.cli", "encode", "-", "a.gac", "--model", model_folder],
        stdin=reader,
        stderr=subprocess.PIPE,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)},
        # A shell's background jobs ignore interrupts, and so would everything that they start.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    try:
        os.write(writer, b"\x89PNG")
        deadline = time.monotonic() + 60
        while _bytes_waiting(reader) and time.monotonic() < deadline:
            time.sleep(0.1)
        process.send_signal(signal.SIGINT)
        _, stderr = process.communicate(timeout=60)
    finally:
        os.close(writer)
        os.close(reader)
        process.kill()
        process.wait()
    assert process.returncode == 130, stderr
    assert b"interrupted" in stderr
    assert os.listdir(tmp_path) == []


def test_rate_control_of_models_with_an_entropy_model(run, photo, entropy_model_folder, tmp_path):
    photo("a.png", 64, 96)
    model = ("--model", entropy_model_folder)
    assert run("encode", "a.png", "whole.gac", *model).exit_code == 0
    whole = (tmp_path / "whole.gac").stat().st_size
    result = run("info", "whole.gac")
    assert "format version 2 (entropy model)" in result.stdout
    options = {
        "rdo": ("--rdo", 0.2),
        "size": ("--target-size", whole - 10),
        "bpp": ("--bpp", 8 * (whole - 10) / 96 / 64),
        "slices": ("--slices", 5),
        "refined": ("--refine", 2, "--rdo", 0.2),
        "half": ("--half-size",),
    }
    for name, option in options.items():
        result = run("encode", "a.png", f"{name}.gac", *option, *model)
        assert result.exit_code == 0, result.output
        assert (tmp_path / f"{name}.gac").stat().st_size < whole
        assert run("decode", f"{name}.gac", f"{name}.png", *model).exit_code == 0
    assert "first 5 slices" in run("info", "slices.gac").stdout
    assert "96x64" in run("info", "half.gac").stdout
    assert "(entropy model, at half size)" in run("info", "half.gac").stdout
    assert run("decode", "whole.gac", "five.png", "--prefix", 5, *model).exit_code == 0
    assert (tmp_path / "five.png").read_bytes() == (tmp_path / "slices.png").read_bytes()
    assert run("encode", "a.png", "static.gac", "--static-tables", *model).exit_code == 0
    assert "format version 1 (static tables)" in run("info", "static.gac").stdout


@pytest.mark.parametrize("is_terminal", [True, False])
def test_refinement_moves_a_bar_on_a_terminal(monkeypatch, is_terminal):
    class Stream(io.StringIO):
        def isatty(self):
            return is_terminal

    stream = Stream()
    monkeypatch.setattr(sys, "stderr", stream)
    with steps_bar(shown=True) as on_step:
        for done in range(1, 9):
            on_step(done, 8)
    assert ("refining" in stream.getvalue()) == is_terminal
    with steps_bar(shown=False) as on_step:
        assert on_step is None


def test_refinement_without_an_entropy_model_says_what_to_do(run, photo, model_folder):
    result = run("encode", photo(), "--refine", 2, "--model", model_folder)
    assert result.exit_code == 2
    assert "refine needs an entropy model" in result.stderr
    result = run("encode", photo(), "--refine", -2, "--model", model_folder)
    assert result.exit_code == 2
    assert "refine must not be negative" in result.stderr


def test_a_file_that_has_lost_its_end(run, photo, entropy_model_folder, tmp_path):
    photo("a.png", 64, 96)
    model = ("--model", entropy_model_folder)
    run("encode", "a.png", *model)
    data = (tmp_path / "a.gac").read_bytes()
    (tmp_path / "cut.gac").write_bytes(data[: len(data) * 2 // 3])
    assert run("decode", "cut.gac", *model).exit_code == 3
    result = run("decode", "cut.gac", "--truncated", *model)
    assert result.exit_code == 0, result.output
    with Image.open(tmp_path / "cut.png") as image:
        assert image.size == (96, 64)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--bpp", 0.1, "--target-size", 100), "not both"),
        (("--target-size", "many"), "a size is a number of bytes"),
        (("--bpp", 0), "must be positive"),
        (("--rdo", -1), "must be finite and not negative"),
        (("-q", "low"), "give --model or --quality"),
        (("--slices", 3), "needs an entropy model"),
        (("--target-size", "2k"), "needs an entropy model"),
    ],
)
def test_rate_control_that_cannot_be_had_is_wrong_usage(run, photo, model_folder, options, message):
    result = run("encode", photo(), *options, "--model", model_folder)
    assert result.exit_code == 2
    assert message in " ".join(result.stderr.replace("│", " ").split())


def test_a_size_that_no_file_can_have_is_a_limit(run, photo, entropy_model_folder):
    result = run("encode", photo(), "--target-size", 20, "--model", entropy_model_folder)
    assert result.exit_code == 5
    assert "takes at least" in result.stderr


def test_prefix_of_a_file_without_slices_is_wrong_usage(run, photo, model_folder):
    run("encode", photo("b.png"), "--model", model_folder)
    result = run("decode", "b.gac", "out.png", "--prefix", 3, "--model", model_folder)
    assert result.exit_code == 2
    assert "no slices" in result.stderr
