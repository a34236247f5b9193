# SPDX-License-Identifier: Apache-2.0
import json
import os

import numpy as np
from PIL import Image

from genaccel.speculative_sr import blend


def read(path):
    with Image.open(path) as image:
        return np.array(image)


def test_two_pictures_and_another_strength_afterwards(run, photo, tmp_path):
    faithful, sharp = photo("a.png"), photo("b.png", seed=1)
    result = run("blend", faithful, sharp, "out.png", "--alpha", 0.6, "--keep-layers")
    assert result.exit_code == 0, result.output
    assert "33x31" in result.stdout
    pair = read(faithful), read(sharp)
    assert np.abs(read("out.png").astype(int) - blend(*pair, 0.6)).max() <= 1
    result = run("blend", "out.layers", "softer.png", "--alpha", 0.2, "--json")
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    assert (report["status"], report["strength"], report["width"]) == ("ok", 0.2, 33)
    assert np.abs(read("softer.png").astype(int) - blend(*pair, 0.2)).max() <= 1


def test_a_result_that_is_there_stays_without_force(run, photo, tmp_path):
    arguments = ("blend", photo("a.png"), photo("b.png", seed=1), "out.png")
    assert run(*arguments).exit_code == 0
    before = (tmp_path / "out.png").read_bytes()
    again = run(*arguments, "--alpha", 0)
    assert again.exit_code == 1
    assert "exists already" in again.stderr
    assert (tmp_path / "out.png").read_bytes() == before
    assert run(*arguments, "--alpha", 0, "--force").exit_code == 0
    assert (tmp_path / "out.png").read_bytes() != before
    assert run(*arguments, "--skip-existing").exit_code == 0


def test_sizes_that_differ_are_refused_in_a_sentence(run, photo, tmp_path):
    result = run("blend", photo("a.png"), photo("b.png", width=34), "out.png")
    assert result.exit_code == 1
    assert result.stderr.count("\n") == 1
    assert "33x31 pixels and the sharp one 34x31" in result.stderr
    assert not (tmp_path / "out.png").exists()


def test_folders(run, photo, tmp_path):
    for name in ("f/a.png", "f/sub/b.png", "f/alone.png"):
        photo(name)
    for name in ("s/a.webp", "s/sub/b.png", "s/over.png"):
        photo(name, seed=1)
    result = run("blend", "f", "s", "out", "--format", "webp", "--jobs", 2)
    assert result.exit_code == 6, result.output
    assert "f/alone.png: s has no picture of this name" in result.stderr
    assert "s/over.png" in result.stderr
    made = sorted(str(p.relative_to(tmp_path / "out")) for p in (tmp_path / "out").rglob("*.*"))
    assert made == ["a.webp", "sub/b.webp"]
    pair = read("f/sub/b.png"), read("s/sub/b.png")
    assert np.array_equal(read("out/sub/b.webp"), blend(*pair))


def test_layers_of_a_folder(run, photo, tmp_path):
    photo("f/a.png"), photo("s/a.png", seed=1)
    assert run("blend", "f", "s", "out", "--keep-layers").exit_code == 0
    result = run("blend", "out", "softer", "--alpha", 0.3)
    assert result.exit_code == 0, result.output
    expected = blend(read("f/a.png"), read("s/a.png"), 0.3)
    assert np.abs(read("softer/a.png").astype(int) - expected).max() <= 1


def test_wrong_usage_is_said(run, photo, tmp_path):
    a, b = photo("a.png"), photo("b.png")
    (tmp_path / "folder").mkdir()
    (tmp_path / "broken.layers").write_bytes(b"no layers")
    for arguments, code, message in (
        ((a, b), 2, "no file of layers"),
        ((a,), 2, "1 paths"),
        ((a, b, "c.png", "d.png"), 2, "4 paths"),
        ((a, b, "-"), 2, "not standard input"),
        ((a, b, "out.xyz"), 2, "does not tell the image format"),
        ((a, "folder", "out.png"), 2, "is a folder"),
        ((a, b, "out.png", "--alpha", "nan"), 2, "finite"),
        ((a, "none.png", "out.png"), 1, "none.png"),
        (("broken.layers", "out.png"), 3, "not a file of layers"),
        (("broken.layers", "out.png", "--keep-layers"), 2, "layers are there already"),
        ((a, b, a, "--force"), 1, "is the input itself"),
    ):
        result = run("blend", *arguments)
        assert (result.exit_code, message in " ".join(result.stderr.split())) == (code, True), (
            arguments, result.stderr,
        )  # fmt: skip
    assert run("blend", a, b, "folder").exit_code == 0
    assert os.listdir(tmp_path / "folder") == ["a.png"]


def test_a_dry_run_makes_nothing(run, photo, tmp_path):
    result = run("blend", photo("a.png"), photo("b.png"), "out.png", "--dry-run")
    assert result.exit_code == 0
    assert not (tmp_path / "out.png").exists()
