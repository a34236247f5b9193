# SPDX-License-Identifier: Apache-2.0
"""Arrays that lie oddly in memory, and arrays that another thread writes to while a coder reads them."""

import subprocess
import sys

import numpy as np
import pytest

from genaccel._coder import (
    ByteRansDecoder,
    ByteRansEncoder,
    CdfTables,
    RansDecoder,
    RansEncoder,
    crc32c,
)

TABLE = np.array([[0, 1, 2, 4]], dtype=np.int32)


def misaligned(array):
    """The same array, one byte off."""
    data = bytearray(array.nbytes + 1)
    data[1:] = array.tobytes()
    moved = np.frombuffer(data, array.dtype, offset=1).reshape(array.shape)
    assert not moved.flags.aligned
    np.testing.assert_array_equal(moved, array)
    return moved


def swapped(array):
    """The same numbers in the other byte order."""
    return array.astype(array.dtype.newbyteorder())


def reversed_twice(array):
    """The same numbers, with a negative stride."""
    return array[..., ::-1].copy()[..., ::-1]


def spread(array):
    """The same numbers, with gaps in between."""
    return np.repeat(array, 2, axis=-1)[..., ::2]


ODD = [
    (misaligned, ValueError, "must be aligned to its elements"),
    (swapped, TypeError, "must be int32, got [<>]i4"),
    (reversed_twice, ValueError, "must be C-contiguous"),
    (spread, ValueError, "must be C-contiguous"),
]


@pytest.mark.parametrize(("odd", "error", "message"), ODD, ids=[o[0].__name__ for o in ODD])
def test_arrays_that_lie_oddly_are_refused(odd, error, message):
    symbols, ids = np.array([2, 0], dtype=np.int32), np.array([0, 0], dtype=np.int32)
    rows, tables = np.repeat(TABLE, 2, axis=0), CdfTables(TABLE, 2)
    calls = {
        "tables": lambda: CdfTables(odd(TABLE), 2),
        "symbols": lambda: RansEncoder().push(odd(symbols), tables),
        "own rows": lambda: RansEncoder().push_cdfs(symbols, odd(rows), 2),
        "own rows, symbols": lambda: RansEncoder().push_cdfs(odd(symbols), rows, 2),
        "bytes": lambda: ByteRansEncoder().push_cdfs(symbols, odd(rows), 2),
        "bytes, symbols": lambda: ByteRansEncoder().push_cdfs(odd(symbols), rows, 2),
        "decoder": lambda: RansDecoder(RansEncoder().finish()).pull_cdfs(odd(rows), 2),
        "decoder of bytes": lambda: ByteRansDecoder(ByteRansEncoder().finish()).pull_cdfs(
            odd(rows), 2
        ),
    }
    for call in calls.values():
        with pytest.raises(error, match=message):
            call()
    message = message.replace("int32", "uint8 or int32")
    with pytest.raises(error, match=message):
        RansEncoder().push(symbols, tables, odd(ids))
    with pytest.raises(error, match=message):
        RansDecoder(RansEncoder().finish()).pull(2, tables, odd(ids))


def test_read_only_arrays_and_streams_from_any_byte_are_read():
    symbols, tables = np.array([2, 0, 1], dtype=np.int32), CdfTables(TABLE, 2)
    symbols.flags.writeable = False
    encoder = RansEncoder(2)
    encoder.push(symbols, tables, np.zeros(3, dtype=np.uint8))
    stream = encoder.finish()
    shifted = memoryview(b"x" + stream)[1:]
    np.testing.assert_array_equal(RansDecoder(shifted, 2).pull(3, tables), symbols)
    assert crc32c(shifted) == crc32c(stream)
    with pytest.raises(ValueError, match="contiguous buffer"):
        RansDecoder(memoryview(stream)[::-1], 2)


RACE = """
import sys, threading, time
import numpy as np
from genaccel._coder import *

count, alphabet = 30_000, 3
good = np.tile(np.array([0, 20000, 40000, 65536], np.int32), (count, 1))
bad = np.full_like(good, 65536)  # intervals of nothing
symbols = (np.arange(count) % alphabet).astype(np.int32)
encoder, byte_encoder = RansEncoder(4), ByteRansEncoder()
encoder.push_cdfs(symbols, good, 16)
byte_encoder.push_cdfs(symbols, good, 16)
stream, byte_stream = encoder.finish(), byte_encoder.finish()
rows, wild, tables = good.copy(), symbols.copy(), CdfTables(good[:1], 16)

def coding(call):
    def work():
        while time.monotonic() < end:
            try:
                call()
            except ValueError:  # what is refused; a StreamError is one too
                refused.append(call)
    return work

def once(coder, *arguments):
    coder.push_cdfs(*arguments)
    coder.finish()

calls = [
    lambda: once(RansEncoder(4), wild, rows, 16),
    lambda: once(ByteRansEncoder(), wild, rows, 16),
    lambda: RansEncoder(4).push(wild, tables),
    lambda: RansDecoder(stream, 4).pull_cdfs(rows, 16),
    lambda: ByteRansDecoder(byte_stream).pull_cdfs(rows, 16),
    lambda: CdfTables(rows[:100], 16),
]
refused, end = [], time.monotonic() + 2.5
threads = [threading.Thread(target=coding(call)) for call in calls]
for thread in threads:
    thread.start()
turn = 0
while time.monotonic() < end:
    turn += 1
    part = slice(None) if turn % 2 else slice(turn % count, turn % count + 50)
    rows[part] = bad[part]
    wild[part] = -1
    rows[part] = good[part]
    wild[part] = symbols[part]
for thread in threads:
    thread.join(60)
    assert not thread.is_alive()
print("refused", len(refused) > 0)
"""


def test_a_thread_that_writes_meanwhile_costs_an_error_and_nothing_else():
    """It divided by zero, read outside of the row, or never ended."""
    done = subprocess.run([sys.executable, "-c", RACE], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout) == (0, "refused True\n"), done.stderr
