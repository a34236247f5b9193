# SPDX-License-Identifier: Apache-2.0
import threading

import numpy as np
import pytest

from genaccel._coder import CdfTables, RansDecoder, RansEncoder, StreamError


def random_cdfs(rng, tables, alphabet, precision=16):
    """Strictly increasing rows: random cuts between the slots."""
    rows = []
    for _ in range(tables):
        inner = rng.choice(2**precision - 1, alphabet - 1, replace=False) + 1
        rows.append(np.concatenate([[0], np.sort(inner), [2**precision]]))
    return np.array(rows, dtype=np.int32)


def int32(*values):
    return np.array(values, dtype=np.int32)


def draw(rng, cdf, count):
    """Symbols distributed as the table says."""
    return (np.searchsorted(cdf, rng.integers(0, cdf[-1], count), side="right") - 1).astype(
        np.int32
    )


def decode_all(data, count, tables):
    decoder = RansDecoder(data, 1)
    symbols = decoder.pull(count, tables)
    decoder.finish()
    return symbols


@pytest.mark.parametrize("lanes", [1, 2, 3, 4, 8, 16, 64])
@pytest.mark.parametrize("count", [0, 1, 7, 64, 1001])
def test_round_trip(lanes, count):
    rng = np.random.default_rng(count)
    cdfs = random_cdfs(rng, 3, 37)
    tables = CdfTables(cdfs, 16)
    symbols, ids = draw(rng, cdfs[1], count), rng.integers(0, 3, count).astype(np.int32)
    encoder = RansEncoder(lanes)
    encoder.push(symbols, tables, 1)
    encoder.push(symbols[::-1].copy(), tables, ids)
    encoder.push(symbols, tables, 2)
    data = encoder.finish()
    decoder = RansDecoder(data, lanes)
    np.testing.assert_array_equal(decoder.pull(count, tables, 1), symbols)
    np.testing.assert_array_equal(decoder.pull(count, tables, ids), symbols[::-1])
    # In pieces of any length: the decoder does not depend on how the symbols were pushed.
    cut = count // 3
    np.testing.assert_array_equal(decoder.pull(cut, tables, 2), symbols[:cut])
    np.testing.assert_array_equal(decoder.pull(count - cut, tables, 2), symbols[cut:])
    decoder.finish()


@pytest.mark.parametrize(
    ("alphabet", "precision"),
    [(1, 1), (1, 16), (2, 1), (255, 8), (4096, 12), (4096, 16), (65536, 16)],
)
def test_alphabets_and_precisions(alphabet, precision):
    rng = np.random.default_rng(alphabet)
    cdfs = random_cdfs(rng, 1, alphabet, precision)
    tables = CdfTables(cdfs, precision)
    assert (tables.num_tables, tables.alphabet_size, tables.precision) == (1, alphabet, precision)
    symbols = draw(rng, cdfs[0], 3000)
    encoder = RansEncoder(4)
    encoder.push(symbols, tables)
    decoder = RansDecoder(encoder.finish(), 4)
    np.testing.assert_array_equal(decoder.pull(3000, tables), symbols)
    decoder.finish()


@pytest.mark.parametrize("precision", [1, 8, 15, 16])
@pytest.mark.parametrize("lanes", [1, 4, 5])
def test_every_frequency_divides_exactly(precision, lanes):
    """The encoder multiplies by reciprocals: all frequencies, each from many states."""
    rng = np.random.default_rng(precision)
    total = 2**precision
    frequencies = np.unique(
        np.r_[np.arange(1, min(total, 300)), rng.integers(1, total, 300), total - 1]
    )
    encoder, expected = RansEncoder(lanes), []
    for frequency in frequencies:
        tables = CdfTables(int32(0, frequency, total).reshape(1, 3), precision)
        symbols = rng.integers(0, 2, 40).astype(np.int32)
        encoder.push(symbols, tables)
        expected.append((tables, symbols))
    decoder = RansDecoder(encoder.finish(), lanes)
    for tables, symbols in expected:
        np.testing.assert_array_equal(decoder.pull(len(symbols), tables), symbols)
    decoder.finish()


def test_table_ids_of_either_type_give_the_same_bytes():
    rng = np.random.default_rng(5)
    cdfs = random_cdfs(rng, 3, 20)
    tables = CdfTables(cdfs, 16)
    ids = rng.integers(0, 3, 200).astype(np.int32)
    symbols = rng.integers(0, 20, 200).astype(np.int32)
    streams = []
    for dtype in (np.int32, np.uint8):
        encoder = RansEncoder(2)
        encoder.push(symbols, tables, ids.astype(dtype))
        streams.append(encoder.finish())
        decoder = RansDecoder(streams[-1], 2)
        np.testing.assert_array_equal(decoder.pull(200, tables, ids.astype(dtype)), symbols)
        decoder.finish()
    assert streams[0] == streams[1]


def test_symbol_with_nearly_all_slots_and_symbols_with_one():
    cdfs = np.array([[0, 2**16 - 2, 2**16 - 1, 2**16]], dtype=np.int32)
    tables = CdfTables(cdfs, 16)
    symbols = np.array([0] * 5000 + [1, 2] * 50 + [0] * 5000, dtype=np.int32)
    for lanes in (1, 8):
        encoder = RansEncoder(lanes)
        encoder.push(symbols, tables)
        data = encoder.finish()
        assert len(data) <= 4 * lanes + 2 * 101
        decoder = RansDecoder(data, lanes)
        np.testing.assert_array_equal(decoder.pull(len(symbols), tables), symbols)
        decoder.finish()


@pytest.mark.parametrize("lanes", [1, 5, 8])
def test_static_and_own_tables_mix_in_one_stream(lanes):
    rng = np.random.default_rng(1)
    static = random_cdfs(rng, 2, 50)
    tables = CdfTables(static, 16)
    own = random_cdfs(rng, 333, 100, 14)
    a, b = draw(rng, static[0], 123), draw(rng, static[1], 77)
    c = np.array([draw(rng, row, 1)[0] for row in own], dtype=np.int32)
    encoder = RansEncoder(lanes)
    encoder.push(a, tables, 0)
    encoder.push_cdfs(c, own, 14)
    encoder.push(b, tables, 1)
    decoder = RansDecoder(encoder.finish(), lanes)
    np.testing.assert_array_equal(decoder.pull(123, tables, 0), a)
    np.testing.assert_array_equal(decoder.pull_cdfs(own, 14), c)
    np.testing.assert_array_equal(decoder.pull(77, tables, 1), b)
    decoder.finish()


@pytest.mark.parametrize("lanes", [1, 8])
def test_rate_is_that_of_the_tables(lanes):
    rng = np.random.default_rng(2)
    cdfs = random_cdfs(rng, 1, 300)
    symbols = draw(rng, cdfs[0], 50_000)
    ideal_bytes = -np.log2(np.diff(cdfs[0])[symbols] / 2**16).sum() / 8
    encoder = RansEncoder(lanes)
    encoder.push(symbols, CdfTables(cdfs, 16))
    assert len(encoder.finish()) <= 1.001 * ideal_bytes + 4 * lanes


def test_bytes_of_the_format_do_not_change():
    tables = CdfTables(np.array([[0, 40000, 60000, 65000, 65536]], dtype=np.int32), 16)
    encoder = RansEncoder(2)
    encoder.push(np.array([0, 1, 2, 3, 0, 0, 1, 3, 3], dtype=np.int32), tables)
    assert encoder.finish().hex() == "e88b773746ae010090fe"


def test_encoder_starts_anew_after_finish():
    tables = CdfTables(np.array([[0, 1, 2**16]], dtype=np.int32), 16)
    encoder = RansEncoder(1)
    encoder.push(np.zeros(10, dtype=np.int32), tables)
    first = encoder.finish()
    assert encoder.finish() == RansEncoder(1).finish()
    encoder.push(np.zeros(10, dtype=np.int32), tables)
    assert encoder.finish() == first


@pytest.mark.parametrize("lanes", [1, 4, 7])
def test_damaged_streams_raise_or_give_symbols_of_the_alphabet(lanes):
    rng = np.random.default_rng(3)
    cdfs = random_cdfs(rng, 1, 50)
    tables = CdfTables(cdfs, 16)
    symbols = draw(rng, cdfs[0], 400)
    encoder = RansEncoder(lanes)
    encoder.push(symbols, tables)
    good = encoder.finish()
    damaged = [good[:n] for n in range(0, len(good), 3)]
    damaged += [good + b"\0\0", b"", b"\0" * len(good), b"\xff" * len(good)]
    damaged += [rng.bytes(int(rng.integers(0, 2 * len(good)))) for _ in range(200)]
    for _ in range(500):
        flipped = bytearray(good)
        flipped[rng.integers(len(good))] ^= 1 << int(rng.integers(8))
        damaged.append(bytes(flipped))
    undetected = 0
    for data in damaged:
        try:
            decoder = RansDecoder(data, lanes)
            decoded = decoder.pull(400, tables)
            assert decoded.min() >= 0
            assert decoded.max() < 50
            decoder.finish()
            undetected += 1
        except StreamError:
            pass
    assert undetected < 5  # the final states are 32 bits a lane of redundancy


def test_each_truncation_and_extension_is_noticed():
    tables = CdfTables(np.array([[0, 30000, 2**16]], dtype=np.int32), 16)
    encoder = RansEncoder(1)
    encoder.push(np.tile(np.array([0, 1], dtype=np.int32), 100), tables)
    good = encoder.finish()
    for data in [good[:n] for n in range(len(good))] + [good + b"\0\0", good + b"\0"]:
        with pytest.raises(StreamError):
            decode_all(data, 200, tables)


def test_finish_before_the_end_is_an_error():
    tables = CdfTables(np.array([[0, 30000, 2**16]], dtype=np.int32), 16)
    encoder = RansEncoder(1)
    encoder.push(np.ones(100, dtype=np.int32), tables)
    decoder = RansDecoder(encoder.finish(), 1)
    decoder.pull(50, tables)
    with pytest.raises(StreamError, match="goes on behind"):
        decoder.finish()


def test_two_threads_code_at_once():
    rng = np.random.default_rng(4)
    cdfs = random_cdfs(rng, 4, 1000)
    tables = CdfTables(cdfs, 16)
    results = {}

    def work(number):
        symbols = draw(np.random.default_rng(number), cdfs[number], 200_000)
        encoder = RansEncoder(4)
        encoder.push(symbols, tables, number)
        decoder = RansDecoder(encoder.finish(), 4)
        results[number] = np.array_equal(decoder.pull(200_000, tables, number), symbols)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == dict.fromkeys(range(4), True)


@pytest.mark.parametrize(
    ("cdfs", "precision", "error", "message"),
    [
        ([[0, 2]], 1, TypeError, "cdfs must be a numpy array, got list"),
        (np.array([[0, 2]]), 1, TypeError, "cdfs must be int32, got int64"),
        (int32(0, 2), 1, ValueError, "cdfs must have 2 dimensions"),
        (int32(0, 1, 0, 2).reshape(2, 2).T, 1, ValueError, "C-contiguous"),
        (int32(0).reshape(1, 1), 1, ValueError, "at least 2 columns"),
        (int32(0, 3).reshape(1, 2), 1, ValueError, r"from 0 to 2\^precision = 2, got 0 to 3"),
        (int32(1, 2).reshape(1, 2), 1, ValueError, "got 1 to 2"),
        (int32(0, 3, 3, 4).reshape(1, 4), 2, ValueError, "symbol 1 goes from 3 to 3"),
        (int32(0, 2).reshape(1, 2), 0, ValueError, r"precision must be in \[1, 16\], got 0"),
        (int32(0, 2**17).reshape(1, 2), 17, ValueError, "got 17"),
        (np.arange(6, dtype=np.int32)[None], 2, ValueError, r"1 to 2\^precision symbols, got 5"),
        (np.empty((0, 3), dtype=np.int32), 2, ValueError, "tables, got 0"),
    ],
)
def test_tables_are_checked(cdfs, precision, error, message):
    with pytest.raises(error, match=message):
        CdfTables(cdfs, precision)


def test_arguments_are_checked():
    tables = CdfTables(int32(0, 1, 2, 4).reshape(1, 4), 2)
    encoder, decoder = RansEncoder(1), RansDecoder(RansEncoder(1).finish(), 1)
    for lanes in (0, 65, -1):
        with pytest.raises(ValueError, match=r"lanes must be in \[1, 64\]"):
            RansEncoder(lanes)
        with pytest.raises(ValueError, match=r"lanes must be in \[1, 64\]"):
            RansDecoder(b"", lanes)
    with pytest.raises(ValueError, match=r"symbols must be in \[0, 3\), got 3"):
        encoder.push(int32(0, 3, 1), tables)
    with pytest.raises(ValueError, match=r"symbols must be in \[0, 3\), got -1"):
        encoder.push(int32(0, -1), tables)
    with pytest.raises(ValueError, match=r"table_ids must be in \[0, 1\), got 1"):
        encoder.push(int32(0), tables, 1)
    with pytest.raises(ValueError, match="got -1"):
        encoder.push(int32(0), tables, int32(-1))
    with pytest.raises(ValueError, match="one entry per symbol: expected 1, got 2"):
        encoder.push(int32(0), tables, int32(0, 0))
    with pytest.raises(TypeError, match="table_ids must be an int, or a uint8 or int32 array"):
        encoder.push(int32(0), tables, 0.0)
    with pytest.raises(TypeError, match="table_ids must be uint8 or int32, got int64"):
        encoder.push(int32(0), tables, np.zeros(1, dtype=np.int64))
    with pytest.raises(ValueError, match=r"table_ids must be in \[0, 1\)"):
        encoder.push(int32(0), tables, 10**30)
    with pytest.raises(TypeError, match="symbols must be a numpy array, got list"):
        encoder.push([0], tables)
    with pytest.raises(ValueError, match="symbols must have 1 dimensions, got 2"):
        encoder.push(int32(0, 1).reshape(1, 2), tables)
    with pytest.raises(ValueError, match="symbols must be C-contiguous"):
        encoder.push(int32(0, 1, 2, 0)[::2], tables)
    with pytest.raises(TypeError, match="incompatible function arguments"):
        encoder.push(int32(0), None)
    with pytest.raises(TypeError, match="incompatible function arguments"):
        decoder.pull(1, None)
    with pytest.raises(ValueError, match="one row per symbol: expected 2, got 1"):
        encoder.push_cdfs(int32(0, 1), int32(0, 1, 4).reshape(1, 3), 2)
    with pytest.raises(ValueError, match="precision must be"):
        decoder.pull_cdfs(int32(0, 1, 4).reshape(1, 3), 40)
    with pytest.raises(ValueError, match="increase strictly"):
        decoder.pull_cdfs(int32(0, 4, 4).reshape(1, 3), 2)
    with pytest.raises(ValueError, match=r"2\^precision symbols, got 4"):
        decoder.pull_cdfs(np.arange(5, dtype=np.int32)[None], 1)
    with pytest.raises((ValueError, MemoryError)):
        decoder.pull(2**62, tables)
    with pytest.raises(ValueError, match="count must not be negative"):
        decoder.pull(-1, tables)
    with pytest.raises(ValueError, match="contiguous buffer of bytes"):
        RansDecoder(np.arange(8, dtype=np.int32), 1)
    assert encoder.finish() == RansEncoder(1).finish()  # nothing of the above was appended
