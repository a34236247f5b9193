# SPDX-License-Identifier: Apache-2.0
"""Alpha planes and metadata in whole files."""

import dataclasses
import random

import numpy as np
import pytest
from full_metadata import FULL

from genaccel import _coder, zoo
from genaccel.codec import DecodedImage, EncodeOptions, PhotoMetadata
from genaccel.codec.batch.codec_pool import CodecPool
from genaccel.codec.carried import Sections
from genaccel.codec.encoder.hidden_colours import fill_hidden
from genaccel.codec.format.bitstream import Bitstream, describe
from genaccel.errors import (
    BitstreamError,
    LimitExceededError,
    OptionError,
    TargetSizeError,
    UnknownModelError,
)


@pytest.fixture
def mask():
    """A disc in 64x96, as a mask with a smooth edge."""
    y, x = np.mgrid[:64, :96]
    return ((25 - np.hypot(y - 30, x - 50)).clip(0, 1) * 255).astype(np.uint8)


@pytest.mark.parametrize("half_size", [False, True])
@pytest.mark.parametrize("static_tables", [False, True])
def test_files_hold_both(entropy_codec, picture, mask, half_size, static_tables):
    options = EncodeOptions(half_size=half_size, static_tables=static_tables)
    data = entropy_codec.encode(picture(64, 96), options, alpha=mask, metadata=FULL)
    decoded = entropy_codec.decode_file(data)
    np.testing.assert_array_equal(decoded.alpha, mask)
    assert decoded.metadata == FULL
    np.testing.assert_array_equal(decoded.pixels, entropy_codec.decode(data))
    assert decoded.rgba.shape == (64, 96, 4)
    info = describe(data)
    stream = Bitstream.from_bytes(data)
    assert (info.alpha_bytes, info.metadata_bytes) == (len(stream.alpha), len(stream.metadata))
    assert info.metadata == FULL.in_words()
    assert len(data) == stream.header_bytes + len(stream.payload) + 4
    assert 8 * len(data) / (64 * 96) == info.bits_per_pixel


def test_files_without_are_what_they_were(entropy_codec, picture):
    image = picture(64, 96)
    plain = entropy_codec.encode(image)
    opaque = np.full((64, 96), 255, np.uint8)
    assert entropy_codec.encode(image, alpha=opaque, metadata=PhotoMetadata()) == plain
    assert entropy_codec.encode(image, alpha=None, metadata=None) == plain
    assert plain[4] == 0x20
    decoded = entropy_codec.decode_file(plain)
    assert (decoded.alpha, decoded.metadata, decoded.rgba.shape) == (None, None, (64, 96, 3))
    assert (describe(plain).alpha_bytes, describe(plain).metadata) == (0, {})


def test_sections_stand_before_the_payload(entropy_codec, picture, mask):
    data = entropy_codec.encode(picture(64, 96), alpha=mask, metadata=FULL)
    assert data[4] == 0x2C
    ends = entropy_codec.slice_ends(data)
    preview = entropy_codec.decode_file(data[: ends[3]], truncated=True)
    np.testing.assert_array_equal(preview.alpha, mask)
    assert preview.metadata == FULL
    with pytest.raises(BitstreamError, match="file ends inside its alpha plane"):
        entropy_codec.decode_file(data[:20], truncated=True)


@pytest.mark.parametrize(
    ("alpha", "error", "message"),
    [
        (np.zeros((64, 95), np.uint8), ValueError, "the image's sides"),
        (np.zeros((64, 96, 1), np.uint8), ValueError, r"shape \[H, W\]"),
        (np.zeros((64, 96)), TypeError, "alpha must be a uint8 array, got float64"),
        ([[0]], TypeError, "alpha must be a uint8 array, got list"),
    ],
)
def test_other_planes_are_none(codec, picture, alpha, error, message):
    with pytest.raises(error, match=message):
        codec.encode(picture(64, 96), alpha=alpha)


@pytest.mark.parametrize("by", ["target_bytes", "bits_per_pixel"])
def test_a_size_counts_what_is_carried(entropy_codec, picture, mask, by):
    image = picture(64, 96)
    plain = len(entropy_codec.encode(fill_hidden(image, mask)))
    carried = Sections.of(image, mask, FULL).num_bytes
    most = plain - plain // 8 + carried
    value = most if by == "target_bytes" else 8 * (most + 0.5) / image[..., 0].size
    options = EncodeOptions(**{by: value})
    data = entropy_codec.encode(image, options, alpha=mask, metadata=FULL)
    assert 0.8 * most < len(data) <= most
    np.testing.assert_array_equal(entropy_codec.decode_file(data).alpha, mask)
    with pytest.raises(TargetSizeError, match=f"{carried} of them for alpha plane and metadata"):
        entropy_codec.encode(
            image, EncodeOptions(target_bytes=carried + 10), alpha=mask, metadata=FULL
        )


def test_a_pool_counts_it_when_it_chooses_a_model(
    monkeypatch, local_model, integer_entropy_model, entropy_codec, picture, mask
):
    monkeypatch.setattr(zoo, "codecs_by_rate", lambda: ("one", "two"))
    monkeypatch.setattr(zoo, "fair_rdo", lambda name: 0.05)
    pool = CodecPool()
    monkeypatch.setattr(pool, "_load", lambda name: entropy_codec)
    image = picture(64, 96)
    carried = Sections.of(image, mask, FULL).num_bytes
    most = len(entropy_codec.encode(fill_hidden(image, mask))) + carried + 4
    options = EncodeOptions(target_bytes=most)
    data, _ = pool.encode(image, options, alpha=mask, metadata=FULL)
    assert len(data) <= most
    assert not describe(data).half_size  # room was left for what is carried, and no more
    decoded = entropy_codec.decode_file(data)
    np.testing.assert_array_equal(decoded.alpha, mask)
    assert decoded.metadata == FULL


def test_hidden_colours_are_smooth_and_the_others_as_they_were(picture):
    image = picture(50, 70)
    alpha = np.full((50, 70), 9, np.uint8)
    assert fill_hidden(image, alpha) is image
    alpha[10:40, 5:60] = 0
    before = image.copy()
    filled = fill_hidden(image, alpha)
    np.testing.assert_array_equal(image, before)
    np.testing.assert_array_equal(filled[alpha > 0], image[alpha > 0])
    steps, before_steps = (
        abs(np.diff(x[16:32, 16:48].astype(int), axis=1)) for x in (filled, image)
    )
    assert steps.mean() < 0.5 * before_steps.mean()
    seen = image[alpha > 0]
    assert filled.min() >= seen.min()
    assert filled.max() <= seen.max()
    assert (fill_hidden(image, np.zeros((50, 70), np.uint8)) == 0).all()


def test_what_is_hidden_makes_no_file_larger(entropy_codec, picture):
    image = picture(64, 96)
    alpha = np.full((64, 96), 255, np.uint8)
    alpha[:, 32:] = 0
    noisy = image.copy()
    noisy[:, 32:] = np.random.default_rng(0).integers(0, 256, (64, 64, 3))
    assert entropy_codec.encode(noisy, alpha=alpha) == entropy_codec.encode(image, alpha=alpha)


def resealed(body):
    return body + _coder.crc32c(body).to_bytes(4, "little")


def test_damaged_sections_with_a_right_checksum_end_in_a_bitstream_error(
    entropy_codec, picture, mask
):
    data = entropy_codec.encode(picture(64, 96), alpha=mask, metadata=FULL)
    sections = range(12, Bitstream.from_bytes(data).header_bytes)
    rng = random.Random(0)
    endings = {"refused": 0, "decoded": 0}
    for i in range(60):
        body = bytearray(data[:-4])
        if i % 4 == 3:
            cut = rng.choice(sections)
            del body[cut : cut + rng.randint(1, 9)]
        else:
            body[rng.choice(sections)] = rng.randrange(256)
        try:
            decoded = entropy_codec.decode_file(resealed(bytes(body)))
        except (BitstreamError, LimitExceededError, UnknownModelError, OptionError):
            endings["refused"] += 1
        else:
            assert isinstance(decoded, DecodedImage)
            endings["decoded"] += 1
    assert endings["refused"] > 30


STREAM = Bitstream(
    width=640,
    height=427,
    model_number=1,
    model_digest=b"\1\2\3\4",
    payload=bytes(50),
    alpha=bytes(200),
    metadata=b"\0\x0a\x03100",
)


@pytest.mark.parametrize("alpha", [b"", bytes(7), bytes(300), bytes(70_000)])
@pytest.mark.parametrize("metadata", [b"", bytes(16_384)])
def test_containers_come_back(alpha, metadata):
    for version, num_slices in ((1, None), (2, 9)):
        stream = dataclasses.replace(
            STREAM, alpha=alpha, metadata=metadata, version=version, num_slices=num_slices
        )
        assert Bitstream.from_bytes(stream.to_bytes()) == stream


def forged(sections, flags=0x14):
    head = b"\xc1GAC" + bytes([flags]) + b"\x08\x08\1\1\2\3\4"
    return resealed(head + sections + bytes(8))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (forged(b"\x00"), "alpha plane must have 1 to 192 bytes, and the file says 0"),
        (forged(b"\xc1\x01" + bytes(193)), "alpha plane must have 1 to 192 bytes"),
        (forged(b"\xff\xff\xff\x7f"), "alpha plane must have 1 to 192 bytes"),
        (forged(b"\xff\xff\xff\xff\x01"), "longer than 4 bytes"),
        (forged(b"\x87\x00" + bytes(9)), "shortest form"),
        (forged(b"\x20"), "file ends inside its alpha plane"),
        (forged(b"\x00", 0x18), "metadata must have 1 to 16384 bytes"),
        (forged(b"\x81\x80\x01", 0x18), "metadata must have 1 to 16384 bytes"),
        (forged(b"\x50", 0x18), "file ends inside its metadata"),
        (forged(b"\x01\0\x50", 0x1C), "file ends inside its metadata"),
    ],
)
def test_forged_lengths_are_refused(data, message):
    with pytest.raises(BitstreamError, match=message):
        Bitstream.from_bytes(data)


def test_every_cut_of_a_file_with_sections_is_refused():
    data = STREAM.to_bytes()
    for length in range(len(data)):
        with pytest.raises(BitstreamError):
            Bitstream.from_bytes(data[:length])


@pytest.mark.parametrize("change", [{"alpha": bytes(600_000)}, {"metadata": bytes(16_385)}])
def test_sections_that_are_too_large_are_not_written(change):
    with pytest.raises(ValueError, match=r"too large|at most 16384"):
        dataclasses.replace(STREAM, **change)
