# SPDX-License-Identifier: Apache-2.0
"""Mutants of ``.gac`` files: damage in each section of the container, most of it behind a right checksum."""

from __future__ import annotations

import importlib
import random
import sys
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from bench._fuzz.subject import Files, Subject, mutated
from genaccel import _coder, zoo
from genaccel.codec.carried import check_pixels
from genaccel.codec.encoder.encode_options import EncodeOptions
from genaccel.codec.exif_xmp import write_metadata
from genaccel.codec.format.bitstream import describe
from genaccel.codec.format.metadata import PhotoMetadata
from genaccel.codec.image_codec import ImageCodec
from genaccel.errors import BitstreamError, LimitExceededError, OptionError, UnknownModelError
from genaccel.files.image_writer import encode_image
from genaccel.models.autoencoder import Autoencoder
from genaccel.models.integer_entropy_model import IntegerEntropyModel
from genaccel.models.integer_export import quantize
from genaccel.models.masked_entropy_model import MaskedEntropyModel

sys.path.insert(0, str(Path(__file__).parents[2] / "tests"))
tiny_codec: Any = importlib.import_module("tiny_codec")

_FLAGS_AT = 4
_CRC_BYTES = 4


def _fixed(length: int) -> Callable[[bytes, int], int]:
    return lambda _data, position: position + length


def _varint(data: bytes, position: int) -> int:
    while position < len(data) and data[position] >= 0x80:
        position += 1
    return position + 1


def _counted(data: bytes, position: int) -> int:
    start, size = _varint(data, position), 0
    for place, byte in enumerate(data[position:start]):
        size |= (byte & 0x7F) << 7 * place
    return min(len(data), start + size)


def _rest(data: bytes, _position: int) -> int:
    return len(data)


def _random_byte(random_state: random.Random) -> bytes:
    return random_state.randbytes(1)


def _counted_bytes(contents: bytes) -> bytes:
    return _written(len(contents)) + contents


def _random_alpha(random_state: random.Random) -> bytes:
    head = bytes((random_state.randrange(4), *random_state.choice(((0, 255), (255, 0), (7, 7)))))
    size = random_state.choice((0, 1, 5, 60, 200))
    fill = random_state.choice((random_state.randbytes(size), bytes(size)))
    return _counted_bytes(random_state.choice((b"", head, head)) + fill)


def _deflated(plain: bytes) -> bytes:
    deflater = zlib.compressobj(9, wbits=-15)
    return deflater.compress(plain) + deflater.flush()


def _random_metadata(random_state: random.Random) -> bytes:
    text = random_state.choice(
        (b"x", b"", "\u00e9".encode(), b"\xff", b"\x1b[2J", b"1/0", b"9" * 90)
    )
    number = random_state.choice((*range(13), 64, 255))
    plain = bytes([number]) + _counted_bytes(text * random_state.choice((1, 1, 50, 5000)))
    if random_state.random() < 0.1:  # inflates to megabytes
        plain = bytes(random_state.choice((2**16, 2**22)))
    form = random_state.choice((0, 1, 1, 2))
    return _counted_bytes(bytes([form]) + (_deflated(plain) if form == 1 else plain[:20_000]))


def _damaged_counted(random_state: random.Random, part: bytes) -> bytes:
    """Contents damaged behind their length, mostly one that is right."""
    contents = part[_varint(part, 0) :]
    if random_state.random() < 0.2:
        return mutated(random_state, part)
    if random_state.random() < 0.1:  # a length of other contents
        return _written(random_state.choice((0, 1, len(contents) + 1, 2**14, 2**28))) + contents
    return _counted_bytes(mutated(random_state, contents))


def _damaged_metadata(random_state: random.Random, part: bytes) -> bytes:
    """Fields damaged, mostly behind the compression."""
    contents = part[_varint(part, 0) :]
    if contents[:1] != b"\1" or random_state.random() < 0.2:
        return _damaged_counted(random_state, part)
    try:
        plain = zlib.decompress(contents[1:], wbits=-15)
    except zlib.error:  # damaged already
        return _damaged_counted(random_state, part)
    return _counted_bytes(b"\1" + _deflated(mutated(random_state, plain)))


@dataclass(frozen=True, slots=True)
class Section:
    """A part of a container.

    Attributes:
        name: Of it.
        end: Where it ends, of the file's bytes without checksum and where it begins.
        flag: Bit of the flags that says it is there; 0 for one that always is.
        fresh: Makes a random one, where it was not there.
        weight: How often it is damaged.
        damage: Damages it where it is there.
    """

    name: str
    end: Callable[[bytes, int], int]
    flag: int = 0
    fresh: Callable[[random.Random], bytes] = _random_byte
    weight: int = 1
    damage: Callable[[random.Random, bytes], bytes] = mutated


# docs/format.md. A new section is one more line.
SECTIONS = (
    Section("magic", _fixed(4)),
    Section("version and flags", _fixed(1), weight=2),
    Section("width", _varint, weight=3),
    Section("height", _varint, weight=3),
    Section("model number", _fixed(1)),
    Section("model digest", _fixed(4)),
    Section("slices", _fixed(1), flag=1, weight=3),
    Section("alpha", _counted, 4, _random_alpha, weight=6, damage=_damaged_counted),
    Section("metadata", _counted, 8, _random_metadata, weight=4, damage=_damaged_metadata),
    Section("payload", _rest, weight=12),
)


def split(data: bytes) -> list[bytes]:
    """The sections of a file, in the order of ``SECTIONS``; empty where they are not there."""
    body, flags, position = data[:-_CRC_BYTES], data[_FLAGS_AT] & 15, 0
    parts = []
    for section in SECTIONS:
        is_there = not section.flag or flags & section.flag
        end = section.end(body, position) if is_there else position
        parts.append(body[position:end])
        position = end
    return parts


def sealed(body: bytes) -> bytes:
    """A file with the checksum of its bytes."""
    return body + int(_coder.crc32c(body)).to_bytes(_CRC_BYTES, "little")


def _side(random_state: random.Random) -> bytes:
    """A side in pixels, as the container writes it."""
    some = random_state.randrange(1, 300), random_state.randrange(65536)
    return _written(random_state.choice((*some, 0, 1, 65535, 65536, 2**21 - 1)))


def _place_of(name: str) -> int:
    return next(place for place, section in enumerate(SECTIONS) if section.name == name)


def _written(value: int) -> bytes:
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def mutant(random_state: random.Random, valid: list[bytes]) -> bytes:
    """A damaged file of valid ones of one codec."""
    parts, others = split(random_state.choice(valid)), split(random_state.choice(valid))
    if random_state.random() < 0.1:  # a picture of many pixels, in few bytes
        parts[_place_of("payload")] += random_state.choice(
            (b"", random_state.randbytes(random_state.randrange(900)), bytes(200))
        )
        pixels = 2 ** random_state.uniform(10, 28)
        height = min(65535, max(1, pixels ** random_state.uniform(0.2, 0.8)))
        for name, side in (("height", height), ("width", pixels / height)):
            parts[_place_of(name)] = _written(min(65535, max(1, int(side))))
    # What is not there is not damaged, but may appear.
    weights = [
        section.weight if part or section.flag else 0
        for section, part in zip(SECTIONS, parts, strict=True)
    ]
    for _ in range(random_state.choice((1, 1, 1, 2, 3))):
        (place,) = random_state.choices(range(len(SECTIONS)), weights)
        kind = random_state.randrange(8)
        if kind == 0:
            parts[place] = others[place]
        elif kind <= 3 and SECTIONS[place].name in ("width", "height"):
            parts[place] = _side(random_state)
        elif SECTIONS[place].flag and (kind == 1 or not parts[place]):
            # There where it was not, or the other way round, with the flag that says so.
            flags = parts[1] or b"\x20"
            parts[1] = bytes([flags[0] ^ SECTIONS[place].flag]) + flags[1:]
            parts[place] = b"" if parts[place] else SECTIONS[place].fresh(random_state)
        elif kind == 1 and place == 1 and parts[1]:
            parts[1] = bytes([parts[1][0] ^ 1 << random_state.randrange(8)])
        else:
            parts[place] = SECTIONS[place].damage(random_state, parts[place])
    body = b"".join(parts)
    if random_state.random() < 0.05:
        body = mutated(random_state, body)
    data = sealed(body)
    return mutated(random_state, data) if random_state.random() < 0.05 else data


@dataclass(frozen=True, slots=True)
class _Codec:
    codec: ImageCodec
    valid: list[bytes]


class Containers(Subject):
    """Files of codecs of toy size: with static tables, and with an entropy model."""

    name = "container"
    contract = (BitstreamError, UnknownModelError, LimitExceededError, OptionError)

    def __init__(self) -> None:
        model, entropy_model = tiny_networks()
        self._codecs = [
            _with_files(ImageCodec(model)),
            _with_files(ImageCodec(model, entropy_model=entropy_model)),
        ]
        self._choices: tuple[int, ...] = (0, 1, 1)

    def make(self, random_state: random.Random) -> Files:
        """A mutant; its name says the codec that it is for."""
        number = random_state.choice(self._choices)
        return {f"{number}.gac": mutant(random_state, self._codecs[number].valid)}

    def run(self, files: Files, random_state: random.Random) -> str:
        """Describe it, and decode it in one of the ways there are."""
        ((name, data),) = files.items()
        assert isinstance(data, bytes)
        codec = self._codecs[int(name.removesuffix(".gac"))].codec
        way = random_state.choice(
            ("decode", "whole file", "whole file", "truncated", "prefix", "ends", "describe")
        )
        if way == "describe":
            describe(data, truncated=random_state.random() < 0.5)
        elif way == "ends":
            codec.slice_ends(data)
        else:
            options: dict[str, Any] = {}
            if way == "truncated":
                data, options = data[: random_state.randint(0, len(data))], {"truncated": True}
            if way not in ("decode", "whole file"):
                options["prefix"] = random_state.choice((None, 1, 2, 12))
                options["seed"] = random_state.choice((None, 1))
            if way == "decode":
                check_pixels(codec.decode(data), "image", (3,))
                return way
            decoded = codec.decode_file(data, **options)
            check_pixels(decoded.pixels, "image", (3,))
            if decoded.alpha is not None:
                check_pixels(decoded.alpha, "alpha", ())
                assert decoded.rgba.shape == (*decoded.pixels.shape[:2], 4)
            if decoded.metadata is not None:
                form = random_state.choice(("png", "jpeg", "webp", "tiff"))
                encode_image(
                    decoded.pixels[:8, :8], form, metadata=write_metadata(decoded.metadata)
                )
        return way


class ShippedContainers(Containers):
    """The same of the codecs of the zoo."""

    name = "shipped container"

    def __init__(self) -> None:
        self._codecs = [_with_files(ImageCodec.from_pretrained(n)) for n in zoo.names("codec")]
        self._choices = tuple(range(len(self._codecs)))


def tiny_networks() -> tuple[Autoencoder, IntegerEntropyModel]:
    """An autoencoder of toy size with uneven static tables, and an entropy model for it."""
    torch.manual_seed(0)
    model = Autoencoder(tiny_codec.TINY_EFFICIENT).eval()
    size = tiny_codec.TINY_EFFICIENT.codebook_size
    for scale, cdf in enumerate(model.index_cdfs):
        counts = 1 + np.roll(60000 // 2 ** np.arange(1, size + 1), scale)
        counts[-1] += 65536 - counts.sum()
        cdf[1:] = torch.from_numpy(counts.cumsum())
    entropy_model = MaskedEntropyModel(tiny_codec.TINY_ENTROPY).eval()
    for parameter in entropy_model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    codebook = model.quantize.codebook.detach()
    indices = torch.randint(size, (16, entropy_model.slice_order.num_tokens))
    return model, quantize(entropy_model, codebook, indices)


def _with_files(codec: ImageCodec) -> _Codec:
    options: list[dict[str, Any]] = [{}, {"half_size": True}, {"static_tables": True}]
    if codec.entropy_model is not None:
        options += [{"num_slices": 1}, {"num_slices": 5, "half_size": True}]
    sides = ((1, 1), (31, 33), (64, 80), (100, 127), (16, 8))
    valid = [
        codec.encode(picture(height, width), EncodeOptions(**values))
        for (height, width), values in zip(sides, [*options, {}, {}], strict=False)
    ]
    height, width = 70, 90
    image = picture(height, width)
    disc = np.hypot(*np.mgrid[-35 : height - 35, -45 : width - 45])
    planes = [
        255 * (disc < 30).astype(np.uint8),
        (255 - 6 * disc).clip(0, 255).astype(np.uint8),
        image[..., 0],
    ]
    valid += [codec.encode(image, alpha=plane) for plane in planes]
    metadata = [
        PhotoMetadata(date="2026-11-30T07:40:37+01:00", position="48.858222,2.2945,35", iso="100"),
        PhotoMetadata(author="Ada; Charles", description="A caption\tof words. " * 9, lens="50 mm"),
    ]
    valid += [codec.encode(image, EncodeOptions(half_size=True), metadata=m) for m in metadata]
    valid += [codec.encode(image, alpha=planes[0], metadata=metadata[1])]
    return _Codec(codec, valid)


def picture(height: int, width: int) -> NDArray[np.uint8]:
    """A smooth picture, uint8 ``[H, W, 3]``."""
    coarse = np.random.default_rng(height * width).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    return np.array(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))
