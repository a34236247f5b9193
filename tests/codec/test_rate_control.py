# SPDX-License-Identifier: Apache-2.0
"""Files of the entropy model: rate control, prefixes, and what is made up for missing slices."""

import dataclasses

import numpy as np
import pytest
import torch

from genaccel import zoo
from genaccel.codec.batch.codec_pool import CodecPool
from genaccel.codec.coding.missing_slices import draws, most_likely, pick
from genaccel.codec.encoder.encode_options import EncodeOptions
from genaccel.codec.encoder.rate_control import largest_within
from genaccel.codec.encoder.rate_distortion_quantizer import choose_indices
from genaccel.codec.format.bitstream import Bitstream, describe
from genaccel.codec.format.half_size import halved, resized
from genaccel.codec.format.limits import CodecLimits
from genaccel.codec.image_codec import ImageCodec
from genaccel.codec.tiling import Tiling, feature_tiles
from genaccel.errors import (
    BitstreamError,
    LimitExceededError,
    OptionError,
    TargetSizeError,
    UnknownModelError,
)

NUM_SLICES = 4 + 8


def assert_same_maps(a, b):
    for left, right in zip(a, b, strict=True):
        np.testing.assert_array_equal(left, right)


@pytest.mark.parametrize(("height", "width"), [(1, 1), (31, 33), (64, 64), (129, 16)])
def test_indices_come_back_exactly(entropy_codec, picture, height, width):
    image = picture(height, width)
    data = entropy_codec.encode(image)
    assert describe(data).entropy_model
    assert_same_maps(entropy_codec.decode_indices(data), entropy_codec.encode_indices(image))
    assert entropy_codec.decode(data).shape == (height, width, 3)


def test_static_tables_make_the_file_of_a_codec_without_entropy_model(
    codec, entropy_codec, picture
):
    image = picture(31, 33)
    data = entropy_codec.encode(image, EncodeOptions(static_tables=True))
    assert data == codec.encode(image)
    np.testing.assert_array_equal(entropy_codec.decode(data), codec.decode(data))


def test_a_folder_keeps_the_entropy_model(entropy_codec, entropy_model_folder, picture):
    loaded = ImageCodec.from_pretrained(entropy_model_folder)
    assert loaded.encode(picture(40, 40)) == entropy_codec.encode(picture(40, 40))


def test_another_entropy_model_is_another_digest(codec, entropy_codec, picture):
    data = entropy_codec.encode(picture(8, 8))
    with pytest.raises(UnknownModelError, match="has no entropy model"):
        codec.decode(data)
    stream = Bitstream.from_bytes(data)
    static = Bitstream.from_bytes(codec.encode(picture(8, 8)))
    assert stream.model_digest != static.model_digest
    forged = dataclasses.replace(stream, model_digest=static.model_digest).to_bytes()
    with pytest.raises(UnknownModelError, match="has digest"):
        entropy_codec.decode(forged)


def test_every_cut_at_a_slice_is_an_image_and_equals_its_prefix(entropy_codec, picture):
    image = picture(50, 70)
    data = entropy_codec.encode(image)
    ends = entropy_codec.slice_ends(data)
    assert len(ends) == NUM_SLICES
    assert ends == sorted(ends)
    assert ends[-1] == len(data) - 4
    whole = entropy_codec.decode_indices(data)
    for count, end in enumerate(ends, start=1):
        prefix = entropy_codec.decode_indices(data, prefix=count)
        cut = entropy_codec.decode_indices(data[: max(end, 16)], truncated=True)
        assert_same_maps(prefix, cut)
        sent = entropy_codec.encode(image, EncodeOptions(num_slices=count))
        assert describe(sent).num_slices == (None if count == NUM_SLICES else count)
        assert_same_maps(entropy_codec.decode_indices(sent), prefix)
        assert len(sent) <= end + 12  # its own state, slice count and checksum
        if count == 4:  # the coarse scale is whole
            np.testing.assert_array_equal(prefix[0], whole[0])
    assert_same_maps(prefix, whole)
    with pytest.raises(BitstreamError):
        entropy_codec.decode(data[: ends[3]])
    assert entropy_codec.decode(data[: ends[3]], truncated=True).shape == image.shape


def test_a_cut_between_two_slices_gives_the_whole_ones(entropy_codec, picture):
    data = entropy_codec.encode(picture(50, 70))
    ends = entropy_codec.slice_ends(data)
    for end in range(ends[6], ends[7]):
        assert_same_maps(
            entropy_codec.decode_indices(data[:end], truncated=True),
            entropy_codec.decode_indices(data, prefix=7),
        )
    with pytest.raises(BitstreamError, match="does not decode"):
        entropy_codec.decode(data[:16], truncated=True)


def test_what_is_made_up_depends_on_the_seed_alone(entropy_codec, picture):
    data = entropy_codec.encode(picture(50, 70))
    first = entropy_codec.decode_indices(data, prefix=4, seed=1)
    assert_same_maps(first, entropy_codec.decode_indices(data, prefix=4, seed=1))
    other = entropy_codec.decode_indices(data, prefix=4, seed=2)
    likely = entropy_codec.decode_indices(data, prefix=4, seed=None)
    assert (first[1] != other[1]).any()
    assert (first[1] != likely[1]).any()
    torch.set_num_threads(2)
    assert_same_maps(first, entropy_codec.decode_indices(data, prefix=4, seed=1))


def test_draws_are_uniform_and_never_change():
    drawn = draws(0, torch.arange(1 << 16))
    assert drawn[:4].tolist() == [20713, 53817, 22380, 4084]
    assert 0 <= int(drawn.min()) < int(drawn.max()) < 65536
    counts = torch.bincount(drawn >> 12, minlength=16).double()
    assert float(((counts - 4096) ** 2 / 4096).sum()) < 35  # chi-squared of 15: 0.25 %
    correlation = torch.corrcoef(torch.stack([drawn[:-1], drawn[1:]]).double())[0, 1]
    assert abs(float(correlation)) < 0.02


def test_pick_is_the_owner_of_the_slot():
    cdfs = torch.tensor([[0, 10, 11, 65536]] * 5, dtype=torch.int32)
    drawn = torch.tensor([0, 9, 10, 11, 65535])
    assert pick(cdfs, drawn).tolist() == [0, 0, 1, 2, 2]


def test_the_lowest_of_equal_logits_is_most_likely():
    logits = torch.tensor([[5, 7, 7, 1], [-3, -3, -9, -3]], dtype=torch.int32)
    assert most_likely(logits).tolist() == [1, 0]


def test_rdo_saves_bits_for_distance(entropy_codec, picture):
    image = picture(96, 96)
    sizes, distances = [], []
    padded = torch.from_numpy(image)
    features = feature_tiles(entropy_codec.model, padded, entropy_codec.tiling)
    codebook = entropy_codec.model.quantize.codebook.detach()
    for mu in (0.0, 0.02, 0.2, 5.0):
        maps = entropy_codec.encode_indices(image, rdo=mu)
        data = entropy_codec.encode(image, EncodeOptions(rdo=mu))
        assert_same_maps(entropy_codec.decode_indices(data), maps)
        sizes.append(len(data))
        rows = [torch.nn.functional.normalize(f, dim=0) for f in features]
        words = [codebook[torch.from_numpy(m).long()].permute(2, 0, 1) for m in maps]
        distances.append(
            sum(float((f.detach() - w).square().sum()) for f, w in zip(rows, words, strict=True))
        )
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[-1] < 0.9 * sizes[0]
    assert distances == sorted(distances)


def test_without_a_price_of_bits_the_nearest_code_words_are_chosen(entropy_codec, picture):
    image = picture(64, 96)
    features = feature_tiles(entropy_codec.model, torch.from_numpy(image), entropy_codec.tiling)
    codebook = entropy_codec.model.quantize.codebook.detach()
    assert_same_maps(
        choose_indices(entropy_codec._entropy_coder, features, codebook, 0.0).index_maps,
        entropy_codec.encode_indices(image),
    )


@pytest.mark.parametrize("share", [2.0, 0.95, 0.8, 0.3])
def test_target_sizes_are_kept(entropy_codec, picture, share):
    image = picture(96, 96)
    plain = entropy_codec.encode(image)
    target = int(share * len(plain))
    data = entropy_codec.encode(image, EncodeOptions(target_bytes=target))
    assert len(data) <= target
    assert len(data) >= 0.85 * min(target, len(plain))
    if share > 1:
        assert data == plain
    assert entropy_codec.decode(data).shape == image.shape
    by_rate = EncodeOptions(bits_per_pixel=8 * target / 96**2)
    assert len(entropy_codec.encode(image, by_rate)) <= target


@pytest.mark.parametrize("size", [(96, 96), (50, 70)])  # without padding, and with
def test_files_of_chosen_indices_take_one_pass_and_are_those_of_two(entropy_codec, picture, size):
    image, passes = picture(*size), []
    made = {
        (rdo, count): entropy_codec.encode(image, EncodeOptions(rdo=rdo, num_slices=count))
        for rdo in (0.02, 0.4)
        for count in (None, 1, 7, NUM_SLICES)
    }
    coder = entropy_codec._entropy_coder
    for (rdo, count), data in made.items():
        maps = entropy_codec.encode_indices(image, rdo=rdo)
        assert Bitstream.from_bytes(data).payload == coder.encode(maps, count)
    target = len(made[0.02, None])
    hook = coder.model.register_forward_hook(lambda *_: passes.append(1))
    try:
        searched = entropy_codec.encode(image, EncodeOptions(target_bytes=target))
        assert entropy_codec.encode(image, EncodeOptions(rdo=0.02)) == made[0.02, None]
        assert not passes  # each slice was predicted once, while its indices were chosen
        entropy_codec.encode(image)
        assert passes
    finally:
        hook.remove()
    again = coder.encode(entropy_codec.decode_indices(searched))
    assert Bitstream.from_bytes(searched).payload == again


def test_sizes_that_cannot_be_reached_are_refused(entropy_codec, picture):
    with pytest.raises(TargetSizeError, match="takes at least"):
        entropy_codec.encode(picture(96, 96), EncodeOptions(target_bytes=20))
    with pytest.raises(TargetSizeError, match="takes at least"):
        entropy_codec.encode_within(
            picture(96, 96), EncodeOptions(target_bytes=60), largest_rdo=0.05, may_cut=False
        )


def test_the_search_takes_the_least_weight_and_then_the_most_slices():
    calls = []

    def make(rdo, num_slices):
        calls.append((rdo, num_slices))
        whole = 1000 / (1 + 10 * rdo)
        return bytes(int(whole if num_slices is None else whole * num_slices / 10))

    assert len(largest_within(make, 1000, num_slices=10).data) == 1000
    assert calls == [(0.0, None)]
    assert 490 <= len(largest_within(make, 500, num_slices=10).data) <= 500
    assert all(n is None for _, n in calls)
    assert (
        len(largest_within(make, 130, num_slices=10).data) == 120
    )  # six slices of the largest weight
    with pytest.raises(TargetSizeError):
        largest_within(make, 130, num_slices=10, may_cut=False)
    with pytest.raises(TargetSizeError, match="at least 20"):
        largest_within(make, 19, num_slices=10)


@pytest.mark.parametrize(
    "options",
    [
        {"rdo": -1.0},
        {"rdo": float("inf")},
        {"bits_per_pixel": 0.0},
        {"target_bytes": 0},
        {"num_slices": 0},
        {"bits_per_pixel": 0.1, "target_bytes": 100},
        {"bits_per_pixel": 0.1, "rdo": 0.1},
        {"target_bytes": 100, "num_slices": 3},
        {"static_tables": True, "rdo": 0.1},
    ],
)
def test_options_that_make_no_sense_are_refused(options):
    with pytest.raises(ValueError, match=r"must be|give|target|tables"):
        EncodeOptions(**options)


@pytest.mark.parametrize("options", [{"rdo": 0.1}, {"num_slices": 2}, {"target_bytes": 1000}])
def test_models_without_entropy_model_say_what_they_lack(codec, picture, options):
    with pytest.raises(OptionError, match="needs an entropy model, and 'custom model' has none"):
        codec.encode(picture(8, 8), EncodeOptions(**options))


def test_slices_that_are_not_there_are_refused(codec, entropy_codec, picture):
    data = entropy_codec.encode(picture(8, 8))
    for count in (0, NUM_SLICES + 1):
        with pytest.raises(OptionError, match=r"slices must be in \[1, 12\]"):
            entropy_codec.decode(data, prefix=count)
    with pytest.raises(OptionError, match="slices must be in"):
        entropy_codec.encode(picture(8, 8), EncodeOptions(num_slices=13))
    with pytest.raises(OptionError, match="no slices"):
        codec.decode(codec.encode(picture(8, 8)), prefix=1)
    with pytest.raises(OptionError, match="no slices"):
        codec.slice_ends(codec.encode(picture(8, 8)))
    lying = dataclasses.replace(Bitstream.from_bytes(data), num_slices=12).to_bytes()
    with pytest.raises(BitstreamError, match="12 of 12 slices"):
        entropy_codec.decode(lying)


def test_the_entropy_models_memory_counts(local_model, integer_entropy_model):
    """What it knows is held for all windows at once, whatever the size of a tile."""
    tiling = Tiling(tile_size=64, margin=local_model.params.halo, blend=False, untiled_pixels=64**2)
    plain = ImageCodec(local_model, tiling=tiling)
    needed = plain.estimate_memory_bytes(4000, 4000, encoding=True)
    codec = ImageCodec(
        local_model,
        entropy_model=integer_entropy_model,
        tiling=tiling,
        limits=CodecLimits(max_memory_bytes=needed),
    )
    windows = 125**2
    tables = windows * 20 * 4 * (9 + 5)  # of groups and of their members, for 20 tokens
    assert codec.estimate_memory_bytes(4000, 4000, encoding=True) > needed + tables
    caches = windows * 2 * 20 * 16  # keys and values of 20 tokens
    assert codec.estimate_memory_bytes(4000, 4000) > 3 * 4000**2 + caches
    with pytest.raises(LimitExceededError, match="needs about"):
        codec.encode(np.zeros((4000, 4000, 3), np.uint8))


@pytest.mark.parametrize("size", [(64, 96), (33, 47), (1, 1), (1, 130)])
def test_half_size_codes_the_half_and_enlarges_it(codec, entropy_codec, picture, size):
    image = picture(*size)
    half = halved(image)
    assert half.shape == (-(-size[0] // 2), -(-size[1] // 2), 3)
    for coder, options in (
        (codec, EncodeOptions(half_size=True)),
        (entropy_codec, EncodeOptions(half_size=True)),
        (entropy_codec, EncodeOptions(half_size=True, rdo=0.02)),
    ):
        data = coder.encode(image, options)
        assert (describe(data).height, describe(data).width) == size
        of_half = coder.encode(half, EncodeOptions(rdo=options.rdo))
        assert Bitstream.from_bytes(data).payload == Bitstream.from_bytes(of_half).payload
        assert_same_maps(coder.decode_indices(data), coder.decode_indices(of_half))
        decoded = coder.decode(data)
        np.testing.assert_array_equal(decoded, resized(coder.decode(of_half), *size))
        decoded[0, 0] = 0  # the caller's own
    assert entropy_codec.decode(data, prefix=3).shape == image.shape
    ends = entropy_codec.slice_ends(data)
    assert entropy_codec.decode(data[: ends[-1]], truncated=True).shape == image.shape


def test_a_target_size_at_half_size_counts_the_pixels_of_the_image(entropy_codec, picture):
    image = picture(96, 96)
    plain = entropy_codec.encode(image, EncodeOptions(half_size=True))
    target = int(0.8 * len(plain))
    by_bytes = EncodeOptions(target_bytes=target, half_size=True)
    data = entropy_codec.encode(image, by_bytes)
    assert 0.85 * target <= len(data) <= target
    assert describe(data).half_size
    by_rate = EncodeOptions(bits_per_pixel=8 * target / 96**2, half_size=True)
    assert entropy_codec.encode(image, by_rate) == data


def test_half_size_needs_the_memory_of_a_quarter_and_of_resizing(entropy_codec):
    for encoding in (False, True):
        quarter = entropy_codec.estimate_memory_bytes(2000, 2000, encoding=encoding)
        half = entropy_codec.estimate_memory_bytes(4000, 4000, half_size=True, encoding=encoding)
        assert quarter + 4000**2 * 11 < half < quarter + 4000**2 * 13
    small = ImageCodec(
        entropy_codec.model,
        entropy_model=entropy_codec.entropy_model,
        limits=CodecLimits(max_memory_bytes=half - 1),
    )
    image = np.zeros((4000, 4000, 3), np.uint8)
    with pytest.raises(LimitExceededError, match="4000x4000 pixels needs about"):
        small.encode(image, EncodeOptions(half_size=True))


def test_a_pool_goes_to_half_size_before_it_leaves_slices_out(picture):
    pool, image = CodecPool(), picture(192, 256)
    low = zoo.codecs_by_rate()[-1]
    full = len(ImageCodec.from_pretrained(low).encode(image, EncodeOptions(rdo=0.12)))
    target = EncodeOptions(target_bytes=int(0.9 * full))
    data, codec = pool.encode(image, target)
    described = describe(data)
    assert (described.half_size, described.num_slices) == (True, None)
    assert pool.for_file(data) is codec
    assert codec.decode(data).shape == image.shape
    kept_to = dataclasses.replace(target, half_size=False)
    data, codec = pool.encode(image, kept_to)
    assert not describe(data).half_size
    assert len(data) <= 0.9 * full
    # Asked for, it is taken where none is needed; and a model that was chosen is kept to at full size.
    data, codec = pool.encode(image, EncodeOptions(target_bytes=100_000, half_size=True))
    assert describe(data).half_size
    assert codec.model_name == zoo.codecs_by_rate()[0]
    assert not describe(CodecPool(low).encode(image, target)[0]).half_size


def test_a_pool_takes_the_model_of_the_highest_rate_that_gets_there(picture):
    pool, image = CodecPool(), picture(96, 128)
    high, *_, low = zoo.codecs_by_rate()
    whole, codec = pool.encode(image, EncodeOptions(target_bytes=10_000))
    assert codec.model_name == high
    assert whole == codec.encode(image)
    assert list(pool._codecs) == [high]  # no other was loaded to compare with
    least = len(ImageCodec.from_pretrained(low).encode(image, EncodeOptions(num_slices=2)))
    data, codec = pool.encode(image, EncodeOptions(target_bytes=least))
    assert codec.model_name == low
    assert len(data) <= least
    assert pool.for_file(data) is codec
    assert codec.decode(data).shape == image.shape
    with pytest.raises(TargetSizeError, match="takes at least"):
        pool.encode(image, EncodeOptions(target_bytes=20))
    # A model that was chosen is kept to.
    data, codec = CodecPool(high).encode(image, EncodeOptions(target_bytes=least))
    assert codec.model_name == high
    assert len(data) <= least
