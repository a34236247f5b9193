# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest

from genaccel.codec.coding.index_coder import IndexCoder, lane_count
from genaccel.errors import BitstreamError

TABLES = np.array([[0, 60000, 65000, 65500, 65536], [0, 1, 2, 3, 65536]], np.int32)


def test_lanes_are_powers_of_two_that_cost_less_than_half_a_percent():
    assert [lane_count(n) for n in (0, 1, 4095, 4096, 8191, 8192, 32768, 10**8)] == [
        1, 1, 1, 2, 2, 4, 4, 4,
    ]  # fmt: skip
    for tokens in range(4096, 100_000, 1000):
        extra_bytes = 4 * (lane_count(tokens) - 1)
        assert extra_bytes < 0.005 * tokens * 3.2 / 8


@pytest.mark.parametrize("shapes", [[(1, 1), (2, 2)], [(0, 3), (1, 7)], [(40, 60), (80, 120)]])
def test_round_trip(shapes):
    generator = np.random.default_rng(0)
    maps = [generator.integers(0, 4, shape) for shape in shapes]
    coder = IndexCoder(TABLES)
    decoded = coder.decode(coder.encode(maps), shapes)
    for original, back in zip(maps, decoded, strict=True):
        np.testing.assert_array_equal(original, back)


def test_size_is_that_of_the_tables():
    generator = np.random.default_rng(0)
    p = np.diff(TABLES[0]) / 65536
    index_map = generator.choice(4, (100, 100), p=p)
    payload = IndexCoder(TABLES[:1]).encode([index_map])
    ideal = -np.log2(p[index_map]).sum() / 8
    assert ideal < len(payload) < ideal * 1.005 + 4 * lane_count(10_000)


def test_wrong_indices_and_shapes_are_refused():
    coder = IndexCoder(TABLES)
    with pytest.raises(ValueError, match="2 maps, got 1"):
        coder.encode([np.zeros((1, 1), int)])
    with pytest.raises(ValueError, match="symbol"):
        coder.encode([np.full((1, 1), 4), np.zeros((2, 2), int)])
    with pytest.raises(ValueError, match="2 entries, got 3"):
        coder.decode(b"", [(1, 1)] * 3)


@pytest.mark.parametrize(
    "change",
    [
        lambda payload: b"",
        lambda payload: payload[:-2],
        lambda payload: payload[:3],
        lambda payload: payload + b"\0\0",
        lambda payload: payload + b"\0",
        lambda payload: bytes([payload[0] ^ 1]) + payload[1:],
    ],
)
def test_damaged_payloads_are_refused(change):
    shapes = [(8, 8), (16, 16)]
    generator = np.random.default_rng(0)
    coder = IndexCoder(TABLES)
    payload = coder.encode([generator.integers(0, 4, shape) for shape in shapes])
    with pytest.raises(BitstreamError, match="payload does not decode"):
        coder.decode(change(payload), shapes)


def test_one_index_too_many_or_too_few_is_refused():
    coder = IndexCoder(TABLES)
    payload = coder.encode([np.ones((8, 8), int), np.ones((16, 16), int)])
    for shapes in ([(8, 8), (16, 15)], [(8, 8), (16, 17)]):
        with pytest.raises(BitstreamError):
            coder.decode(payload, shapes)
