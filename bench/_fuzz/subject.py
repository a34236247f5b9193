# SPDX-License-Identifier: Apache-2.0
"""What is fuzzed: makes an input of a number, and feeds it to the code that reads it."""

from __future__ import annotations

import random
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import ClassVar

# Contents by relative path; a text is the target of a symbolic link.
Files = dict[str, bytes | str]
Mutation = Callable[[random.Random, bytes], bytes]


class Subject(ABC):
    """One kind of input. It is made in the process that runs the cases, once.

    Attributes:
        name: Of the kind.
        contract: Exceptions that may end a case, each with a message.
    """

    name: ClassVar[str]
    contract: ClassVar[tuple[type[Exception], ...]]

    @abstractmethod
    def make(self, random_state: random.Random) -> Files:
        """The input of a case, a function of the random state alone."""

    @abstractmethod
    def run(self, files: Files, random_state: random.Random) -> str:
        """Feed an input to what reads it; the word for a good end. Whatever it raises ends the case."""


def random_of(kind: str, number: int) -> random.Random:
    """The random state that all of a case follows from."""
    return random.Random(f"{kind} {number}")


def write_files(files: Mapping[str, bytes | str], folder: Path) -> None:
    """Write an input into an empty folder."""
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, str):
            path.symlink_to(content)
        else:
            path.write_bytes(content)


def size_of(files: Mapping[str, bytes | str]) -> int:
    """Bytes of an input."""
    return sum(len(content) for content in files.values())


def flipped(random_state: random.Random, data: bytes) -> bytes:
    """Some bits turned over."""
    if not data:
        return data
    damaged = bytearray(data)
    for _ in range(random_state.randint(1, 8)):
        damaged[random_state.randrange(len(data))] ^= 1 << random_state.randrange(8)
    return bytes(damaged)


def cut(random_state: random.Random, data: bytes) -> bytes:
    """The end lost."""
    return data[: random_state.randrange(len(data))] if data else data


def extended(random_state: random.Random, data: bytes) -> bytes:
    """Bytes added somewhere: random ones, or one many times."""
    place = random_state.randint(0, len(data))
    count = random_state.choice((1, 2, 4, 32))
    added = random_state.choice(
        (random_state.randbytes(count), bytes([random_state.choice((0, 127, 128, 255))]) * count)
    )
    return data[:place] + added + data[place:]


def overwritten(random_state: random.Random, data: bytes) -> bytes:
    """A stretch replaced by random bytes, zeros or ones."""
    if not data:
        return data
    start = random_state.randrange(len(data))
    length = min(len(data) - start, random_state.choice((1, 2, 4, 8, 64)))
    fill = random_state.choice((random_state.randbytes(length), bytes(length), b"\xff" * length))
    return data[:start] + fill + data[start + length :]


def removed(random_state: random.Random, data: bytes) -> bytes:
    """A stretch lost."""
    start = random_state.randint(0, len(data))
    return data[:start] + data[start + random_state.choice((1, 2, 4, 16)) :]


def repeated(random_state: random.Random, data: bytes) -> bytes:
    """A stretch twice."""
    start = random_state.randint(0, len(data))
    end = random_state.randint(start, len(data))
    return data[:end] + data[start:]


def noise(random_state: random.Random, data: bytes) -> bytes:
    """Random bytes instead, of a similar length."""
    return random_state.randbytes(random_state.randint(0, 2 * len(data) + 8))


MUTATIONS: Sequence[Mutation] = (flipped, cut, extended, overwritten, removed, repeated, noise)


def mutated(random_state: random.Random, data: bytes) -> bytes:
    """One of the ways to damage bytes."""
    return random_state.choice(MUTATIONS)(random_state, data)
