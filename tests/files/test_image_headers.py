# SPDX-License-Identifier: Apache-2.0
import io
import struct

import numpy as np
import pytest
from hand_made_images import png, png_chunk, stored
from PIL import Image

from genaccel.errors import BitstreamError
from genaccel.files.image_headers import (
    CodePoints,
    HeaderFacts,
    isobmff_facts,
    jxl_parts,
    png_facts,
)


def box(name, *contents, is_long=False):
    body = b"".join(contents)
    if is_long:
        return struct.pack(">I4sQ", 1, name, len(body) + 16) + body
    return struct.pack(">I4s", len(body) + 8, name) + body


def full(name, version, *contents, flags=0):
    return box(name, struct.pack(">I", version << 24 | flags), *contents)


def nclx(primaries, transfer):
    return box(b"colr", b"nclx" + struct.pack(">HHHB", primaries, transfer, 6, 0x80))


def av1c(is_high, is_twelve=False):
    return box(b"av1C", bytes((0x81, 0, is_high << 6 | is_twelve << 5, 0)))


def associations(*items, version=0, flags=0):
    body = struct.pack(">I", len(items))
    for item, indices in items:
        body += struct.pack(">I" if version else ">H", item) + bytes([len(indices)])
        for index in indices:
            body += struct.pack(">H", index | 0x8000) if flags else bytes([index | 0x80])
    return full(b"ipma", version, body, flags=flags)


def file_of(*boxes):
    return io.BytesIO(box(b"ftyp", b"avif" + bytes(4) + b"mif1") + b"".join(boxes))


def meta(primary, properties, *item_associations, references=b"", version=0, flags=0):
    return full(
        b"meta",
        0,
        full(b"pitm", version, struct.pack(">I" if version else ">H", primary)),
        references,
        box(
            b"iprp",
            box(b"ipco", *properties),
            associations(*item_associations, version=version, flags=flags),
        ),
    )


@pytest.mark.parametrize(("version", "flags"), [(0, 0), (0, 1), (1, 0), (1, 1)])
def test_properties_are_those_of_the_primary_item(version, flags):
    properties = [nclx(9, 16), av1c(True), nclx(12, 13), av1c(False)]
    two = meta(2, properties, (1, [1, 2]), (2, [3, 4]), version=version, flags=flags)
    assert isobmff_facts(file_of(two)) == HeaderFacts(bits=8, code_points=CodePoints(12, 13))
    one = meta(1, properties, (1, [1, 2]), (2, [3, 4]), version=version, flags=flags)
    assert isobmff_facts(file_of(one)) == HeaderFacts(bits=10, code_points=CodePoints(9, 16))


@pytest.mark.parametrize("is_wide", [False, True])
def test_a_grid_is_as_deep_as_its_tiles(is_wide):
    hevc = box(b"hvcC", bytes(17) + b"\xfa" + bytes(5))  # 8 + 2 bits
    layout = ">IHII" if is_wide else ">HHHH"
    references = full(b"iref", int(is_wide), box(b"dimg", struct.pack(layout, 1, 2, 2, 3)))
    grid = meta(1, [nclx(12, 13), hevc], (1, [1]), (2, [2]), (3, [2]), references=references)
    assert isobmff_facts(file_of(grid)) == HeaderFacts(bits=10, code_points=CodePoints(12, 13))


def test_other_ways_to_say_the_depth():
    for properties, bits in (
        ([full(b"pixi", 0, bytes((3, 10, 10, 10)))], 10),
        ([full(b"pixi", 0, bytes((1, 8)))], 8),
        ([av1c(True, True)], 12),
        ([box(b"hvcC", bytes(17) + b"\xf8" + bytes(5))], 8),
    ):
        assert isobmff_facts(file_of(meta(1, properties, (1, [1])))).bits == bits


def test_a_sequence_says_it_in_its_track():
    entry = box(b"av01", bytes(78), av1c(True), nclx(9, 18))
    stsd = full(b"stsd", 0, struct.pack(">I", 1), entry)
    track = box(b"trak", box(b"mdia", box(b"minf", box(b"stbl", stsd))))
    assert isobmff_facts(file_of(box(b"moov", track))) == HeaderFacts(
        bits=10, code_points=CodePoints(9, 18)
    )


def test_boxes_are_walked_through_not_searched_for():
    decoy = box(b"free", meta(1, [nclx(9, 16)], (1, [1])))
    real = meta(1, [nclx(12, 13)], (1, [1]))
    late = box(b"mdat", bytes(100000), is_long=True)
    assert isobmff_facts(file_of(decoy, late, real)).code_points == CodePoints(12, 13)
    profile = box(b"colr", b"prof" + b"colrnclx\0\x09\0\x10")
    assert isobmff_facts(file_of(meta(1, [profile], (1, [1])))).code_points is None


def test_png_chunks_are_walked_through_not_searched_for():
    decoy = (b"tEXt", b"x\0" + png_chunk(b"cICP", b"\x09\x10\0\1"))
    file = png(np.zeros((1, 1, 3)), chunks=[decoy, (b"cICP", b"\x0c\x0d\0\0")])
    assert png_facts(file) == HeaderFacts(bits=8, code_points=CodePoints(12, 13, False))
    after = png(np.zeros((1, 1, 3), np.uint16), 16).getvalue()
    assert png_facts(io.BytesIO(after + png_chunk(b"cICP", b"\x09\x10\0\1"))) == HeaderFacts(
        bits=16
    )


@pytest.mark.parametrize("kind", ["boxes", "png", "jxl"])
def test_any_bytes_give_facts_or_one_error(kind):
    entry = box(b"av01", bytes(78), av1c(True), nclx(9, 18))
    stsd = full(b"stsd", 0, struct.pack(">I", 1), entry)
    track = box(b"moov", box(b"trak", box(b"mdia", box(b"minf", box(b"stbl", stsd)))))
    references = full(b"iref", 0, box(b"dimg", struct.pack(">HHHH", 1, 2, 2, 3)))
    pixi = full(b"pixi", 0, bytes((3, 10, 10, 10)))
    head = meta(1, [nclx(9, 16), pixi], (1, [1]), (2, [2]), references=references)
    if kind == "boxes":
        data, read = file_of(head, track).getvalue(), isobmff_facts
    elif kind == "png":
        data, read = png(np.zeros((1, 1, 3)), chunks=[(b"cICP", b"\1\2\0\1")]).getvalue(), png_facts
    else:
        pytest.importorskip("pillow_jxl")
        data = stored(Image.new("RGB", (300, 200)), "JXL").getvalue()
        read = jxl_parts
    generator = np.random.default_rng(0)
    for _ in range(3000):
        damaged = bytearray(
            data[: generator.integers(len(data)) if generator.random() < 0.2 else None]
        )
        for position in generator.integers(0, max(1, len(damaged)), 3):
            if damaged:
                damaged[position] = generator.choice((0, 1, 127, 128, 255, generator.integers(256)))
        try:
            read(io.BytesIO(bytes(damaged)))
        except BitstreamError:
            assert kind == "jxl"
