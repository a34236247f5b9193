# SPDX-License-Identifier: Apache-2.0
import dataclasses
import os

import numpy as np
import pytest
import safetensors.numpy
import torch
from PIL import Image

from genaccel import ops
from genaccel.errors import BitstreamError, LimitExceededError, UnsupportedImageError
from genaccel.speculative_sr import Layers, blend, split_layers
from genaccel.speculative_sr.blend_files import blend_file, blend_layers_file, pair_folders


@pytest.fixture
def pair(picture):
    """A smooth picture and another of more detail and another tint, ``[60, 71, 3]``."""
    faithful = picture(60, 71)
    noise = np.random.default_rng(1).normal(0, 25, (60, 71, 1))
    sharp = (faithful + noise + [20, -10, 5]).clip(0, 255).astype(np.uint8)
    return faithful, sharp


@pytest.fixture
def files(pair, tmp_path):
    paths = [tmp_path / "faithful.png", tmp_path / "sharp.png"]
    for path, pixels in zip(paths, pair, strict=True):
        Image.fromarray(pixels).save(path)
    return paths


def read(path):
    with Image.open(path) as image:
        return np.array(image)


def test_blend_is_the_operator(pair):
    frames = [torch.from_numpy(pixels).permute(2, 0, 1)[None] for pixels in pair]
    expected = ops.frequency_update(*frames, 0.7)[0].permute(1, 2, 0).numpy()
    assert np.array_equal(blend(*pair, 0.7), expected)
    weight = np.zeros(pair[0].shape[:2], np.float32)
    assert np.array_equal(blend(*pair, weight=weight), pair[0])


def test_blend_has_the_mean_colour_of_the_faithful_picture_and_detail_of_the_sharp_one(pair):
    faithful, sharp = pair
    made = blend(faithful, sharp)
    assert np.abs(made.mean((0, 1)) - faithful.mean((0, 1))).max() < 0.5
    assert np.abs(sharp.mean((0, 1)) - faithful.mean((0, 1))).max() > 4

    def detail(pixels):
        return np.abs(np.diff(pixels.astype(float), axis=1)).mean()

    assert detail(made) > 1.5 * detail(faithful)


def test_pictures_of_two_sizes_are_refused_in_a_sentence(pair):
    with pytest.raises(ValueError, match=r"has 71x60 pixels and the sharp one 70x60"):
        blend(pair[0], pair[1][:, :-1])
    with pytest.raises(ValueError, match=r"sharp must be uint8 \[H, W, 3\], got uint8 \[60, 71\]"):
        blend(pair[0], pair[1][..., 0])


@pytest.mark.parametrize("alpha", [0.0, 0.6, 1.0, 1.5])
def test_layers_give_the_same_at_any_strength(pair, alpha, tmp_path):
    layers = split_layers(*pair, alpha=pair[0][..., 0])
    difference = np.abs(layers.at(alpha).astype(int) - blend(*pair, alpha))
    assert difference.max() <= 1
    assert (difference > 0).mean() < 0.02
    (tmp_path / "a.layers").write_bytes(layers.to_bytes())
    loaded = Layers.load(tmp_path / "a.layers")
    for name in (field.name for field in dataclasses.fields(Layers)):
        assert np.array_equal(getattr(loaded, name), getattr(layers, name))


def test_files_that_are_no_layers_are_refused(pair, tmp_path):
    file = tmp_path / "a.layers"
    layers = split_layers(*pair)
    data = layers.to_bytes()
    arrays = {"faithful": layers.faithful, "detail": layers.detail, "fine": layers.fine}
    others = [
        b"",
        b"no layers",
        data[:-1],
        safetensors.numpy.save({**arrays, "more": layers.fine}),
        safetensors.numpy.save({**arrays, "fine": layers.fine[:-1].copy()}),
        safetensors.numpy.save({**arrays, "detail": layers.detail.astype(np.float32)}),
        safetensors.numpy.save({"faithful": layers.faithful}),
        safetensors.numpy.save({name: array[:0] for name, array in arrays.items()}),
        safetensors.numpy.save({**arrays, "detail": layers.detail.ravel()}),
    ]
    for content in others:
        file.write_bytes(content)
        with pytest.raises(BitstreamError):
            Layers.load(file)
    file.write_bytes(data)
    with pytest.raises(LimitExceededError, match="71x60"):
        Layers.load(file, max_pixels=71 * 60 - 1)
    with pytest.raises(FileNotFoundError):
        Layers.load(tmp_path / "none.layers")


def test_files(files, pair, tmp_path):
    report = blend_file(*files, tmp_path / "out.png", alpha=0.8, keep_layers=True)
    assert np.abs(read(tmp_path / "out.png").astype(int) - blend(*pair, 0.8)).max() <= 1
    assert (report.width, report.height, report.strength) == (71, 60, 0.8)
    again = blend_layers_file(tmp_path / "out.layers", tmp_path / "softer.png", alpha=0.3)
    assert np.abs(read(tmp_path / "softer.png").astype(int) - blend(*pair, 0.3)).max() <= 1
    assert again.sharp is None
    blend_file(*files, tmp_path / "plain.png", alpha=0.8)
    assert np.array_equal(read(tmp_path / "plain.png"), blend(*pair, 0.8))
    assert sorted(os.listdir(tmp_path)) == [
        "faithful.png", "out.layers", "out.png", "plain.png", "sharp.png", "softer.png",
    ]  # fmt: skip


def test_inputs_are_never_written_over(files, tmp_path):
    before = [path.read_bytes() for path in files]
    for target in files:
        with pytest.raises(OSError, match="is the input itself"):
            blend_file(*files, target, overwrite=True)
    (tmp_path / "there.layers").write_bytes(b"mine")
    with pytest.raises(FileExistsError):
        blend_file(*files, tmp_path / "there.png", keep_layers=True)
    assert not (tmp_path / "there.png").exists()
    assert [path.read_bytes() for path in files] == before


def test_transparency_stays_and_goes_where_the_format_has_none(pair, files, tmp_path):
    alpha = np.tile(np.arange(71, dtype=np.uint8) * 3, (60, 1))
    Image.fromarray(np.dstack([pair[0], alpha])).save(files[0])
    blend_file(*files, tmp_path / "out.png", keep_layers=True)
    assert np.array_equal(read(tmp_path / "out.png")[..., 3], alpha)
    blend_layers_file(tmp_path / "out.layers", tmp_path / "again.png")
    assert np.array_equal(read(tmp_path / "again.png")[..., 3], alpha)
    report = blend_file(*files, tmp_path / "out.ppm")
    assert "ppm has no transparency: the picture was put on white" in report.notes
    assert (read(tmp_path / "out.ppm")[:, 0] == 255).all()
    black = blend_file(*files, tmp_path / "black.ppm", background=(0, 0, 0))
    assert "put on white" not in " ".join(black.notes)
    assert (read(tmp_path / "black.ppm")[:, 0] == 0).all()


def test_grey_and_deep_files(pair, files, tmp_path):
    Image.fromarray(pair[0][..., 0]).save(files[0])
    blend_file(*files, tmp_path / "grey.png")
    made = read(tmp_path / "grey.png").astype(int)
    assert np.ptp(made, axis=-1).max() == 0
    Image.fromarray(pair[0][..., 0].astype(np.uint16) * 257).save(files[0])
    with pytest.raises(UnsupportedImageError, match="--reduce-depth"):
        blend_file(*files, tmp_path / "deep.png")
    blend_file(*files, tmp_path / "deep.png", reduce_depth=True)
    assert np.array_equal(read(tmp_path / "deep.png"), read(tmp_path / "grey.png"))
    with pytest.raises(ValueError, match="known suffixes"):
        blend_file(*files, tmp_path / "out.xyz")
    (tmp_path / "grey.txt").write_text("no picture")
    with pytest.raises(BitstreamError):
        blend_file(files[0], tmp_path / "grey.txt", tmp_path / "x.png", reduce_depth=True)
    assert not (tmp_path / "x.png").exists()


def test_pictures_of_folders_are_paired_by_name(tmp_path):
    for name in ("f/a.png", "f/sub/b.png", "f/c.png", "f/d.png", "f/e.jpg"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    for name in ("s/a.jpg", "s/sub/b.png", "s/b.png", "s/d.jpg", "s/d.webp", "s/e.jpg", "s/e.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    folder = tmp_path / "f"
    names = [str(folder / name) for name in ("a.png", "c.png", "d.png", "e.jpg", "sub/b.png")]
    pairs = pair_folders(names, folder, tmp_path / "s")
    found = {
        os.path.relpath(a, folder): os.path.relpath(b, tmp_path / "s")
        for a, b in pairs.sharp_of.items()
    }
    assert found == {"a.png": "a.jpg", "e.jpg": "e.jpg", "sub/b.png": "sub/b.png"}
    assert "has no picture of this name" in pairs.unpaired[names[1]]
    assert "several pictures" in pairs.unpaired[names[2]]
    assert "d.webp" in pairs.unpaired[names[2]]
    (sentence,) = pairs.left_out
    assert sentence.endswith(str(tmp_path / "s/b.png"))
    with pytest.raises(NotADirectoryError):
        pair_folders(names, folder, tmp_path / "none")
