# SPDX-License-Identifier: Apache-2.0
"""Exceptions that callers of genaccel may want to tell apart, and names in their messages."""

from __future__ import annotations

import errno
import unicodedata
from collections.abc import Sequence

# Before the rest is only counted.
_NAMES_SHOWN = 10


class BitstreamError(ValueError):
    """A compressed file is damaged, truncated, or not one of ours."""


class UnknownModelError(LookupError):
    """A file or a user names a model that is not installed here, or differs from the one installed."""


class ModelFolderError(UnknownModelError, ValueError):
    """A model's folder is damaged, of another type or version, or holds parts that do not belong together."""


class LimitExceededError(ValueError):
    """An image or a file asks for more pixels, memory or time than the caller allowed."""


class TimeLimitError(LimitExceededError):
    """Work on an image took longer than the caller allowed."""


class UnsupportedImageError(ValueError):
    """An image has what 8-bit sRGB pixels do not hold, and the caller has not said what to do about it."""


class OptionError(ValueError):
    """An option asks for what a model or a file does not have."""


class TargetSizeError(LimitExceededError):
    """An image cannot be made as small as the caller asked."""


class LibraryMissingError(ImportError):
    """The native library was not built, or does not load."""


class WorkerDiedError(RuntimeError):
    """A worker process was killed, or crashed, on a file."""


# What torch, safetensors, the C++ library and the dynamic linker say where they get no memory, all by another type.
_NO_MEMORY = (
    "cannot allocate memory",
    "can't allocate memory",
    "bad_alloc",
    "out of memory",
    "failed to map segment",
)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that there was no memory for something, whatever its type."""
    if isinstance(error, MemoryError) or getattr(error, "errno", None) == errno.ENOMEM:
        return True
    if not isinstance(error, RuntimeError | OSError | ImportError):
        return False
    text = f"{error}".lower()
    return any(words in text for words in _NO_MEMORY)


def listing(names: Sequence[str], most: int = _NAMES_SHOWN) -> str:
    """The first names, and how many more there are.

    Example:
        >>> listing("abcdefghijkl")
        'a, b, c, d, e, f, g, h, i, j and 2 more'
    """
    shown = ", ".join(names[:most])
    rest = len(names) - most
    return f"{shown} and {rest} more" if rest > 0 else shown


def printable(name: str) -> str:
    """A name in one line: control characters, line breaks and bytes of no character as their escapes.

    Example:
        >>> printable("a\\nb [seed=1].png")
        'a\\\\nb [seed=1].png'
    """
    return "".join(
        c.encode("unicode_escape").decode()
        if unicodedata.category(c) in ("Cc", "Cs", "Zl", "Zp")
        else c
        for c in name
    )
