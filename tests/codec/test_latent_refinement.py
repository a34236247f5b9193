# SPDX-License-Identifier: Apache-2.0
"""Features moved by gradient descent: smaller loss, the same decoder."""

import itertools

import numpy as np
import pytest
import torch

from genaccel.codec.encoder import latent_refinement
from genaccel.codec.encoder.encode_options import EncodeOptions
from genaccel.codec.encoder.latent_refinement import (
    LatentRefiner,
    RefinementSettings,
    refinement_bytes,
)
from genaccel.codec.format.bitstream import Bitstream
from genaccel.codec.format.half_size import halved
from genaccel.codec.format.limits import CodecLimits
from genaccel.codec.image_codec import ImageCodec
from genaccel.codec.tiling import Span, feature_tiles
from genaccel.errors import LimitExceededError, OptionError
from genaccel.eval.held_out import held_out_photographs
from genaccel.models.st_lpips import StLpips


@pytest.fixture(scope="module")
def metric():
    return StLpips.from_pretrained("vgg")


@pytest.fixture(scope="module")
def zoo_codec():
    return ImageCodec.from_pretrained("photo-codec-high")


def psnr(image, other):
    return 10 * np.log10(255**2 / (image.astype(float) - other).__pow__(2).mean())


def distance(metric, image, other):
    a, b = (torch.from_numpy(x).permute(2, 0, 1)[None] / 127.5 - 1 for x in (image, other))
    return float(metric(b, a))


def test_a_photograph_is_better_in_no_more_bytes(zoo_codec, metric):
    image = held_out_photographs()["chelsea"][80:176, 150:278].copy()
    plain = zoo_codec.encode(image)
    steps = []
    refined = zoo_codec.encode(
        image, EncodeOptions(refine=12), on_step=lambda done, total: steps.append((done, total))
    )
    assert steps == [(n, 12) for n in range(1, 13)]
    assert len(refined) <= 1.02 * len(plain)
    before, after = zoo_codec.decode(plain), zoo_codec.decode(refined)
    assert distance(metric, image, after) < 0.9 * distance(metric, image, before)
    # What is not minimised by itself must not pay for it.
    assert psnr(image, after) > psnr(image, before)


def test_a_higher_price_makes_smaller_files(zoo_codec):
    image = held_out_photographs()["coffee"][80:144, 150:246].copy()
    sizes = [
        len(zoo_codec.encode(image, EncodeOptions(refine=4, rdo=rdo))) for rdo in (0, 0.03, 0.2)
    ]
    assert sizes[0] > sizes[1] > sizes[2]


@pytest.mark.parametrize(("height", "width"), [(1, 1), (31, 33), (130, 20)])
def test_any_size_decodes(entropy_codec, picture, height, width):
    image = picture(height, width)
    data = entropy_codec.encode(image, EncodeOptions(refine=2))
    assert entropy_codec.decode(data).shape == image.shape


def test_at_half_size_it_is_the_half_that_is_refined(entropy_codec, picture):
    image = picture(65, 95)
    plain = entropy_codec.encode(image, EncodeOptions(half_size=True))
    refined = entropy_codec.encode(image, EncodeOptions(half_size=True, refine=8))
    of_half = entropy_codec.encode(halved(image), EncodeOptions(refine=8))
    payloads = [Bitstream.from_bytes(data).payload for data in (plain, refined, of_half)]
    assert payloads[0] != payloads[1] == payloads[2]
    assert entropy_codec.decode(refined).shape == image.shape
    target = EncodeOptions(half_size=True, refine=8, target_bytes=len(plain) - 5)
    fitted = entropy_codec.encode(image, target)
    assert len(fitted) <= len(plain) - 5
    assert entropy_codec.info(fitted).half_size


def test_steps_lower_the_loss_and_leave_the_model_as_it_was(local_model, entropy_codec, picture):
    """Between codecs of random weights ST-LPIPS says nothing: the squared error alone."""
    image = torch.from_numpy(picture(64, 64))
    coder = entropy_codec._entropy_coder
    features = feature_tiles(local_model, image, entropy_codec.tiling)
    settings = RefinementSettings(perceptual=0.0, learning_rate=0.03)
    before = {name: value.clone() for name, value in local_model.state_dict().items()}
    flags = [parameter.requires_grad for parameter in local_model.parameters()]
    kept = [feature.clone() for feature in features]
    refined = LatentRefiner(local_model, coder, settings).refine(
        image, (64, 64), features, 1e-6, 12
    )
    for name, value in local_model.state_dict().items():
        assert torch.equal(value, before[name])
    assert [parameter.requires_grad for parameter in local_model.parameters()] == flags
    assert all(parameter.grad is None for parameter in local_model.parameters())
    for feature, same, better in zip(features, kept, refined, strict=True):
        assert torch.equal(feature, same)
        torch.testing.assert_close(better.norm(dim=0), torch.ones(better.shape[1:]))
    target = image.permute(2, 0, 1)[None] / 127.5 - 1
    with torch.no_grad():
        errors = [
            torch.nn.functional.mse_loss(
                local_model.decode([local_model.quantize(f[None]).indices for f in maps]), target
            )
            for maps in (features, refined)
        ]
    assert errors[1] < errors[0]


@pytest.mark.cuda
def test_a_gpu_refines_too(picture):
    codec = ImageCodec.from_pretrained("photo-codec-high", "cuda")
    image = picture(150, 200)
    data = codec.encode(image, EncodeOptions(refine=4))
    here = ImageCodec.from_pretrained("photo-codec-high").decode_indices(data)
    for left, right in zip(codec.decode_indices(data), here, strict=True):
        np.testing.assert_array_equal(left, right)


def test_large_images_go_core_by_core(monkeypatch, entropy_codec, picture):
    monkeypatch.setattr(latent_refinement, "WHOLE_PIXELS", 64 * 64)
    monkeypatch.setattr(latent_refinement, "_CORE_SIDE", 64)
    monkeypatch.setattr(latent_refinement, "_MARGIN", 16)
    image = picture(
        80, 150
    )  # 80x160 with padding: cores end at rows 32, 80 and columns 64, 96, 160
    steps = []
    data = entropy_codec.encode(
        image, EncodeOptions(refine=2), on_step=lambda done, total: steps.append((done, total))
    )
    assert steps[-1] == (2 * 2 * 3, 2 * 2 * 3)
    assert entropy_codec.decode(data).shape == image.shape


@pytest.mark.parametrize("length", [32, 64, 96, 512, 544, 992, 4096])
@pytest.mark.parametrize("window", [32, 128])
def test_cores_cover_an_axis_in_whole_windows(length, window):
    cores = latent_refinement._cores(length, window, 32, whole=False)
    assert (cores[0].core_start, cores[-1].core_stop) == (0, length)
    for core in cores:
        assert 0 <= core.start <= core.core_start < core.core_stop <= core.stop <= length
        assert core.core_start % window == 0
        assert core.core_stop % window == 0 or core.core_stop == length
        assert core.core_stop - core.core_start <= max(512, window)
        assert core.start % 32 == core.stop % 32 == 0
        assert core.start == max(0, core.core_start - 64)
    for a, b in itertools.pairwise(cores):
        assert a.core_stop == b.core_start
    (whole,) = latent_refinement._cores(length, window, 32, whole=True)
    assert whole == Span(start=0, core_start=0, core_stop=length, stop=length)


def test_a_size_that_is_asked_for_is_kept(zoo_codec):
    image = held_out_photographs()["astronaut"][0:96, 160:288].copy()
    for share in (1.5, 0.8):
        most = int(share * len(zoo_codec.encode(image)))
        data = zoo_codec.encode(image, EncodeOptions(refine=2, target_bytes=most))
        assert len(data) <= most
        assert zoo_codec.decode(data).shape == image.shape


def test_refinement_needs_an_entropy_model(codec, picture):
    with pytest.raises(OptionError, match="refine needs an entropy model"):
        codec.encode(picture(32, 32), EncodeOptions(refine=1))


def test_a_metric_that_is_not_installed_is_named(monkeypatch, local_model, picture, entropy_codec):
    def missing(net):
        raise FileNotFoundError("the weights of ST-LPIPS are not installed: run `pip install it`")

    monkeypatch.setattr(StLpips, "from_pretrained", missing)
    fresh = ImageCodec(local_model, entropy_model=entropy_codec.entropy_model)
    with pytest.raises(OptionError, match=r"refine needs the ST-LPIPS metric.*pip install"):
        fresh.encode(picture(32, 32), EncodeOptions(refine=1))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"refine": -1}, "refine must not be negative"),
        ({"refine": 1, "static_tables": True}, "static tables have one rate"),
    ],
)
def test_options_that_make_no_sense_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        EncodeOptions(**options)


def test_memory_is_checked_and_bounded(local_model, entropy_codec, picture):
    assert refinement_bytes(640, 640) == refinement_bytes(20_000, 30_000) < 2 * 2**30
    limits = CodecLimits(max_memory_bytes=200 * 2**20)
    small = ImageCodec(local_model, entropy_model=entropy_codec.entropy_model, limits=limits)
    image = picture(256, 256)
    assert small.estimate_memory_bytes(256, 256, encoding=True) < 200 * 2**20
    small.encode(image)
    with pytest.raises(LimitExceededError, match="refine needs about 269 MiB"):
        small.encode(image, EncodeOptions(refine=1))
