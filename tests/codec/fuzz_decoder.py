# SPDX-License-Identifier: Apache-2.0
"""Decode mutated files under guards; run by test_fuzz.py as a process of its own.

    python fuzz_decoder.py MODEL_FOLDER FILE_WITH_VALID_STREAMS COUNT [truncated]

Prints how each file ended, as JSON; with "truncated" every file may have lost its end, and its last slices are not
used. Anything but our three errors or an image ends the process with a traceback;
the address space cannot grow by more than 1 GiB, and no file may take more than 20 seconds.
"""

import collections
import faulthandler
import json
import random
import resource
import sys
from pathlib import Path

import numpy as np

from genaccel import _coder
from genaccel.codec import ImageCodec
from genaccel.errors import BitstreamError, LimitExceededError, UnknownModelError

SEED = 20261104
SECONDS_PER_FILE = 20
MEMORY_GROWTH_BYTES = 2**30


def seal(body):
    return body + _coder.crc32c(body).to_bytes(4, "little")


def flip(rng, data, other):
    damaged = bytearray(data)
    for _ in range(rng.randint(1, 8)):
        damaged[rng.randrange(len(damaged))] ^= 1 << rng.randrange(8)
    return bytes(damaged)


def truncate(rng, data, other):
    return data[: rng.randrange(len(data))]


def noise(rng, data, other):
    return rng.randbytes(rng.randint(1, 200))


def noise_after_magic(rng, data, other):
    return data[:4] + rng.randbytes(rng.randint(0, 200))


def foreign_version(rng, data, other):
    foreign = rng.choice([v for v in range(256) if v != data[4]])
    return seal(data[:4] + bytes([foreign]) + data[5:-4])


def empty(rng, data, other):
    return b""


def splice(rng, data, other):
    cut = rng.randrange(len(data))
    return data[:cut] + other[rng.randrange(len(other)) :]


def resealed(mutate):
    """The same damage with a right checksum: it reaches the code behind."""

    def forge(rng, data, other):
        return seal(mutate(rng, data[:-4], other[:-4]))

    return forge


def other_size(rng, data, other):
    """Any width and height, with the payload as it was."""
    sides = b""
    for _ in range(2):
        value = rng.choice([rng.randrange(1, 300), rng.randrange(1, 65536), 1, 65535])
        while value >= 128:
            sides += bytes([value % 128 + 128])
            value //= 128
        sides += bytes([value])
    return seal(data[:5] + sides + data[7:-4])  # the valid files have sides under 128


def payload_noise(rng, data, other):
    return seal(data[:12] + rng.randbytes(rng.randint(0, 100)))


def payload_extended(rng, data, other):
    return seal(data[:-4] + bytes(2 * rng.randint(1, 50)))


def slice_count(rng, data, other):
    """A byte that says how many slices there are, where none was."""
    return seal(data[:4] + b"\x21" + data[5:12] + bytes([rng.randrange(256)]) + data[12:-4])


def half_size(rng, data, other):
    """The payload of an image that is said to be the half of another."""
    return seal(data[:4] + bytes([data[4] ^ 2]) + data[5:-4])


MUTATIONS = (
    flip, truncate, noise, noise_after_magic, foreign_version, empty, splice,
    resealed(flip), resealed(truncate), resealed(splice), other_size, payload_noise, payload_extended,
    slice_count, half_size,
)  # fmt: skip


def limit_memory():
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    bound = pages * resource.getpagesize() + MEMORY_GROWTH_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (bound, bound))


def main(model_folder, valid_file, count, truncated):
    valid = [bytes.fromhex(line) for line in Path(valid_file).read_text().split()]
    codec = ImageCodec.from_pretrained(model_folder)
    for data in valid:  # thread pools and caches are up before the guard
        codec.decode(data)
    limit_memory()
    rng = random.Random(SEED)
    endings = collections.Counter()
    for i in range(count):
        mutate = MUTATIONS[i % len(MUTATIONS)]
        mutated = mutate(rng, rng.choice(valid), rng.choice(valid))
        faulthandler.dump_traceback_later(SECONDS_PER_FILE, exit=True)
        try:
            options = {"truncated": True, "prefix": rng.randint(1, 12)} if truncated else {}
            image = codec.decode(mutated, **options)
        except (BitstreamError, UnknownModelError, LimitExceededError) as error:
            endings[type(error).__name__ if str(error) else "no message"] += 1
        else:
            assert image.dtype == np.uint8
            assert image.ndim == 3
            endings["image"] += 1
    faulthandler.cancel_dump_traceback_later()
    print(json.dumps(endings))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), truncated="truncated" in sys.argv[4:])
