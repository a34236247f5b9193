# SPDX-License-Identifier: Apache-2.0
"""Mutants of ``.gac`` files: damage in each section of the container, most of it behind a right checksum."""

from __future__ import annotations

import importlib
import random
import sys
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
from genaccel.codec.encoder.encode_options import EncodeOptions
from genaccel.codec.format.bitstream import describe
from genaccel.codec.image_codec import ImageCodec
from genaccel.errors import BitstreamError, LimitExceededError, OptionError, UnknownModelError
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


def _random_chunk(random_state: random.Random) -> bytes:
    size = random_state.choice((0, 1, 5, 60, 200))
    return _written(size) + random_state.randbytes(size)


@dataclass(frozen=True, slots=True)
class Section:
    """A part of a container.

    Attributes:
        name: Of it.
        end: Where it ends, of the file's bytes without checksum and where it begins.
        flag: Bit of the flags that says it is there; 0 for one that always is.
        fresh: Makes a random one, where it was not there.
        weight: How often it is damaged.
    """

    name: str
    end: Callable[[bytes, int], int]
    flag: int = 0
    fresh: Callable[[random.Random], bytes] = _random_byte
    weight: int = 1


# docs/format.md. A new section is one more line.
SECTIONS = (
    Section("magic", _fixed(4)),
    Section("version and flags", _fixed(1), weight=2),
    Section("width", _varint, weight=3),
    Section("height", _varint, weight=3),
    Section("model number", _fixed(1)),
    Section("model digest", _fixed(4)),
    Section("slices", _fixed(1), flag=1, weight=3),
    Section("alpha", _counted, flag=4, fresh=_random_chunk, weight=2),
    Section("metadata", _counted, flag=8, fresh=_random_chunk, weight=2),
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
            parts[place] = mutated(random_state, parts[place])
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
        way = random_state.choice(("decode", "decode", "truncated", "prefix", "ends", "describe"))
        if way == "describe":
            describe(data, truncated=random_state.random() < 0.5)
        elif way == "ends":
            codec.slice_ends(data)
        else:
            options: dict[str, Any] = {}
            if way == "truncated":
                data, options = data[: random_state.randint(0, len(data))], {"truncated": True}
            if way != "decode":
                options["prefix"] = random_state.choice((None, 1, 2, 12))
                options["seed"] = random_state.choice((None, 1))
            image = codec.decode(data, **options)
            assert image.dtype == np.uint8
            assert image.ndim == 3
            assert image.shape[2] == 3
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
    return _Codec(
        codec,
        [
            codec.encode(picture(height, width), EncodeOptions(**values))
            for (height, width), values in zip(sides, [*options, {}, {}], strict=False)
        ],
    )


def picture(height: int, width: int) -> NDArray[np.uint8]:
    """A smooth picture, uint8 ``[H, W, 3]``."""
    coarse = np.random.default_rng(height * width).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    return np.array(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))
