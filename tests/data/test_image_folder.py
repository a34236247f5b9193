# SPDX-License-Identifier: Apache-2.0
import logging
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader, Subset

from genaccel.data.image_folder import RandomCropDataset
from genaccel.eval.held_out import held_out_photographs
from genaccel.files.images import AS_STORED, read_image


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("photographs")
    (root / "more").mkdir()
    photographs = held_out_photographs()
    Image.fromarray(photographs["chelsea"]).save(root / "chelsea.png")
    Image.fromarray(photographs["coffee"][:200, :150]).save(root / "more/coffee.png")
    return root


def test_a_crop_depends_on_seed_and_number_alone(folder: Path) -> None:
    one = RandomCropDataset(folder, 64, seed=3)
    other = RandomCropDataset(folder, 64, seed=3, cache_bytes=0)
    forward = [one[i] for i in range(12)]
    backward = [other[i] for i in reversed(range(12))][::-1]
    assert all(torch.equal(a, b) for a, b in zip(forward, backward, strict=True))
    assert not torch.equal(RandomCropDataset(folder, 64, seed=4)[0], forward[0])
    assert len({crop.numpy().tobytes() for crop in forward}) == len(forward)


def test_a_worker_gives_the_same_stream(folder: Path) -> None:
    dataset = RandomCropDataset(folder, 32)
    loader = DataLoader(Subset(dataset, range(40, 48)), batch_size=4, num_workers=1)
    assert torch.equal(torch.cat(list(loader)), torch.stack([dataset[i] for i in range(40, 48)]))


def test_the_largest_number_works(folder: Path) -> None:
    dataset = RandomCropDataset(folder, 32, seed=2**64 - 1)
    assert dataset[2**64 - 1].shape == (3, 32, 32)
    for index in (-1, 2**64):
        with pytest.raises(IndexError, match="index must be within"):
            dataset[index]


def test_unscaled_crops_are_cut_out_exactly_and_half_are_mirrored(folder: Path) -> None:
    dataset = RandomCropDataset(folder, 150, scale=(1.0, 1.0))
    images = [read_image(path, AS_STORED).pixels for path in dataset.paths]
    windows = [
        np.lib.stride_tricks.sliding_window_view(image, (150, 150), axis=(0, 1)) for image in images
    ]

    def is_cut_out(crop: np.ndarray) -> bool:
        # [3, S, S] against windows [rows, columns, 3, S, S]; the first row of pixels decides mostly.
        return any(
            (view[y, x] == crop).all()
            for view in windows
            for y, x in zip(
                *np.nonzero((view[..., 0, :4] == crop[:, 0, :4]).all((2, 3))), strict=True
            )
        )

    mirrored = 0
    for i in range(40):
        crop = ((dataset[i] + 1) * 127.5).round().numpy().astype(np.uint8)
        plain, flipped = is_cut_out(crop), is_cut_out(crop[..., ::-1])
        assert plain != flipped
        mirrored += flipped
    assert 10 <= mirrored <= 30


def test_colours_are_exchanged_in_the_given_share_of_crops(folder: Path) -> None:
    plain = RandomCropDataset(folder, 32, color_permutation=0.0)
    always = RandomCropDataset(folder, 32, color_permutation=1.0)
    changed = 0
    for i in range(60):
        a, b = plain[i], always[i]
        # The same pixels; only what their channels are called may differ.
        assert torch.equal(a.sort(dim=0).values, b.sort(dim=0).values)
        changed += not torch.equal(a, b)
    assert 35 <= changed <= 60  # five of six permutations change something


def test_downscaled_crops_cover_more_of_the_image(folder: Path, tmp_path: Path) -> None:
    pixels = read_image(folder / "chelsea.png", AS_STORED).pixels[:, :300]
    Image.fromarray(pixels).save(tmp_path / "chelsea.png")
    crop = RandomCropDataset(tmp_path, 150, scale=(0.5, 0.5))[0]
    # At half scale the crop is the whole image; the mirroring does not change the means of its rows.
    rows = pixels.mean((1, 2)).reshape(150, 2).mean(1) / 127.5 - 1
    np.testing.assert_allclose(crop.mean((0, 2)).numpy(), rows, atol=0.02)


def test_the_scale_is_raised_for_small_images(tmp_path: Path) -> None:
    Image.new("RGB", (64, 80), (255, 0, 0)).save(tmp_path / "small.png")
    crop = RandomCropDataset(tmp_path, 64, scale=(0.1, 0.2))[0]
    assert torch.equal(crop, torch.tensor([1.0, -1.0, -1.0])[:, None, None].expand(3, 64, 64))


def test_unusable_files_are_left_out_and_named(
    folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    whole = (folder / "chelsea.png").read_bytes()
    (tmp_path / "whole.png").write_bytes(whole)
    (tmp_path / "truncated.png").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "text.jpg").write_text("no image")
    Image.new("RGB", (63, 400)).save(tmp_path / "narrow.png")
    with caplog.at_level(logging.WARNING):
        dataset = RandomCropDataset(tmp_path, 64)
    assert [path.name for path in dataset.paths] == ["whole.png"]
    assert {path.name for path in dataset.skipped} == {"truncated.png", "text.jpg", "narrow.png"}
    assert "narrow.png: 63x400 pixels, smaller than a crop" in caplog.text
    assert "text.jpg" in caplog.text


def test_a_folder_without_usable_images_is_refused(tmp_path: Path) -> None:
    Image.new("RGB", (16, 16)).save(tmp_path / "small.png")
    with pytest.raises(ValueError, match="no image of at least 64x64 pixels"):
        RandomCropDataset(tmp_path, 64)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"crop_size": 0}, "crop_size must be at least 1, got 0"),
        ({"color_permutation": 1.5}, "color_permutation"),
        ({"scale": (0.0, 1.0)}, "scale must satisfy"),
        ({"scale": (0.9, 0.5)}, "scale must satisfy"),
        ({"scale": (0.5, 1.5)}, "scale must satisfy"),
        ({"seed": -1}, "seed must be within"),
        ({"cache_bytes": -1}, "cache_bytes must not be negative"),
    ],
)
def test_arguments_out_of_range_are_refused(folder: Path, options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        RandomCropDataset(folder, **({"crop_size": 32} | options))
