# SPDX-License-Identifier: Apache-2.0
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hand_made_images import stored
from PIL import Image

from genaccel.errors import BitstreamError, UnsupportedImageError
from genaccel.eval._sets.extractors import Extractor, Prepare, resize_to_square
from genaccel.eval._sets.image_sources import (
    FileImages,
    GeneratedImages,
    PipelineImages,
    tiles_of,
)
from genaccel.eval._sets.processes import Processes
from genaccel.eval._sets.set_features import extract_features


def _mean_colour(side: int = 8) -> Extractor:
    """Three features that can be computed by hand."""
    prepare = Prepare(side=side, resize="bilinear", mean=(0, 0, 0), deviation=(1, 1, 1))
    return Extractor(
        name="colour",
        dimensions=3,
        network=lambda x: x.mean((2, 3)),
        prepare=prepare,
        weights="",
        device=torch.device("cpu"),
    )


@pytest.mark.parametrize("resize", ["bilinear", "antialias", "bicubic"])
def test_resizing_keeps_flat_colours_and_range(resize: str) -> None:
    flat = np.full((31, 50, 3), (255, 0, 51), np.uint8)
    x = resize_to_square(flat, 16, resize)  # type: ignore[arg-type]
    assert x.shape == (3, 16, 16)
    torch.testing.assert_close(x[:, 3, 3], torch.tensor([1.0, 0.0, 0.2]))
    checks = np.zeros((40, 40, 3), np.uint8)
    checks[::2, ::2] = 255
    resized = resize_to_square(checks, 20, resize)  # type: ignore[arg-type]
    assert 0 <= float(resized.min()) <= float(resized.max()) <= 1
    # Every second pixel white in both directions: a quarter on average, however it is sampled here.
    assert float(resized.mean()) == pytest.approx(0.25, abs=0.02)


def test_pillow_images_of_generators_are_read_by_the_rules_of_files() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = Image.open(stored(Image.new("RGB", (4, 2), (200, 100, 50)), "PNG", exif=exif))
    levels = Image.fromarray(np.full((2, 2), 0.2, np.float32))
    images = GeneratedImages(images=[turned, levels])
    (batch,) = images.batches(
        _mean_colour(2).prepare, batch_size=4, processes=Processes(), workers=0
    )
    np.testing.assert_allclose(batch.images.mean((2, 3))[:, 0], [200 / 255, 51 / 255], rtol=1e-6)
    deep = Image.fromarray(np.full((2, 2), 40000, np.uint16))
    for refused, complaint in (
        (deep, "more than 8 bits"),
        (Image.new("LA", (2, 2)), "transparent"),
    ):
        with pytest.raises(UnsupportedImageError, match=complaint):
            extract_features(GeneratedImages(images=[refused]), _mean_colour(), batch_size=1)


def test_generators_are_counted_and_shared_by_none() -> None:
    images = (np.full((8, 8, 3), 10 * i, np.uint8) for i in range(7))
    result = extract_features(GeneratedImages(images=images), _mean_colour(), batch_size=3)
    assert result.statistics.num_images == 7
    assert result.features is not None
    np.testing.assert_allclose(result.features[:, 0], np.arange(7) * 10 / 255, rtol=1e-6)
    with pytest.raises(ValueError, match="shared by several processes"):
        next(
            GeneratedImages(images=[]).batches(
                _mean_colour().prepare,
                batch_size=1,
                processes=Processes(rank=0, world_size=2),
                workers=0,
            )
        )


class _Pipeline:
    """Draws noise of the size that a diffusers pipeline would."""

    def __init__(self) -> None:
        self.calls: list[dict[str, object]] = []

    def __call__(self, **arguments: object) -> SimpleNamespace:
        self.calls.append(arguments)
        generators = arguments["generator"]
        assert isinstance(generators, list)
        images = [torch.rand(8, 8, 3, generator=g).numpy() for g in generators]
        return SimpleNamespace(images=np.stack(images))


def test_images_of_a_pipeline_do_not_depend_on_the_batches() -> None:
    results = []
    for images_per_call in (1, 3):
        pipeline = _Pipeline()
        source = PipelineImages(
            pipeline=pipeline,
            prompts=["a", "b", "c", "d"],
            arguments={"num_inference_steps": 2},
            images_per_call=images_per_call,
            seed=5,
        )
        results.append(extract_features(source, _mean_colour()).features)
        assert pipeline.calls[0]["prompt"] == ["a", "b", "c"][:images_per_call]
        assert pipeline.calls[0]["num_inference_steps"] == 2
        assert pipeline.calls[0]["output_type"] == "np"
    np.testing.assert_array_equal(*results)


def test_processes_share_the_batches(tmp_path: Path) -> None:
    for i in range(11):
        Image.new("RGB", (8, 8), (i, i, i)).save(tmp_path / f"{i:02}.png")
    source = FileImages.from_folder(tmp_path)
    seen: dict[int, list[float]] = {}
    for rank in range(3):
        for batch in source.batches(
            _mean_colour().prepare,
            batch_size=2,
            processes=Processes(rank=rank, world_size=3),
            workers=0,
        ):
            assert batch.number % 3 == rank
            seen[batch.number] = (batch.images[:, 0, 0, 0] * 255).round().tolist()
    assert [level for number in sorted(seen) for level in seen[number]] == list(range(11))


def test_tiles_cover_two_grids() -> None:
    image = np.arange(10 * 7 * 3, dtype=np.uint8).reshape(7, 10, 3)
    tiles = list(tiles_of(image, 4))
    assert len(tiles) == 2 + 2
    np.testing.assert_array_equal(tiles[1], image[:4, 4:8])
    np.testing.assert_array_equal(tiles[2], image[2:6, 2:6])


def test_folders_without_use_are_refused(tmp_path: Path) -> None:
    with pytest.raises(NotADirectoryError):
        FileImages.from_folder(tmp_path / "none")
    with pytest.raises(ValueError, match="holds no image"):
        FileImages.from_folder(tmp_path)
    (tmp_path / "a.png").write_bytes(b"\x89PNG no")
    with pytest.raises(ValueError, match=r"at least two images, got 0; .*a\.png"):
        extract_features(FileImages.from_folder(tmp_path), _mean_colour())
    with pytest.raises(ValueError, match=r"a\.png: ") as caught:
        extract_features(FileImages.from_folder(tmp_path, strict=True), _mean_colour())
    assert isinstance(caught.value.__cause__, BitstreamError)
