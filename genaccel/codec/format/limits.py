# SPDX-License-Identifier: Apache-2.0
"""Limits on the pixels, the memory and the time that one file may take before the codec refuses it."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Concatenate, ParamSpec, Protocol, TypeVar

from genaccel.errors import LimitExceededError, TimeLimitError
from genaccel.files.available_memory import memory_bounds

FORMAT_VERSIONS = (1, 2)  # of files that are read here
MAX_SIDE = 65_535  # pixels; what two bytes hold, and more than most image formats can be given
MAX_PIXELS = (
    178_956_970  # where Pillow takes an image for a decompression bomb: no reader goes beyond
)
DEFAULT_MAX_PIXELS = 2**27  # 134 megapixels: 403 MB as uint8 RGB
MAX_METADATA_BYTES = 2**14  # of the section; a photograph's takes 50 to 300
DEFAULT_MAX_MEMORY_BYTES = 8 * 2**30
# Of what is left here, by default: the estimate is not exact, and others need some.
_SHARE_OF_MEMORY = 0.8
# What slices are missing is made up, at 2 CPU-seconds per megapixel and from no bytes at all.
DEFAULT_FREE_PIXELS = 2**21

# Files from here on have paid for more; the first slice alone takes a byte per 12,000 pixels at least.
_FREE_BYTES = 1024
_PIXELS_PER_BYTE = 2**16

# When the work on the file at hand has to be done, by the monotonic clock.
_deadline: ContextVar[float | None] = ContextVar("deadline", default=None)


@dataclass(frozen=True, kw_only=True, slots=True)
class CodecLimits:
    """Bounds on what one file may take; those on size are checked before anything of an image's size is allocated.

    Attributes:
        max_pixels: Largest width times height that is encoded or decoded, at most 178,956,970.
        max_memory_bytes: Largest working memory, estimated from the image's size and the model.
        memory_source: What that limit comes from, for messages.
        free_pixels: Coded pixels that a file may have however small it is. Each byte of payload beyond the first
            1024 allows for 65,536 more.
        timeout_seconds: Time for encoding or decoding one image; None: no bound. It is looked at between slices,
            tiles and steps, so it is overrun by one of these.
    """

    max_pixels: int = DEFAULT_MAX_PIXELS
    max_memory_bytes: int = DEFAULT_MAX_MEMORY_BYTES
    memory_source: str = ""
    free_pixels: int = DEFAULT_FREE_PIXELS
    timeout_seconds: float | None = None

    def __post_init__(self) -> None:
        if not 1 <= self.max_pixels <= MAX_PIXELS:
            raise ValueError(f"max_pixels must be in [1, {MAX_PIXELS}], got {self.max_pixels}")
        if self.max_memory_bytes < 1:
            raise ValueError(f"max_memory_bytes must be positive, got {self.max_memory_bytes}")
        if self.free_pixels < 1:
            raise ValueError(f"free_pixels must be positive, got {self.free_pixels}")
        # Written so that it is false for what is not a number.
        if self.timeout_seconds is not None and not self.timeout_seconds > 0:
            raise ValueError(f"timeout_seconds must be positive, got {self.timeout_seconds}")

    @classmethod
    def of_this_machine(cls, *, processes: int = 1, **others: Any) -> CodecLimits:
        """Limits of memory that suit where this process runs: 8 GiB, or four fifths of what is left if that is less.

        Args:
            processes: How many of this one's kind share the machine and its cgroup.
            others: Further attributes.
        """
        most, source = DEFAULT_MAX_MEMORY_BYTES, "the default"
        for bound in memory_bounds():
            share = _SHARE_OF_MEMORY * bound.num_bytes / (processes if bound.is_shared else 1)
            if share < most:
                most, source = max(int(share), 1), f"four fifths of the {bound.source}"
                if bound.is_shared and processes > 1:
                    source += f" for {processes} processes"
        return cls(max_memory_bytes=most, memory_source=source, **others)

    @property
    def memory_in_words(self) -> str:
        """The limit of memory and what it comes from: ``"8192 MiB (the default)"``."""
        source = f" ({self.memory_source})" if self.memory_source else ""
        return f"{self.max_memory_bytes / 2**20:.0f} MiB{source}"

    def check_paid(self, coded_sides: tuple[int, int], payload_bytes: int) -> None:
        """Refuse a picture that is large for its payload: nearly all of it would be made up.

        Args:
            coded_sides: Height and width of the picture that the indices are of.
            payload_bytes: Bytes of the payload.

        Raises:
            LimitExceededError: If it has more pixels than ``free_pixels`` and the payload allow.
        """
        height, width = coded_sides
        allowed = self.free_pixels + _PIXELS_PER_BYTE * max(0, payload_bytes - _FREE_BYTES)
        if height * width > allowed:
            raise LimitExceededError(
                f"{payload_bytes} bytes of payload may ask for {allowed} pixels, the file has {width}x{height}: "
                "nearly all of it would be made up (more slices, half size, or a higher limit of free pixels)"
            )


class _Limited(Protocol):
    @property
    def limits(self) -> CodecLimits: ...


_L = TypeVar("_L", bound=_Limited)
_P = ParamSpec("_P")
_R = TypeVar("_R")


def timed(work: Callable[Concatenate[_L, _P], _R]) -> Callable[Concatenate[_L, _P], _R]:
    """Decorator of work on one image, whose first argument has the ``limits``: its time runs from here on.

    Where timed work does other timed work, the earlier end counts.
    """

    @functools.wraps(work)
    def within(limited: _L, /, *args: _P.args, **kwargs: _P.kwargs) -> _R:
        seconds = limited.limits.timeout_seconds
        if seconds is None:
            return work(limited, *args, **kwargs)
        end, outer = time.monotonic() + seconds, _deadline.get()
        token = _deadline.set(end if outer is None else min(end, outer))
        try:
            return work(limited, *args, **kwargs)
        finally:
            _deadline.reset(token)

    return within


def check_time() -> None:
    """Stop work that is to end by now; long loops over slices, tiles and steps call it.

    Raises:
        TimeLimitError: If the time of :func:`timed` work is over.
    """
    end = _deadline.get()
    if end is not None and time.monotonic() > end:
        raise TimeLimitError("the time limit is exceeded (--timeout)")
