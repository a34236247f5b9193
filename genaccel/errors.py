# SPDX-License-Identifier: Apache-2.0
"""Exceptions that callers of genaccel may want to tell apart, and names in their messages."""

from __future__ import annotations

from collections.abc import Sequence

# Before the rest is only counted.
_NAMES_SHOWN = 10


class BitstreamError(ValueError):
    """A compressed file is damaged, truncated, or not one of ours."""


class UnknownModelError(LookupError):
    """A file or a user names a model that is not installed here, or differs from the one installed."""


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


def listing(names: Sequence[str], most: int = _NAMES_SHOWN) -> str:
    """The first names, and how many more there are.

    Example:
        >>> listing("abcdefghijkl")
        'a, b, c, d, e, f, g, h, i, j and 2 more'
    """
    shown = ", ".join(names[:most])
    rest = len(names) - most
    return f"{shown} and {rest} more" if rest > 0 else shown
