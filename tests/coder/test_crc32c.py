# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest

from genaccel._coder import crc32c


def bit_by_bit(data):
    value = 0xFFFFFFFF
    for byte in data:
        value ^= byte
        for _ in range(8):
            value = value >> 1 ^ (0x82F63B78 if value & 1 else 0)
    return value ^ 0xFFFFFFFF


def test_check_value_of_the_standard():
    assert crc32c(b"123456789") == 0xE3069283
    assert crc32c(b"") == 0
    assert crc32c(b"\0" * 32) == 0x8A9136AA  # RFC 3720, B.4


@pytest.mark.parametrize("size", [1, 7, 8, 9, 31, 1000])
def test_any_length_equals_the_definition(size):
    data = np.random.default_rng(size).bytes(size)
    assert crc32c(data) == bit_by_bit(data)


def test_parts_continue_each_other():
    data = np.random.default_rng(0).bytes(100)
    for cut in (0, 1, 50, 99, 100):
        assert crc32c(data[cut:], crc32c(data[:cut])) == crc32c(data)


def test_takes_any_buffer_of_bytes():
    data = b"some bytes"
    assert crc32c(bytearray(data)) == crc32c(memoryview(data)) == crc32c(data)
    with pytest.raises(ValueError, match="contiguous buffer of bytes"):
        crc32c(memoryview(data)[::2])
    with pytest.raises(TypeError):
        crc32c("text")
