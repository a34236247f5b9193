# SPDX-License-Identifier: Apache-2.0
"""The codec as a diffusers pipeline."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline
from hand_made_images import LINEAR, icc, stored
from PIL import Image
from tiny_codec import TINY_EFFICIENT

import genaccel.pipelines.codec_pipeline
from genaccel.codec.format.limits import CodecLimits
from genaccel.codec.image_codec import ImageCodec
from genaccel.errors import (
    BitstreamError,
    LimitExceededError,
    OptionError,
    UnknownModelError,
)
from genaccel.files.images import read_image
from genaccel.models.autoencoder import Autoencoder
from genaccel.models.integer_entropy_model import (
    IntegerBlockParams,
    IntegerEntropyModel,
    IntegerEntropyParams,
)
from genaccel.models.masked_entropy_model import MaskedEntropyParams
from genaccel.pipelines.codec_pipeline import CodecPipeline

FILE = genaccel.pipelines.codec_pipeline.__file__


@pytest.fixture
def autoencoder():
    torch.manual_seed(0)
    return Autoencoder(TINY_EFFICIENT).eval()


@pytest.fixture
def pipe(autoencoder, tmp_path):
    # Weights as they are stored, so that what is loaded again is equal.
    autoencoder.save_pretrained(tmp_path / "stored")
    pipe = CodecPipeline.from_pretrained(tmp_path / "stored")
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture
def entropy_model():
    entropy = MaskedEntropyParams(
        codebook_size=32,
        codebook_dim=4,
        width=16,
        layers=1,
        heads=1,
        feed_forward_width=16,
    )
    model = IntegerEntropyModel(
        IntegerEntropyParams(entropy=entropy, blocks=(IntegerBlockParams(),))
    )
    return model.eval()


@pytest.fixture
def pixels():
    return np.random.default_rng(0).integers(0, 256, (2, 24, 40, 3), np.uint8)


def test_files_are_the_codecs(pipe, pixels, tmp_path):
    codec = ImageCodec.from_pretrained(tmp_path / "stored")
    files = pipe.encode(list(pixels))
    assert files == [codec.encode(image) for image in pixels]
    assert all(isinstance(data, bytes) for data in files)
    restored = [codec.decode(data) for data in files]
    assert all(
        np.array_equal(np.asarray(image), expected)
        for image, expected in zip(pipe.decode(files), restored, strict=True)
    )
    array = pipe.decode(files, "np")
    assert array.shape == (2, 24, 40, 3)
    assert array.dtype == np.float32
    assert np.array_equal((array * 255).round(), np.stack(restored))
    tensor = pipe.decode(files, output_type="pt")
    assert np.array_equal(tensor.movedim(1, -1).numpy(), array)
    assert len(pipe.decode(files[0])) == 1


def test_there_and_back_with_its_cost(pipe, pixels):
    output = pipe([Image.fromarray(image) for image in pixels])
    assert [image.size for image in output.images] == [(40, 24), (40, 24)]
    assert output.bits_per_pixel == [8 * len(data) / (24 * 40) for data in output.files]
    images, files, bits = pipe(pixels, output_type="pt", return_dict=False)
    assert images.shape == (2, 3, 24, 40)
    assert (files, bits) == (output.files, output.bits_per_pixel)


def test_all_kinds_of_images_give_the_same_files(pipe, pixels):
    expected = pipe.encode(list(pixels))
    tensor = torch.from_numpy(pixels).movedim(-1, 1)
    kinds = [
        pixels,
        pixels.astype(np.float32) / 255,
        pixels.astype(np.float64) / 255,
        tensor,
        tensor.float() / 255,
        [tensor[:1], Image.fromarray(pixels[1])],
        tuple(Image.fromarray(image) for image in pixels),
    ]
    for kind in kinds:
        assert pipe.encode(kind) == expected
    for kind in (pixels[0], tensor[0], Image.fromarray(pixels[0])):
        assert pipe.encode(kind) == expected[:1]
    opaque = Image.fromarray(pixels[0]).convert("RGBA")
    assert pipe.encode(opaque) == expected[:1]


def test_grey_images_and_sizes_that_differ(pipe, pixels):
    grey = pixels[0, ..., :1]
    assert pipe.encode(grey) == pipe.encode(Image.fromarray(grey[..., 0]))
    assert pipe.encode(grey) == pipe.encode(np.repeat(grey, 3, axis=2))
    files = pipe.encode([pixels[0], pixels[1, :9]])
    assert [array.shape for array in pipe.decode(files, "np")] == [(24, 40, 3), (9, 40, 3)]
    assert [tensor.shape for tensor in pipe.decode(files, "pt")] == [(3, 24, 40), (3, 9, 40)]
    half = torch.from_numpy(pixels).movedim(-1, 1).to(torch.bfloat16) / 255
    assert pipe.encode(half) == pipe.encode(half.float())


def test_no_images(pipe, pixels):
    with pytest.raises(TypeError, match="PIL images, arrays"):
        pipe.encode("photo.png")
    with pytest.raises(ValueError, match=r"in \[0, 1\], got -1 to 1"):
        pipe.encode(np.linspace(-1, 1, 12, dtype=np.float32).reshape(2, 2, 3))
    with pytest.raises(ValueError, match=r"in \[0, 1\], got nan"):
        pipe.encode(torch.full((3, 4, 4), torch.nan))
    with pytest.raises(ValueError, match="uint8 or floating point"):
        pipe.encode(pixels.astype(np.int64))
    with pytest.raises(ValueError, match="one or three channels"):
        pipe.encode(np.zeros((4, 4, 2), np.uint8))
    with pytest.raises(ValueError, match=r"\[C, H, W\]"):
        pipe.encode(torch.zeros(4, 4))
    with pytest.raises(ValueError, match="transparent"):
        pipe.encode(Image.new("RGBA", (4, 4), (0, 0, 0, 128)))
    with pytest.raises(ValueError, match="8-bit RGB"):
        pipe.encode(Image.new("I", (4, 4)))
    with pytest.raises(ValueError, match=r"in \[0, 1\]"):
        pipe.encode(Image.new("F", (4, 4), 128))
    for call in (pipe, pipe.decode):
        with pytest.raises(ValueError, match='"pil", "np" or "pt"'):
            call([], output_type="latent")
    with pytest.raises(BitstreamError):
        pipe.decode(b"no file")


def test_saved_and_loaded(pipe, pixels, tmp_path):
    files = pipe.encode(pixels)
    pipe.save_pretrained(tmp_path / "model")
    index = json.loads((tmp_path / "model/model_index.json").read_text())
    assert index["_class_name"] == "CodecPipeline"
    assert index["autoencoder"] == ["genaccel.pipelines.codec_models", "CodecAutoencoder"]
    assert index["entropy_model"] == [None, None]
    again = CodecPipeline.from_pretrained(tmp_path / "model")
    assert again.encode(pixels) == files
    assert np.array_equal(again.decode(files, "np"), pipe.decode(files, "np"))
    again.save_pretrained(tmp_path / "again")
    # The component's folder is a codec's own.
    codec = ImageCodec.from_pretrained(tmp_path / "again/autoencoder")
    assert codec.encode(pixels[0]) == files[0]


def test_loaded_by_path_as_custom_pipeline(pipe, pixels, tmp_path):
    pipe.save_pretrained(tmp_path / "model")
    loaded = DiffusionPipeline.from_pretrained(
        tmp_path / "model", custom_pipeline=FILE, trust_remote_code=True
    )
    assert type(loaded).__name__ == "CodecPipeline"
    assert loaded.encode(pixels) == pipe.encode(pixels)
    loaded.save_pretrained(tmp_path / "again")
    assert CodecPipeline.from_pretrained(tmp_path / "again").encode(pixels) == pipe.encode(pixels)


def test_model_of_the_zoo_keeps_its_number(pixels, tmp_path):
    pipe = CodecPipeline.from_pretrained("photo-codec-small")  # an alias
    files = pipe.encode(pixels)
    assert files[0] == ImageCodec.from_pretrained("photo-codec-high").encode(pixels[0])
    pipe.save_pretrained(tmp_path / "model")
    again = CodecPipeline.from_pretrained(tmp_path / "model")
    assert again.config.model_number == pipe.codec.model_number != 0
    assert again.codec.model_name == "photo-codec-high"
    assert again.encode(pixels) == files


def test_options_of_the_codec(pixels):
    pipe = CodecPipeline.from_pretrained("photo-codec-high")
    image = np.repeat(np.repeat(pixels[0], 4, axis=0), 4, axis=1)  # 96 x 160
    (whole,) = pipe.encode(image)
    (small,) = pipe.encode(image, target_bytes=len(whole) * 3 // 4)
    assert len(small) <= len(whole) * 3 // 4
    assert len(pipe(image, bits_per_pixel=0.2).files[0]) <= 0.2 * 96 * 160 / 8
    (first,) = pipe.decode(whole, "np", prefix=2)
    assert np.array_equal((first * 255).round(), pipe.codec.decode(whole, prefix=2))
    with pytest.raises(TypeError, match="unexpected keyword"):
        pipe.encode(image, no_option=1)


def test_options_that_want_an_entropy_model(pipe, pixels):
    with pytest.raises(OptionError):
        pipe.encode(pixels, rdo=0.01)


def test_a_codecs_limits_stay(autoencoder, pixels):
    codec = ImageCodec(autoencoder, limits=CodecLimits(max_pixels=500))
    pipe = CodecPipeline.from_codec(codec)
    assert pipe.codec is codec
    assert pipe.autoencoder.model is autoencoder
    with pytest.raises(LimitExceededError):
        pipe.encode(pixels)


def test_other_components_make_another_codec(pipe, autoencoder, pixels):
    files = pipe.encode(pixels)
    for parameter in autoencoder.parameters():
        parameter.data.add_(0.1)
    other = CodecPipeline(autoencoder)
    pipe.autoencoder = other.autoencoder
    assert pipe.encode(pixels) == other.encode(pixels) != files
    with pytest.raises(UnknownModelError):
        pipe.decode(files)


def test_weights_stay_in_single_precision(pipe, pixels, tmp_path):
    pipe.save_pretrained(tmp_path / "model")
    loaded = CodecPipeline.from_pretrained(tmp_path / "model", dtype=torch.bfloat16)
    assert loaded.dtype == torch.float32
    assert loaded.device == torch.device("cpu")
    assert loaded.encode(pixels) == pipe.encode(pixels)
    loaded.to(torch.bfloat16)
    with pytest.raises(ValueError, match="must be float32"):
        loaded.encode(pixels)


def test_a_folder_that_is_no_model(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(UnknownModelError, match=Path(tmp_path).name):
        CodecPipeline.from_pretrained(tmp_path)


def test_components_pass_to_another_pipeline(pipe, pixels):
    twin = CodecPipeline(**pipe.components)
    assert twin.encode(pixels) == pipe.encode(pixels)
    assert CodecPipeline.from_pipe(pipe).encode(pixels) == pipe.encode(pixels)


def test_an_entropy_model_is_saved_and_loaded(pipe, entropy_model, tmp_path):
    assert set(pipe.components) == {"autoencoder", "entropy_model"}
    assert pipe.components["entropy_model"] is None
    both = CodecPipeline(pipe.autoencoder, entropy_model)
    both.save_pretrained(tmp_path / "model")
    for loaded in (
        CodecPipeline.from_pretrained(tmp_path / "model"),
        DiffusionPipeline.from_pretrained(
            tmp_path / "model", custom_pipeline=FILE, trust_remote_code=True
        ),
    ):
        assert loaded.entropy_model.model.digest() == entropy_model.digest()
        assert not loaded.entropy_model.training
    without = CodecPipeline.from_pretrained(tmp_path / "model", entropy_model=None)
    assert without.entropy_model is None


def test_pillow_images_are_encoded_as_their_files_are(pipe, picture):
    exif = Image.Exif()
    exif[0x0112] = 6
    photograph = Image.fromarray(picture(64, 96))
    stream = stored(photograph, "PNG", exif=exif, icc_profile=icc("Linear", curve=LINEAR))
    (data,) = pipe.encode(Image.open(stream))
    assert data == pipe.codec.encode(read_image(stream).pixels)
    assert pipe.decode(data)[0].size == (64, 96)
