# SPDX-License-Identifier: Apache-2.0
import importlib
import urllib.error
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from genaccel.codec.image_codec import ImageCodec
from genaccel.eval._rate import compressai_models
from genaccel.eval._rate.compressai_models import (
    CompressAiCodec,
    as_compressai,
    load_compressai,
    to_image,
    to_tensor,
)
from genaccel.eval._rate.operating_points import parse_codec
from genaccel.eval.held_out import held_out_photographs
from genaccel.eval.ms_ssim import ms_ssim_of_images
from genaccel.eval.psnr import psnr


def _compressai(module: str) -> Any:
    """A module of CompressAI; its imports warn about torch's deprecations, and it sets threads."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pytest.importorskip(
            module, reason="needs CompressAI: pip install 'genaccel[codec]'", exc_type=ImportError
        )


@pytest.fixture(scope="module")
def eval_model() -> Any:
    """CompressAI's evaluation program."""
    return _compressai("compressai.utils.eval_model.__main__")


@pytest.fixture(scope="module")
def codec() -> ImageCodec:
    return ImageCodec.from_pretrained()


@pytest.fixture(scope="module")
def photograph() -> NDArray[np.uint8]:
    """Sides are multiples of 64, so that CompressAI's evaluation adds no border."""
    return np.ascontiguousarray(held_out_photographs()["astronaut"][64:256, 128:384])


def _bits_per_pixel(data: bytes, image: NDArray[np.uint8]) -> float:
    return 8 * len(data) * 3 / image.size


def _random_model(architecture: str) -> torch.nn.Module:
    """Untrained, but with tables."""
    model = _compressai("compressai.zoo").image_models[architecture](1, pretrained=False)
    model.update(force=True)
    return model.eval()


def test_tensors_and_images_are_inverse(photograph: NDArray[np.uint8]) -> None:
    np.testing.assert_array_equal(to_image(to_tensor(photograph)), photograph)


@pytest.mark.golden
def test_compressai_finds_the_rate_and_quality_of_our_files(
    eval_model: Any, codec: ImageCodec, photograph: NDArray[np.uint8]
) -> None:
    data = codec.encode(photograph)
    decoded = codec.decode(data)
    x = to_tensor(photograph)[0]
    for function in (eval_model.inference, eval_model.inference_entropy_estimation):
        found = function(as_compressai(codec), x)
        assert found["bpp"] == pytest.approx(_bits_per_pixel(data, photograph), rel=1e-9)
        assert found["psnr-rgb"] == pytest.approx(psnr(photograph, decoded), abs=1e-4)
        assert found["ms-ssim-rgb"] == pytest.approx(
            ms_ssim_of_images(photograph, decoded), abs=1e-5
        )


@pytest.mark.golden
def test_compressai_evaluates_a_folder_with_our_codec(
    eval_model: Any, codec: ImageCodec, photograph: NDArray[np.uint8], tmp_path: Path
) -> None:
    images = [photograph, np.ascontiguousarray(photograph[:, ::-1])]
    for i, image in enumerate(images):
        Image.fromarray(image).save(tmp_path / f"{i}.png")
    found = eval_model.eval_model(
        as_compressai(codec),
        "",
        tmp_path,
        eval_model.collect_images(str(tmp_path)),
        architecture="genaccel",
        half=False,
        per_image=False,
    )
    rates = [_bits_per_pixel(codec.encode(image), image) for image in images]
    assert found["bpp"] == pytest.approx(np.mean(rates), rel=1e-9)


def test_a_batch_keeps_its_images_apart(codec: ImageCodec, photograph: NDArray[np.uint8]) -> None:
    model = as_compressai(codec)
    other = np.ascontiguousarray(photograph[::-1])
    x = torch.cat([to_tensor(photograph), to_tensor(other)])
    assert model.update(force=True) is False
    coded = model.compress(x)
    assert coded["strings"] == [[codec.encode(photograph), codec.encode(other)]]
    out = model(x)
    assert out["x_hat"].shape == x.shape
    np.testing.assert_array_equal(to_image(out["x_hat"][1:]), codec.decode(codec.encode(other)))
    bits = -torch.log2(out["likelihoods"]["file"]).sum(dim=(1, 2, 3))
    expected = [8.0 * len(data) for data in coded["strings"][0]]
    np.testing.assert_allclose(bits.numpy(), expected, rtol=1e-12)
    with pytest.raises(ValueError, match=r"shape must be \(192, 256\), got \(1, 2\)"):
        model.decompress(coded["strings"], (1, 2))
    with pytest.raises(ValueError, match="one list of files, got 2"):
        model.decompress([[], []], (1, 2))


@pytest.mark.golden
@pytest.mark.parametrize("size", [(192, 256), (170, 190)])
@pytest.mark.parametrize("architecture", ["bmshj2018-factorized", "bmshj2018-hyperprior"])
def test_their_models_give_the_rate_and_quality_that_they_find(
    eval_model: Any, photograph: NDArray[np.uint8], architecture: str, size: tuple[int, int]
) -> None:
    model = _random_model(architecture)
    image = np.ascontiguousarray(photograph[: size[0], : size[1]])
    codec = CompressAiCodec(model)
    data = codec.encode(image)
    found = eval_model.inference(model, to_tensor(image)[0])
    strings = 1 if architecture == "bmshj2018-factorized" else 2
    # Beside the strings that they count: a header of 9 bytes and 4 for the length of each.
    assert _bits_per_pixel(data[9 + 4 * strings :], image) == pytest.approx(found["bpp"])
    decoded = codec.decode(data)
    assert decoded.shape == image.shape
    assert psnr(image, decoded) == pytest.approx(found["psnr-rgb"], abs=1e-4)


def test_damaged_bytes_are_refused(photograph: NDArray[np.uint8]) -> None:
    codec = CompressAiCodec(_random_model("bmshj2018-factorized"))
    data = codec.encode(photograph)
    for damaged in (b"", data[:10], data[:-1], data + b"x"):
        with pytest.raises(ValueError, match="compressed image"):
            codec.decode(damaged)


@pytest.mark.parametrize("prefix", ["", "module."])
@pytest.mark.parametrize("key", [None, "state_dict"])
def test_checkpoints_are_loaded(
    photograph: NDArray[np.uint8], tmp_path: Path, key: str | None, prefix: str
) -> None:
    model = _random_model("bmshj2018-factorized")
    weights = {prefix + name: value for name, value in model.state_dict().items()}
    path = tmp_path / "q1.pth"
    torch.save({key: weights} if key else weights, path)
    loaded = CompressAiCodec(load_compressai("bmshj2018-factorized", 1, checkpoint=path))
    assert loaded.encode(photograph) == CompressAiCodec(model).encode(photograph)
    points = parse_codec(f"compressai:bmshj2018-factorized:1:{tmp_path}/q{{quality}}.pth")
    assert [(point.codec, point.setting) for point in points] == [
        ("bmshj2018-factorized", "quality 1")
    ]
    coded = points[0].load()("astronaut", photograph)
    assert coded.num_bytes == len(loaded.encode(photograph))
    np.testing.assert_array_equal(coded.decoded, loaded.decode(loaded.encode(photograph)))


def test_wrong_models_and_checkpoints_are_one_sentence(tmp_path: Path) -> None:
    _compressai("compressai.zoo")
    with pytest.raises(ValueError, match=r"architecture must be one of .*, got 'resnet'"):
        load_compressai("resnet", 1)
    with pytest.raises(ValueError, match="got 'mbt2018-vbr'"):
        parse_codec("compressai:mbt2018-vbr:1")
    with pytest.raises(ValueError, match="Invalid quality"):
        load_compressai("mbt2018", 99, checkpoint=tmp_path / "x.pth")
    (tmp_path / "text.pth").write_text("no checkpoint")
    with pytest.raises(ValueError, match=r"text\.pth is not a checkpoint"):
        load_compressai("mbt2018", 1, checkpoint=tmp_path / "text.pth")
    torch.save({"x": torch.zeros(1)}, tmp_path / "other.pth")
    with pytest.raises(ValueError, match=r"other\.pth is no checkpoint of mbt2018 at quality 1"):
        load_compressai("mbt2018", 1, checkpoint=tmp_path / "other.pth")
    with pytest.raises(FileNotFoundError, match="is not a file"):
        parse_codec(f"compressai:mbt2018:1:{tmp_path}/missing.pth")
    with pytest.raises(ValueError, match=r"put \{quality\} into its name"):
        parse_codec("compressai:mbt2018:1,2:x.pth")


def test_weights_that_cannot_be_downloaded_are_one_sentence(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    _compressai("compressai.zoo")
    module = importlib.import_module("compressai.zoo.image")

    def fail(*_arguments: object, **_options: object) -> None:
        raise urllib.error.URLError("no network")

    monkeypatch.setattr(module, "load_state_dict_from_url", fail)
    with pytest.raises(OSError, match=r"cannot be downloaded .*no network.*: give a checkpoint"):
        load_compressai("mbt2018", 1)


def test_a_missing_package_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "compressai", None)
    monkeypatch.setitem(__import__("sys").modules, "compressai.zoo", None)
    with pytest.raises(ImportError, match=r"pip install 'genaccel\[codec\]'"):
        compressai_models.require_architecture("mbt2018")
