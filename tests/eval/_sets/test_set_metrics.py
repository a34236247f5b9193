# SPDX-License-Identifier: Apache-2.0
"""What all commands of sets share: where sets come from, what is said before the work, and what is kept."""

import json
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from genaccel.cli import app
from genaccel.eval._sets import set_features, set_metrics

MakeFolder = Callable[..., Path]


def _run(*arguments: object, code: int = 0) -> tuple[str, str]:
    result = CliRunner().invoke(app, ["eval", *map(str, arguments)])
    assert result.exit_code == code, result.output
    return result.stdout, " ".join(result.stderr.replace("│", " ").split())


@pytest.fixture(scope="module")
def folders(picture_folder: MakeFolder) -> tuple[Path, Path]:
    return picture_folder("real", 7, seed=0), picture_folder("fake", 6, seed=1, contrast=0.8)


@pytest.fixture(scope="module")
def options(inception_weights: Path) -> list[object]:
    return ["--weights", inception_weights, "--dimensions", 64, "--json"]


@pytest.fixture
def no_features(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing may be computed."""

    def extract(*_: object, **__: object) -> None:
        raise AssertionError("features were computed")

    monkeypatch.setattr(set_metrics, "extract_features", extract)
    monkeypatch.setattr(set_features, "extract_features", extract)


def test_archives_and_arrays_are_sets(
    folders: tuple[Path, Path], options: list[object], tmp_path: Path
) -> None:
    expected = json.loads(_run("fid", *folders, *options)[0])
    with zipfile.ZipFile(tmp_path / "real.zip", "w") as archive:
        for path in folders[0].iterdir():
            archive.write(path, f"class/{path.name}")
    images = np.stack([np.asarray(Image.open(path)) for path in sorted(folders[1].iterdir())])
    np.savez(tmp_path / "fake.npz", images, np.arange(len(images)))
    record = json.loads(_run("fid", tmp_path / "real.zip", tmp_path / "fake.npz", *options)[0])
    assert record["num_images"] == [7, 6]
    assert record["value"] == pytest.approx(expected["value"], rel=1e-9)
    tiled = ["fid", folders[0], tmp_path / "fake.npz", *options, "--tile", 64]
    assert json.loads(_run(*tiled)[0])["num_images"] == [7, 6]
    tiled[-1] = 128
    assert "smaller than a tile of 128" in _run(*tiled, code=2)[1]


def test_all_that_is_wrong_is_said_before_any_feature(
    folders: tuple[Path, Path], options: list[object], tmp_path: Path, no_features: None
) -> None:
    (tmp_path / "old.npz").write_bytes(b"x")
    np.savez(tmp_path / "small.npz", mu=np.zeros(3), sigma=np.zeros((3, 3)))
    (tmp_path / "empty").mkdir()
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("a\n")
    pipeline = ["--pipeline", tmp_path / "none", "--prompts"]
    for arguments, message in (
        (["--save-statistics", tmp_path / "old.npz"], "old.npz exists already"),
        (["--save-statistics", tmp_path / "none" / "x.npz"], "there is no folder"),
        (["--save-statistics", tmp_path / "statistics"], "must end in .npz"),
        (["--save-statistics", tmp_path], "must end in .npz"),
        (["--save-features", tmp_path / "old.npz" / "x.npz"], "is not a folder"),
        ([folders[1], "--features-cache", tmp_path / "old.npz"], "is not a folder"),
        (
            ["--save-features", tmp_path / "x.npz", "--save-statistics", tmp_path / "x.npz"],
            "give one of the two",
        ),
        ([tmp_path / "nowhere"], "nowhere is not a folder"),
        ([tmp_path / "empty"], "empty holds no image"),
        ([tmp_path / "small.npz"], "has 3 features"),
        ([tmp_path / "small.npz", "--kid"], "needs the images"),
        ([*pipeline, tmp_path / "nowhere.txt"], "nowhere.txt"),
        ([*pipeline, prompts, "--prompt-argument", "class_labels"], "invalid literal"),
        ([*pipeline, prompts], "none"),
    ):
        _, stderr = _run("fid", folders[0], *arguments, *options, code=2)
        assert message in stderr, arguments


def test_features_are_extracted_once(
    folders: tuple[Path, Path],
    options: list[object],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cache = ["--features-cache", tmp_path / "cache"]
    plain = json.loads(_run("fid", *folders, *options)[0])
    first = json.loads(_run("fid", *folders, *options, *cache)[0])
    assert len(list((tmp_path / "cache").iterdir())) == 2

    def extract(*_: object, **__: object) -> None:
        raise AssertionError("features were computed")

    with monkeypatch.context() as patch:
        patch.setattr(set_features, "extract_features", extract)
        again = json.loads(_run("fid", *folders, *options, *cache)[0])
    assert plain["value"] == first["value"] == again["value"]
    assert again["sets"] == [str(folder) for folder in folders]

    # Other images, another preparation or a damaged file: computed anew.
    for path in (tmp_path / "cache").iterdir():
        path.write_bytes(b"damaged")
    assert json.loads(_run("fid", *folders, *options, *cache)[0])["value"] == plain["value"]
    _run("fid", *folders, *options, *cache, "--resize", "bicubic")
    assert len(list((tmp_path / "cache").iterdir())) == 4


def test_a_cache_remembers_what_was_left_out(
    picture_folder: MakeFolder, options: list[object], tmp_path: Path
) -> None:
    folder = picture_folder("mixed", 3, seed=3)
    (folder / "001b.png").write_bytes(b"no image")  # in the middle
    cache = ["--features-cache", tmp_path / "cache"]
    for _ in range(2):
        stdout, stderr = _run("fid", folder, folder, *options, *cache, code=6)
        assert list(json.loads(stdout)["skipped"]) == [str(folder / "001b.png")]
        assert "1 left out" in stderr
    _, stderr = _run("fid", folder, folder, *options, *cache, "--strict", code=2)
    assert "001b.png" in stderr


def test_kept_features_serve_metrics_that_need_them(
    folders: tuple[Path, Path], options: list[object], inception_weights: Path, tmp_path: Path
) -> None:
    both = json.loads(_run("fid", *folders, *options, "--kid")[0])
    lines = _run("fid", *folders, *options[:-1], "--kid", "--csv")[0].splitlines()
    assert lines[-1] == "kid_standard_deviation,"
    plain = json.loads(_run("fid", *folders, *options)[0])
    assert both["value"] == plain["value"]
    assert both["details"]["kid_standard_deviation"] is None
    assert (both["settings"]["kid_subsets"], both["settings"]["kid_subset_size"]) == (1, [7, 6])
    npz = tmp_path / "real.npz"
    _run("fid", folders[0], "--save-features", npz, *options)
    kept = json.loads(_run("fid", npz, folders[1], *options, "--kid")[0])
    assert kept["value"] == both["value"]
    assert kept["details"]["kid"] == both["details"]["kid"]
    with np.load(npz) as file:
        assert file["features"].shape == (7, 64)
        assert file["mu"].shape == (64,)


def test_what_is_no_image_is_counted_and_what_should_be_is_named(
    picture_folder: MakeFolder, folders: tuple[Path, Path], options: list[object], tmp_path: Path
) -> None:
    elsewhere = picture_folder("elsewhere", 4, seed=4)
    root = tmp_path / "classes"
    root.mkdir()
    (root / "cats").symlink_to(elsewhere)
    (root / "gone.png").symlink_to("nothing.png")
    for name in ("a.txt", "b.txt"):
        (root / name).write_text("x")
    stdout, stderr = _run("fid", root, folders[1], *options, code=6)
    record = json.loads(stdout)
    assert record["num_images"] == [4, 6]
    assert record["skipped"] == {str(root / "gone.png"): "a link to what is not there"}
    assert "2 other files left out: 2 .txt" in stderr
    assert record["notes"] == [f"{root}: 2 other files left out: 2 .txt"]
    _, stderr = _run("fid", root, folders[1], *options, "--strict", code=2)
    assert "gone.png: a link to what is not there" in stderr


def test_weights_that_are_not_the_published_ones_are_told(
    folders: tuple[Path, Path], options: list[object]
) -> None:
    stdout, stderr = _run("fid", *folders, *options)
    warning = json.loads(stdout)["warnings"][0]
    assert "is not the published pt_inception-2015-12-05-6726825d.pth" in warning
    assert "warning: " in stderr
    assert json.loads(stdout)["settings"]["weights_sha256"] in warning
