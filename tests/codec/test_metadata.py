# SPDX-License-Identifier: Apache-2.0
import json
import random
import re
import zlib
from pathlib import Path

import pytest
from full_metadata import FULL

from genaccel.codec.format.limits import MAX_METADATA_BYTES
from genaccel.codec.format.metadata import PhotoMetadata
from genaccel.errors import BitstreamError

FORMAT_PAGE = Path(__file__).parents[2] / "docs" / "format.md"


@pytest.mark.parametrize(
    "metadata", [FULL, PhotoMetadata(iso="100"), PhotoMetadata(author="é" * 2048)]
)
def test_round_trip(metadata):
    assert PhotoMetadata.from_bytes(metadata.to_bytes()) == metadata


def test_nothing_takes_no_bytes():
    assert PhotoMetadata().to_bytes() == b""


def test_the_shorter_form_is_written():
    short = PhotoMetadata(iso="100").to_bytes()
    assert short == b"\0\x0a\x03100"
    long = PhotoMetadata(description="rain " * 100).to_bytes()
    assert long[0] == 1
    assert len(long) < 30


def test_worked_example_of_the_format_page():
    blocks = re.findall(r"```json\n(.*?)```", FORMAT_PAGE.read_text(encoding="utf-8"), re.DOTALL)
    example = next(found for found in map(json.loads, blocks) if "metadata" in found)
    metadata = PhotoMetadata(**example["metadata"])
    assert metadata.to_bytes().hex(" ") == example["section"]
    assert PhotoMetadata.from_bytes(bytes.fromhex(example["section"])) == metadata


def test_unknown_fields_are_left_out():
    assert PhotoMetadata.from_bytes(b"\0\x02\x02Al\x3f\x03\xff\xfe\xfd\xc8\x00") == PhotoMetadata(
        author="Al"
    )


@pytest.mark.parametrize(
    ("section", "message"),
    [
        (b"", "0 bytes"),
        (b"\0", "1 bytes"),
        (b"\0" + bytes(MAX_METADATA_BYTES), "16385 bytes"),
        (b"\2\x02\x02Al", "form 2"),
        (b"\0\x02\x03Al", "ends inside a field"),
        (b"\0\x02", "ends inside its field"),
        (b"\0\x02\x82\x00Al", "shortest form"),
        (b"\0\x03\x01a\x02\x01b", "not in their order"),
        (b"\0\x02\x01a\x02\x01b", "not in their order"),
        (b"\0\x00\x01a", "not in their order"),
        (b"\0\x02\x02\xc3\x28", "no UTF-8"),
        (b"\0\x02\x01\x00", "none that control"),
        (b"\0\x02\x01\x1b", "none that control"),
        (b"\0\x02\x00", "must have characters"),
        (b"\0\x01\x042026", "another form"),
        (b"\0\x0a\x011" + b"\x40\x05100,0", "not on the earth"),
        (b"\1\xff\xff\xff", "does not inflate"),
        (b"\1" + zlib.compress(b"\x02\x02Al", wbits=-15) + b"\0", "does not end"),
        (b"\1" + zlib.compress(b"\x02\x02Al", wbits=-15)[:-1], "does not end|does not inflate"),
        (b"\1" + zlib.compress(bytes(2**22), 9, wbits=-15), "too large"),
        (b"\0\x02\x81\x20" + b"a" * 4097, "at most 4096"),
    ],
)
def test_sections_that_do_not_follow_the_format_are_refused(section, message):
    with pytest.raises(BitstreamError, match=message):
        PhotoMetadata.from_bytes(section)


def test_damaged_sections_are_refused_or_other_metadata():
    rng = random.Random(0)
    plain = PhotoMetadata(author="Ada", iso="100", position="1,2").to_bytes()
    assert plain[0] == 0
    for section in (FULL.to_bytes(), plain):
        for _ in range(1500):
            damaged = bytearray(section)
            for _ in range(rng.randint(1, 3)):
                damaged[rng.randrange(len(damaged))] = rng.randrange(256)
            try:
                metadata = PhotoMetadata.from_bytes(bytes(damaged[: rng.randint(1, len(damaged))]))
            except BitstreamError:
                continue
            assert all(metadata.in_words().values())


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("author", ""),
        ("author", "a\0b"),
        ("author", "\x1b[31m"),
        ("author", "\ud800"),
        ("author", "é" * 2049),
        ("author", 7),
        ("date", "2026-13-01T00:00:00"),
        ("date", "2026-01-01 00:00:00"),
        ("date", "2026-01-01T00:00:00Z"),
        ("date", "٢٠٢٦-01-01T00:00:00"),
        ("exposure_time", "1/0"),
        ("f_number", "2,8"),
        ("f_number", "1e999999999"),
        ("iso", "0"),
        ("focal_length", "-50"),
        ("position", "91,0"),
        ("position", "0,-180.5"),
        ("position", "1"),
        ("position", "nan,0"),
    ],
)
def test_other_values_are_none(name, text):
    with pytest.raises(ValueError, match=name):
        PhotoMetadata(**{name: text})


def test_more_than_16_kib_are_refused():
    noise = random.Random(0)
    texts = {
        name: "".join(chr(noise.randrange(0x4E00, 0x9FFF)) for _ in range(1365))
        for name in ("author", "copyright", "description", "lens", "camera_make", "camera_model")
    }
    with pytest.raises(ValueError, match="a file holds 16384"):
        PhotoMetadata(**texts).to_bytes()
