# SPDX-License-Identifier: Apache-2.0
import dataclasses
import io
import json
import re
from pathlib import Path

import numpy as np
import pytest

from genaccel import _coder
from genaccel.codec.coding.index_coder import IndexCoder
from genaccel.codec.format.bitstream import MAGIC, Bitstream, describe
from genaccel.errors import BitstreamError, LimitExceededError

FORMAT_PAGE = Path(__file__).parents[2] / "docs" / "format.md"

STREAM = Bitstream(
    width=640, height=427, model_number=1, model_digest=b"\1\2\3\4", payload=bytes(range(50))
)


def seal(body):
    """Append the right checksum, as a forger would."""
    return body + _coder.crc32c(body).to_bytes(4, "little")


def header(
    width=b"\x80\x05", height=b"\xab\x03", first=b"\x10", tail=b"\1\1\2\3\4", payload=b"x" * 50
):
    return seal(MAGIC + first + width + height + tail + payload)


@pytest.mark.parametrize(
    ("width", "height", "overhead"),
    [
        (1, 1, 16),
        (127, 127, 16),
        (128, 127, 17),
        (16383, 16383, 18),
        (16384, 1, 18),
        (16384, 10922, 19),
    ],
)
def test_round_trip_and_overhead(width, height, overhead):
    stream = dataclasses.replace(STREAM, width=width, height=height, payload=bytes(5000))
    data = stream.to_bytes()
    assert len(data) - len(stream.payload) == overhead
    assert Bitstream.from_bytes(data, max_pixels=2**29) == stream


@pytest.mark.parametrize(("change", "most"), [({}, 20), ({"version": 2, "num_slices": 9}, 21)])
def test_overhead_never_exceeds_21_bytes(change, most):
    stream = dataclasses.replace(STREAM, width=65535, height=65535, payload=bytes(65535), **change)
    assert len(stream.to_bytes()) - 65535 == most


ENTROPY_STREAM = dataclasses.replace(STREAM, version=2)


@pytest.mark.parametrize(("num_slices", "overhead"), [(None, 18), (1, 19), (255, 19)])
def test_version_2_has_a_slice_count_only_if_slices_are_missing(num_slices, overhead):
    stream = dataclasses.replace(ENTROPY_STREAM, num_slices=num_slices)
    data = stream.to_bytes()
    assert len(data) - len(stream.payload) == overhead
    assert stream.header_bytes == overhead - 4
    assert Bitstream.from_bytes(data) == stream
    described = describe(data)
    assert (described.entropy_model, described.num_slices) == (True, num_slices)


@pytest.mark.parametrize("stream", [STREAM, ENTROPY_STREAM])
def test_half_size_is_a_flag_and_costs_no_byte(stream):
    half = dataclasses.replace(stream, half_size=True)
    data = half.to_bytes()
    assert len(data) == len(stream.to_bytes())
    assert data[4] == stream.version << 4 | 2
    assert Bitstream.from_bytes(data) == half
    assert (half.coded_sides, stream.coded_sides) == ((214, 320), (427, 640))
    assert (describe(data).half_size, describe(stream.to_bytes()).half_size) == (True, False)
    assert (describe(data).width, describe(data).height) == (640, 427)
    both = dataclasses.replace(ENTROPY_STREAM, half_size=True, num_slices=9)
    assert both.to_bytes()[4] == 0x23
    assert Bitstream.from_bytes(both.to_bytes()) == both


def test_the_limit_of_pixels_per_byte_is_on_those_that_are_coded():
    sides = {"width": 8192, "height": 4096, "payload": bytes(127)}
    assert dataclasses.replace(STREAM, **sides, half_size=True).coded_sides == (2048, 4096)
    with pytest.raises(ValueError, match="cannot hold 8192x4096"):
        dataclasses.replace(STREAM, **sides)
    with pytest.raises(ValueError, match="cannot hold 4097x2048"):
        dataclasses.replace(STREAM, **{**sides, "width": 8193}, half_size=True)
    with pytest.raises(LimitExceededError, match="640x427"):
        Bitstream.from_bytes(
            dataclasses.replace(STREAM, half_size=True).to_bytes(), max_pixels=640 * 427 - 1
        )


def test_a_file_that_has_lost_its_end_is_read_if_asked_for():
    data = ENTROPY_STREAM.to_bytes()
    for length in range(ENTROPY_STREAM.header_bytes + 8, len(data)):
        with pytest.raises(BitstreamError):
            Bitstream.from_bytes(data[:length])
        stream = Bitstream.from_bytes(data[:length], truncated=True)
        assert stream.payload == (ENTROPY_STREAM.payload + data[-4:])[: len(stream.payload)]
    with pytest.raises(BitstreamError, match="no slices"):
        Bitstream.from_bytes(STREAM.to_bytes(), truncated=True)


def test_the_documented_header_reads_back():
    assert Bitstream.from_bytes(header()) == dataclasses.replace(STREAM, payload=b"x" * 50)


def test_worked_example_of_the_format_page():
    blocks = re.findall(r"```json\n(.*?)```", FORMAT_PAGE.read_text(encoding="utf-8"), re.DOTALL)
    example = next(found for found in map(json.loads, blocks) if "tables" in found)
    coder = IndexCoder(np.array(example["tables"], np.int32))
    payload = coder.encode([np.array(m) for m in example["index_maps"]])
    assert payload.hex(" ") == example["payload"]
    stream = Bitstream(
        width=example["width"],
        height=example["height"],
        model_number=example["model_number"],
        model_digest=bytes.fromhex(example["model_digest"]),
        payload=payload,
    )
    assert stream.to_bytes().hex(" ") == example["file"]
    parsed = Bitstream.from_bytes(bytes.fromhex(example["file"]))
    maps = coder.decode(parsed.payload, [np.shape(m) for m in example["index_maps"]])
    assert [m.tolist() for m in maps] == example["index_maps"]


def test_every_truncation_is_refused():
    data = STREAM.to_bytes()
    for length in range(len(data)):
        with pytest.raises(BitstreamError):
            Bitstream.from_bytes(data[:length])


def test_every_flipped_bit_is_refused():
    data = STREAM.to_bytes()
    for bit in range(8 * len(data)):
        damaged = bytearray(data)
        damaged[bit // 8] ^= 1 << bit % 8
        with pytest.raises(BitstreamError):
            Bitstream.from_bytes(bytes(damaged))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "empty"),
        (b"\x89PNG\r\n\x1a\n" + bytes(40), "not a .gac file"),
        (MAGIC, "truncated"),
        (header(first=b"\x30"), "version 3"),
        (header(first=b"\x24"), "file ends inside its alpha plane"),
        (header(first=b"\x11"), "flags 0x1"),
        (header(first=b"\x13"), "flags 0x3"),
        (header(width=b"\x80\x00"), "width is not written in its shortest form"),
        (header(height=b"\xab\x80\x00"), "height is not written in its shortest form"),
        (header(width=b"\x80\x80\x80\x01"), "width is longer than 3 bytes"),
        (header(width=b"\x00"), r"width must be in \[1, 65535\], got 0"),
        (header(height=b"\x80\x80\x04"), r"height must be in \[1, 65535\], got 65536"),
        (header(tail=b"\1\1\2", payload=b""), "ends inside its model number"),
        (header(width=b"\xff", height=b"\xff", tail=b"\xff" * 5, payload=b""), "width is longer"),
        (header(width=b"\x80\x40", height=b"\x80\x40", payload=b""), "cannot hold 8192x8192"),
    ],
)
def test_forged_headers_are_refused(data, message):
    with pytest.raises(BitstreamError, match=message):
        Bitstream.from_bytes(data)


def test_pixel_limit():
    data = STREAM.to_bytes()
    assert Bitstream.from_bytes(data, max_pixels=640 * 427) == STREAM
    with pytest.raises(LimitExceededError, match="640x427 pixels exceeds the limit of 273279"):
        Bitstream.from_bytes(data, max_pixels=640 * 427 - 1)


@pytest.mark.parametrize(
    "change",
    [
        {"width": 0},
        {"height": 65536},
        {"model_number": 256},
        {"model_digest": b"123"},
        {"version": 3},
        {"num_slices": 4},
        {"version": 2, "num_slices": 0},
        {"width": 65535, "height": 65535},
    ],
)
def test_what_cannot_be_written_is_refused(change):
    with pytest.raises(ValueError, match=r"must|cannot hold|needs format"):
        dataclasses.replace(STREAM, **change)


def test_describe():
    info = describe(STREAM.to_bytes())
    assert (info.width, info.height, info.model, info.model_digest) == (
        640,
        427,
        "photo-codec-high",
        "01020304",
    )
    assert info.file_bytes == 68
    assert info.bits_per_pixel == pytest.approx(68 * 8 / 640 / 427)
    assert describe(dataclasses.replace(STREAM, model_number=200).to_bytes()).model is None


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ("a.gac", "got str: read the file first"),
        (Path("a.gac"), "got PosixPath: read the file first"),
        (None, "got NoneType$"),
        (7, "got int$"),
        (np.zeros((4, 4, 3), np.uint8), "got ndarray$"),
        ([1, 2], "got list$"),
        (io.BytesIO(b""), "got BytesIO$"),
    ],
    ids=lambda value: type(value).__name__ if not isinstance(value, str) else None,
)
def test_what_is_not_bytes_is_a_type_error_in_a_sentence(data, words):
    for read in (Bitstream.from_bytes, describe):
        with pytest.raises(TypeError, match=f"data must be the bytes of a .gac file, {words}"):
            read(data)


def test_all_kinds_of_bytes_are_read():
    data = next(Path(__file__).parents[1].glob("golden/gac/*.gac")).read_bytes()
    for kind in (bytearray, memoryview):
        assert describe(kind(data)) == describe(data)
