# SPDX-License-Identifier: Apache-2.0
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from genaccel._coder import ByteRansDecoder, ByteRansEncoder, StreamError

GOLDEN = Path(__file__).parents[1] / "golden" / "rdvq_bitstream"


def random_rows(rng, count, alphabet, precision):
    rows = [
        np.sort(rng.choice(2**precision - 1, alphabet - 1, replace=False) + 1) for _ in range(count)
    ]
    ends = np.zeros((count, 1)), np.full((count, 1), 2**precision)
    return np.concatenate(
        [ends[0], np.array(rows).reshape(count, alphabet - 1), ends[1]], 1
    ).astype(np.int32)


def encode(symbols, cdfs, precision=16):
    encoder = ByteRansEncoder()
    encoder.push_cdfs(symbols, cdfs, precision)
    return encoder.finish()


@pytest.mark.golden
@pytest.mark.parametrize("name", ["n28_top", "n28_residual", "n12_top", "n12_residual"])
def test_bytes_are_the_authors(name):
    tensors = load_file(GOLDEN / "bitstream.safetensors")
    symbols, cdfs = tensors[f"{name}_symbols"], tensors[f"{name}_cdfs"]
    stream = encode(symbols, cdfs)
    assert stream == tensors[f"{name}_bytes"].tobytes()
    decoder = ByteRansDecoder(stream)
    np.testing.assert_array_equal(decoder.pull_cdfs(cdfs, 16), symbols)
    decoder.finish()


@pytest.mark.parametrize("count", [0, 1, 500])
@pytest.mark.parametrize(("alphabet", "precision"), [(1, 1), (2, 8), (33, 12), (1025, 16)])
def test_round_trip_in_pieces(count, alphabet, precision):
    rng = np.random.default_rng(count)
    cdfs = random_rows(rng, count, alphabet, precision)
    symbols = rng.integers(0, alphabet, count).astype(np.int32)
    encoder = ByteRansEncoder()
    for part in np.array_split(np.arange(count), 3):
        encoder.push_cdfs(symbols[part], cdfs[part], precision)
    stream = encoder.finish()
    assert encoder.finish() == ByteRansEncoder().finish()  # empty again
    decoder = ByteRansDecoder(stream)
    np.testing.assert_array_equal(
        decoder.pull_cdfs(cdfs[: count // 2], precision), symbols[: count // 2]
    )
    np.testing.assert_array_equal(
        decoder.pull_cdfs(cdfs[count // 2 :], precision), symbols[count // 2 :]
    )
    decoder.finish()


@pytest.mark.parametrize("precision", [1, 8, 16])
def test_every_frequency_divides_exactly(precision):
    """The encoder multiplies by reciprocals."""
    frequencies = np.unique(np.geomspace(1, 2**precision - 1, 400).astype(np.int32))
    rows = np.stack(
        [np.zeros_like(frequencies), frequencies, np.full_like(frequencies, 2**precision)], 1
    )
    rng = np.random.default_rng(0)
    rows = rows[rng.integers(0, len(rows), 5000)].astype(np.int32)
    symbols = rng.integers(0, 2, 5000).astype(np.int32)
    decoder = ByteRansDecoder(encode(symbols, rows, precision))
    np.testing.assert_array_equal(decoder.pull_cdfs(rows, precision), symbols)
    decoder.finish()


def test_size_is_that_of_the_probabilities():
    rows = np.tile(np.array([[0, 60000, 65000, 65536]], np.int32), (4000, 1))
    p = np.diff(rows[0]) / 65536
    symbols = np.random.default_rng(0).choice(3, 4000, p=p).astype(np.int32)
    ideal = -np.log2(p[symbols]).sum() / 8
    assert ideal < len(encode(symbols, rows)) < ideal + 5


def test_broken_streams_are_refused():
    rows = np.tile(np.array([[0, 32768, 65536]], np.int32), (100, 1))
    stream = encode(np.arange(100, dtype=np.int32) % 2, rows)
    for broken in (b"", stream[:3], b"\0\0\0\0" + stream[4:], b"\xff" * 8):
        with pytest.raises(StreamError):
            ByteRansDecoder(broken)
    with pytest.raises(StreamError, match="ends before"):
        ByteRansDecoder(stream[:-2]).pull_cdfs(rows, 16)
    decoder = ByteRansDecoder(stream + b"\0")
    decoder.pull_cdfs(rows, 16)
    with pytest.raises(StreamError, match="goes on"):
        decoder.finish()
    decoder = ByteRansDecoder(stream)
    decoder.pull_cdfs(rows[:-1], 16)
    with pytest.raises(StreamError):
        decoder.finish()


@pytest.mark.parametrize(
    ("symbols", "row", "message"),
    [
        ([2], [0, 1, 256], r"\[0, 2\), got 2"),
        ([-1], [0, 1, 256], "got -1"),
        ([0], [0, 0, 256], "strictly"),
    ],
)
def test_bad_arguments_are_named_and_nothing_is_appended(symbols, row, message):
    encoder = ByteRansEncoder()
    empty = ByteRansEncoder().finish()
    with pytest.raises(ValueError, match=message):
        encoder.push_cdfs(np.array(symbols, np.int32), np.array([row], np.int32), 8)
    with pytest.raises(ValueError, match="one row per symbol"):
        encoder.push_cdfs(np.zeros(2, np.int32), np.array([[0, 256]], np.int32), 8)
    assert encoder.finish() == empty
