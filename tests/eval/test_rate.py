# SPDX-License-Identifier: Apache-2.0
import json
from pathlib import Path

import pytest
import typer
from PIL import Image
from typer.testing import CliRunner

from genaccel.cli.eval import app
from genaccel.eval.rate import bits_per_pixel, file_rates, main, match_files


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    originals, files = tmp_path / "originals", tmp_path / "files"
    for name, size, num_bytes in (("a.gac", (8, 4), 16), ("sub/b.bin", (40, 20), 300)):
        for folder in (originals, files):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", size).save((originals / name).with_suffix(".png"))
        (files / name).write_bytes(bytes(num_bytes))
    (files / ".hidden").write_bytes(b"x")
    return originals, files


def test_bits_per_pixel() -> None:
    assert bits_per_pixel(1024, 64, 64) == 2.0
    with pytest.raises(ValueError, match="at least 1x1 pixels, got 0x4"):
        bits_per_pixel(1, 0, 4)
    with pytest.raises(ValueError, match="negative, got -1"):
        bits_per_pixel(-1, 4, 4)


def test_files_are_matched_by_stem(folders: tuple[Path, Path]) -> None:
    rates = file_rates(match_files(*folders))
    assert list(rates) == ["a", "sub/b"]
    assert rates["a"].bits_per_pixel == 4.0
    assert (rates["sub/b"].width, rates["sub/b"].height, rates["sub/b"].num_bytes) == (40, 20, 300)


def test_a_turned_original_counts_as_it_is_shown(folders: tuple[Path, Path]) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    (folders[0] / "a.png").unlink()
    Image.new("RGB", (8, 4)).save(folders[0] / "a.jpg", exif=exif)
    rate = file_rates(match_files(*folders))["a"]
    assert (rate.width, rate.height) == (4, 8)


def test_files_without_a_partner_are_named(folders: tuple[Path, Path]) -> None:
    (folders[1] / "c.gac").write_bytes(b"x")
    (folders[0] / "a.png").unlink()
    with pytest.raises(ValueError, match=r"only in .*files: a, c"):
        match_files(*folders)
    assert list(match_files(*folders, intersect=True)) == ["sub/b"]
    (folders[1] / "sub/b.jpg").write_bytes(b"x")
    with pytest.raises(ValueError, match="share the stem 'sub/b'"):
        match_files(*folders, intersect=True)


def test_folders_without_pairs_are_refused(folders: tuple[Path, Path], tmp_path: Path) -> None:
    with pytest.raises(NotADirectoryError, match="missing is not a folder"):
        match_files(folders[0], tmp_path / "missing")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="no file in common"):
        match_files(folders[0], tmp_path / "empty", intersect=True)


def test_a_damaged_original_is_named(folders: tuple[Path, Path]) -> None:
    (folders[0] / "a.png").write_bytes(b"no image")
    with pytest.raises(ValueError, match=r"a\.png: "):
        file_rates(match_files(*folders))


def test_the_command_prints_both_means(folders: tuple[Path, Path]) -> None:
    arguments = ["rate", *map(str, folders)]
    result = CliRunner().invoke(app, [*arguments, "--json", "--label", "run"])
    assert result.exit_code == 0, result.output
    content = json.loads(result.stdout)
    assert (content["kind"], content["label"]) == ("paired", "run")
    assert content["metric"]["key"] == "bits_per_pixel"
    assert content["images"] == {"a": 4.0, "sub/b": 3.0}
    assert content["mean"] == 3.5
    assert content["overall"] == pytest.approx(8 * 316 / 832)
    assert content["num_bytes"] == 316
    table = CliRunner().invoke(app, arguments).stdout
    assert "3.5000" in table
    assert "3.0385" in table
    lines = CliRunner().invoke(app, [*arguments, "--csv"]).stdout.splitlines()
    assert lines == ["image,bits_per_pixel", "a,4.0", "sub/b,3.0", "mean,3.5"]


def test_wrong_usage_is_one_sentence(folders: tuple[Path, Path], tmp_path: Path) -> None:
    missing = tmp_path / "missing"
    with pytest.raises(typer.BadParameter, match="missing is not a folder"):
        main(folders[0], missing)
    assert CliRunner().invoke(app, ["rate", str(folders[0]), str(missing)]).exit_code == 2
