# SPDX-License-Identifier: Apache-2.0
import dataclasses
import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch

from genaccel import zoo
from genaccel.codec.batch.codec_pool import CodecPool
from genaccel.codec.format.bitstream import Bitstream
from genaccel.codec.format.limits import CodecLimits
from genaccel.codec.image_codec import INTEGER_ENTROPY_FOLDER, ImageCodec
from genaccel.codec.memory_estimate import activation_bytes_per_pixel
from genaccel.codec.tiling import Tiling
from genaccel.errors import BitstreamError, LimitExceededError, UnknownModelError

_DECODE_ELSEWHERE = """
import json, sys, torch
from genaccel.codec import ImageCodec
torch.set_num_threads(int(sys.argv[3]))
codec = ImageCodec.from_pretrained(sys.argv[1])
data = open(sys.argv[2], "rb").read()
print(json.dumps([m.tolist() for m in codec.decode_indices(data)]))
"""


def assert_same_maps(a, b):
    assert len(a) == len(b)
    for left, right in zip(a, b, strict=True):
        np.testing.assert_array_equal(left, right)


@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 2000), (31, 33), (64, 64), (129, 16)])
def test_indices_come_back_exactly_and_the_size_too(codec, picture, height, width):
    image = picture(height, width)
    data = codec.encode(image)
    indices = codec.encode_indices(image)
    assert_same_maps(codec.decode_indices(data), indices)
    assert [m.shape for m in indices] == [
        (-(-height // 16) * 16 // s, -(-width // 16) * 16 // s) for s in (16, 8)
    ]
    decoded = codec.decode(data)
    assert decoded.shape == (height, width, 3)
    assert decoded.dtype == np.uint8
    info = codec.info(data)
    assert (info.width, info.height, info.file_bytes) == (width, height, len(data))
    assert len(data) - info.payload_bytes <= 20


def test_models_with_group_norms_round_trip(global_model, picture):
    codec = ImageCodec(global_model)
    image = picture(31, 33)
    data = codec.encode(image)
    assert_same_maps(codec.decode_indices(data), codec.encode_indices(image))
    assert codec.decode(data).shape == (31, 33, 3)


def test_decoding_keeps_the_top_left_and_only_crops(codec, picture):
    """A file of the padded image shows the same picture."""
    image = picture(31, 33)
    padded = np.pad(image, ((0, 1), (0, 15), (0, 0)), mode="edge")
    np.testing.assert_array_equal(
        codec.decode(codec.encode(image)), codec.decode(codec.encode(padded))[:31, :33]
    )


def test_pixels_follow_the_network(codec, picture):
    image = picture(48, 32)
    indices = [torch.from_numpy(m).long()[None] for m in codec.encode_indices(image)]
    with torch.inference_mode():
        output = codec.model.decode(indices)[0].permute(1, 2, 0)
    expected = ((output + 1) * 127.5).round().clamp(0, 255).numpy()
    difference = np.abs(codec.decode(codec.encode(image)) - expected)
    assert difference.max() <= 1
    assert difference.mean() < 0.01


def test_tiled_and_whole_images_make_the_same_file(local_model, picture):
    image = picture(300, 450)
    whole = ImageCodec(local_model)
    tiles = Tiling(tile_size=96, margin=local_model.params.halo, blend=False, untiled_pixels=0)
    tiled = ImageCodec(local_model, tiling=tiles)
    data = whole.encode(image)
    assert tiled.encode(image) == data
    difference = tiled.decode(data).astype(int) - whole.decode(data)
    assert np.abs(difference).max() <= 1


@pytest.mark.parametrize("threads", [1, 2])
def test_files_decode_alike_with_other_thread_counts_and_in_another_process(
    codec, model_folder, picture, tmp_path, threads
):
    image = picture(200, 333)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        indices = codec.encode_indices(image)
        data = codec.encode(image)
    finally:
        torch.set_num_threads(before)
    assert_same_maps(codec.decode_indices(data), indices)
    (tmp_path / "a.gac").write_bytes(data)
    result = subprocess.run(
        [
            sys.executable,
            "-c",
            _DECODE_ELSEWHERE,
            model_folder,
            tmp_path / "a.gac",
            str(3 - threads),
        ],
        check=True,
        capture_output=True,
        timeout=120,
    )
    assert_same_maps([np.array(m) for m in json.loads(result.stdout)], indices)


@pytest.mark.slow
def test_an_image_of_8000_by_6000_pixels(codec, picture):
    image = np.tile(picture(600, 800), (10, 10, 1))
    data = codec.encode(image)
    assert_same_maps(codec.decode_indices(data), codec.encode_indices(image))
    assert codec.decode(data).shape == (6000, 8000, 3)
    assert codec.estimate_memory_bytes(6000, 8000) < 3 * 2**30


@pytest.mark.parametrize(
    ("image", "error"),
    [
        (np.zeros((4, 4, 3), np.float32), TypeError),
        ([[0]], TypeError),
        (np.zeros((4, 4), np.uint8), ValueError),
        (np.zeros((4, 4, 4), np.uint8), ValueError),
        (np.zeros((0, 4, 3), np.uint8), ValueError),
    ],
)
def test_wrong_arrays_are_refused(codec, image, error):
    with pytest.raises(error, match="image must"):
        codec.encode(image)


def test_limits_hold_both_ways(local_model, codec, picture):
    image = picture(40, 50)
    data = codec.encode(image)
    few_pixels = ImageCodec(local_model, limits=CodecLimits(max_pixels=1999))
    little_memory = ImageCodec(local_model, limits=CodecLimits(max_memory_bytes=10_000))
    for small in (few_pixels, little_memory):
        with pytest.raises(LimitExceededError, match="50x40 pixels"):
            small.encode(image)
        with pytest.raises(LimitExceededError, match="50x40 pixels"):
            small.decode(data)
    for limits in ({"max_pixels": 0}, {"max_pixels": 2**40}, {"max_memory_bytes": 0}):
        with pytest.raises(ValueError, match="must be"):
            CodecLimits(**limits)


def test_memory_estimate_grows_with_the_tile_and_then_with_the_image(codec):
    needed = activation_bytes_per_pixel(codec.model)
    assert (
        needed.strip >= 4 * 8
    )  # the widest map of the tail, 4 channels at full size, and its input
    assert needed.encoder >= 4 * 16 / 8**2 * 3  # maps of 16 channels at an eighth of the size
    for encoding in (False, True):
        small = codec.estimate_memory_bytes(1024, 1024, encoding=encoding)
        large = codec.estimate_memory_bytes(2048, 2048, encoding=encoding)
        huge = codec.estimate_memory_bytes(13000, 13000, encoding=encoding)
        assert 2 * small < large < 4.1 * small  # strips of the tail grow with the width alone
        assert huge < 13000**2 * (needed.encoder if encoding else needed.strip)


def test_memory_estimate_of_a_decoder_without_strips(global_model):
    needed = activation_bytes_per_pixel(global_model)
    assert needed.strip == 0
    assert needed.decoder >= 4 * 8 * 6  # channels at full size


def test_payloads_for_another_size_are_damaged_files(codec, picture):
    stream = Bitstream.from_bytes(codec.encode(picture(64, 64)))
    for change in ({"width": 80}, {"width": 48}, {"payload": stream.payload[:-2]}):
        with pytest.raises(BitstreamError):
            codec.decode(dataclasses.replace(stream, **change).to_bytes())


def test_files_of_other_models_are_refused(codec, global_model, picture):
    data = codec.encode(picture(8, 8))
    with pytest.raises(
        UnknownModelError, match=r"outside the zoo with digest [0-9a-f]{8}.*--model"
    ):
        ImageCodec(global_model).decode(data)


def test_loading_by_folder(model_folder, codec, picture):
    image = picture(20, 20)
    assert ImageCodec.from_pretrained(model_folder).encode(image) == codec.encode(image)


def test_models_that_are_not_there(tmp_path, model_folder):
    with pytest.raises(UnknownModelError, match="photo-codec-high"):
        ImageCodec.from_pretrained("no-such-model")
    with pytest.raises(UnknownModelError, match="missing"):
        ImageCodec.from_pretrained(tmp_path)
    for name in ("config.json", "model.safetensors"):
        for other in ("config.json", "model.safetensors"):
            (tmp_path / other).write_bytes((model_folder / other).read_bytes())
        (tmp_path / name).write_bytes(b"{}")
        with pytest.raises(UnknownModelError, match="cannot be loaded"):
            ImageCodec.from_pretrained(tmp_path)


def test_an_entropy_model_of_another_codec_is_refused(tmp_path):
    folder = tmp_path / "mixed"
    shutil.copytree(zoo.path("photo-codec-high"), folder)
    entropy = folder / INTEGER_ENTROPY_FOLDER
    shutil.copytree(zoo.path("photo-codec-low") / entropy.name, entropy, dirs_exist_ok=True)
    with pytest.raises(UnknownModelError, match="parts of different models do not go together"):
        ImageCodec.from_pretrained(folder)


def test_pool_goes_by_the_file_or_by_the_choice(model_folder, codec, picture):
    data = codec.encode(picture(8, 8))
    pool = CodecPool(str(model_folder))
    assert pool.for_file(data) is pool.for_encoding()
    with pytest.raises(UnknownModelError, match=r"outside the zoo .*--model FOLDER"):
        CodecPool().for_file(data)
    stream = dataclasses.replace(Bitstream.from_bytes(data), model_number=254)
    with pytest.raises(UnknownModelError, match=r"model number 254 .*newer genaccel"):
        CodecPool().for_file(stream.to_bytes())
    number = zoo.codec_number("photo-codec-high")
    named = dataclasses.replace(Bitstream.from_bytes(data), model_number=number).to_bytes()
    with pytest.raises(UnknownModelError, match="'photo-codec-high' with digest"):
        codec_of_other_weights(codec).decode(named)


def codec_of_other_weights(codec):
    other = ImageCodec(codec.model, model_number=codec.model_number)
    other._digests = {1: b"\0\0\0\0"}
    return other
