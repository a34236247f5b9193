# SPDX-License-Identifier: Apache-2.0
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from genaccel.cli import app
from genaccel.eval._sets.frechet import frechet_distance
from genaccel.eval._sets.image_sources import FileImages
from genaccel.eval._sets.set_features import SetFeatures, extract_features
from genaccel.eval.fid import frechet_value, load_inception

MakeFolder = Callable[..., Path]


@pytest.fixture(scope="module")
def folders(picture_folder: MakeFolder) -> tuple[Path, Path]:
    return picture_folder("real", 12, seed=0), picture_folder("fake", 10, seed=1, contrast=0.8)


def _run(*arguments: object, code: int = 0) -> tuple[str, str]:
    result = CliRunner().invoke(app, ["eval", *map(str, arguments)])
    assert result.exit_code == code, result.output
    return result.stdout, " ".join(result.stderr.replace("│", " ").split())


@pytest.mark.golden
@pytest.mark.filterwarnings("ignore:The `disp` argument")  # of scipy's sqrtm, in pytorch-fid
def test_it_is_the_number_of_pytorch_fid(
    picture_folder: MakeFolder,
    inception_weights: Path,
    monkeypatch: pytest.MonkeyPatch,
    quiet_torchvision: object,
    tmp_path: Path,
) -> None:
    inception = pytest.importorskip("pytorch_fid.inception")
    fid_score = pytest.importorskip("pytorch_fid.fid_score")
    monkeypatch.setattr(
        inception, "load_state_dict_from_url", lambda *a, **k: torch.load(inception_weights)
    )
    # More images than features: a singular product has no square root that the two could agree on.
    real = picture_folder("parity_a", 70, seed=0)
    fake = picture_folder("parity_b", 66, seed=1, contrast=0.8)
    expected = fid_score.calculate_fid_given_paths(
        [str(real), str(fake)], 20, "cpu", 64, num_workers=0
    )
    options = ["--weights", inception_weights, "--dimensions", 64, "--workers", 0, "--json"]
    stdout, stderr = _run("fid", real, fake, *options)
    record = json.loads(stdout)
    assert record["genaccel_eval"] == 1
    assert record["metric"]["key"] == "fid_64"
    assert record["num_images"] == [70, 66]
    assert record["settings"]["resize"] == "bilinear"
    assert expected > 1e-3
    assert record["value"] == pytest.approx(expected, rel=1e-5, abs=0)
    assert "66 images are too few" in stderr

    # Statistics that it saved stand for the folder.
    npz = tmp_path / "theirs.npz"
    fid_score.save_fid_stats([str(real), str(npz)], 20, "cpu", 64, num_workers=0)
    stdout, _ = _run("fid", npz, fake, *options)
    assert json.loads(stdout)["value"] == pytest.approx(expected, rel=1e-5, abs=0)


@pytest.mark.golden
@pytest.mark.parametrize("dimensions", [192, 768, 2048])
def test_features_are_those_of_pytorch_fid(
    dimensions: int,
    folders: tuple[Path, Path],
    inception_weights: Path,
    monkeypatch: pytest.MonkeyPatch,
    quiet_torchvision: object,
) -> None:
    inception = pytest.importorskip("pytorch_fid.inception")
    fid_score = pytest.importorskip("pytorch_fid.fid_score")
    monkeypatch.setattr(
        inception, "load_state_dict_from_url", lambda *a, **k: torch.load(inception_weights)
    )
    files = sorted(folders[0].glob("*.png"))[:3]
    block = inception.InceptionV3.BLOCK_INDEX_BY_DIM[dimensions]
    network = inception.InceptionV3([block])
    expected = fid_score.get_activations(files, network, 3, dimensions, "cpu", num_workers=0)
    extractor = load_inception(inception_weights, dimensions=dimensions)  # type: ignore[arg-type]
    ours = extract_features(FileImages(name="files", files=files), extractor).features
    np.testing.assert_allclose(ours, expected, rtol=1e-4, atol=1e-5 * np.abs(expected).max())


def test_batches_and_workers_do_not_change_it(
    folders: tuple[Path, Path], inception_weights: Path
) -> None:
    extractor = load_inception(inception_weights, dimensions=192)
    source = FileImages.from_folder(folders[0])
    whole = extract_features(source, extractor, batch_size=50)
    again = extract_features(source, extractor, batch_size=50, workers=1)
    np.testing.assert_array_equal(whole.features, again.features)
    assert frechet_distance(whole.statistics, again.statistics) == pytest.approx(0, abs=1e-6)
    fives = extract_features(source, extractor, batch_size=5)
    assert fives.features is not None
    np.testing.assert_allclose(fives.features, whole.features, rtol=1e-4, atol=1e-5)


def test_saved_statistics_are_checked(
    folders: tuple[Path, Path], inception_weights: Path, tmp_path: Path
) -> None:
    options = ["--weights", inception_weights, "--dimensions", 64]
    npz = tmp_path / "real.npz"
    _run("fid", folders[0], "--save-statistics", npz, *options)
    _, stderr = _run("fid", folders[0], "--save-statistics", npz, *options, code=2)
    assert "real.npz" in stderr
    stdout, _ = _run("fid", npz, folders[1], "--json", *options)
    from_file = json.loads(stdout)["value"]
    stdout, _ = _run("fid", *folders, "--json", *options)
    assert from_file == pytest.approx(json.loads(stdout)["value"], rel=1e-12)
    _, stderr = _run("fid", npz, folders[1], *options, "--resize", "bicubic", code=2)
    assert "made with resize bilinear, this run has bicubic" in stderr
    _, stderr = _run("fid", npz, folders[1], "--weights", inception_weights, code=2)
    assert "has 64 features" in stderr
    _, stderr = _run("kid", npz, folders[1], "--weights", inception_weights, code=2)
    assert "KID needs the images" in stderr


def test_bad_input_is_one_sentence(
    folders: tuple[Path, Path], inception_weights: Path, tmp_path: Path
) -> None:
    options = ["--weights", inception_weights, "--dimensions", 64]
    (tmp_path / "empty").mkdir()
    _, stderr = _run("fid", tmp_path / "empty", folders[1], *options, code=2)
    assert "holds no image" in stderr
    (tmp_path / "one").mkdir()
    Image.new("RGB", (80, 80)).save(tmp_path / "one" / "a.png")
    _, stderr = _run("fid", folders[0], tmp_path / "one", *options, code=2)
    assert "needs at least two images, got 1" in stderr
    np.savez(tmp_path / "wrong.npz", arr_0=np.zeros(3))
    _, stderr = _run("fid", tmp_path / "wrong.npz", folders[1], *options, code=2)
    assert "wrong.npz holds no statistics" in stderr
    _, stderr = _run("fid", folders[0], *options, code=2)
    assert "give the generated images" in stderr
    _, stderr = _run("fid", folders[0], tmp_path / "nowhere", *options, code=2)
    assert "nowhere" in stderr
    (tmp_path / "garbage.pth").write_bytes(b"no weights")
    _, stderr = _run("fid", *folders, "--weights", tmp_path / "garbage.pth", code=2)
    assert "garbage.pth holds no weights" in stderr


def test_unusable_files_are_named_or_fatal(
    picture_folder: MakeFolder, folders: tuple[Path, Path], inception_weights: Path
) -> None:
    folder = picture_folder("mixed", 4, seed=2)
    (folder / "cut.png").write_bytes((folder / "000.png").read_bytes()[:400])
    Image.new("RGBA", (64, 64), (255, 0, 0, 100)).save(folder / "glass.png")
    Image.new("L", (50, 70), 9).save(folder / "grey.png")
    options = ["--weights", inception_weights, "--dimensions", 64]
    stdout, stderr = _run("fid", folders[0], folder, "--json", *options, code=6)
    record = json.loads(stdout)
    assert record["num_images"] == [12, 5]
    assert {Path(name).name for name in record["skipped"]} == {"cut.png", "glass.png"}
    assert "2 left out" in stderr
    assert "--convert" in record["skipped"][str(folder / "glass.png")]
    stdout, _ = _run("fid", folders[0], folder, "--json", "--convert", *options, code=6)
    assert json.loads(stdout)["num_images"] == [12, 6]
    _, stderr = _run("fid", folders[0], folder, "--strict", *options, code=2)
    assert "cut.png" in stderr


def test_tiles(picture_folder: MakeFolder, inception_weights: Path) -> None:
    folder = picture_folder("large", 2, seed=3, size=(200, 130))
    options = ["--weights", inception_weights, "--dimensions", 64, "--tile", 64]
    stdout, _ = _run("fid", folder, folder, "--json", *options)
    # Two by three tiles, and one by two of the shifted grid.
    assert json.loads(stdout)["num_images"] == [16, 16]
    assert json.loads(stdout)["value"] == pytest.approx(0, abs=1e-5)


def test_small_sets_come_with_a_limit_where_it_says_something(
    picture_folder: MakeFolder, inception_weights: Path
) -> None:
    extractor = load_inception(inception_weights, dimensions=64)

    def features(count: int, seed: int, contrast: float = 1.0) -> SetFeatures:
        folder = picture_folder("s", count, seed=seed, contrast=contrast)
        return extract_features(FileImages.from_folder(folder), extractor)

    real = features(40, 5)
    result = frechet_value(real, features(40, 6, contrast=0.5))
    assert 0 < result.details["at_infinitely_many_images"] < result.value  # type: ignore[operator]
    assert len(result.warnings) == 1
    assert "at infinitely many" in result.warnings[0]

    # Of the same distribution: the line in 1/N crosses zero.
    negative = frechet_value(real, features(40, 6))
    assert negative.details == {"no_limit_because": "the extrapolation comes out negative"}
    assert "at infinitely many" not in negative.warnings[0]

    few = frechet_value(real, features(20, 7))
    assert few.details == {"no_limit_because": "20 images give no line to extrapolate"}


def test_sets_that_share_images_have_no_limit(
    picture_folder: MakeFolder, inception_weights: Path
) -> None:
    folder, part = picture_folder("whole", 36, seed=5), picture_folder("part", 0, seed=0)
    for path in sorted(folder.iterdir())[:32]:
        # The same pixels in another format, under another name.
        Image.open(path).save(part / f"copy-{path.stem}.bmp")
    options = ["--weights", inception_weights, "--dimensions", 64, "--json"]
    for other, count in ((folder, 36), (part, 32)):
        stdout, stderr = _run("fid", folder, other, *options)
        record = json.loads(stdout)
        assert record["value"] >= 0
        assert record["details"] == {"no_limit_because": f"the sets share {count} images"}
        assert f"warning: the sets share {count} images" in stderr
    # What the sets share is known from statistics on the disk, too.
    npz = part.parent / "shared.npz"
    _run("fid", folder, "--save-statistics", npz, *options)
    stdout, _ = _run("fid", npz, part, *options)
    assert json.loads(stdout)["details"] == {"no_limit_because": "the sets share 32 images"}
