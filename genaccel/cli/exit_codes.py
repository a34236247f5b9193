# SPDX-License-Identifier: Apache-2.0
"""Exit codes of the command line; docs/format.md lists them for scripts to rely on."""

from __future__ import annotations

from enum import IntEnum

from genaccel.errors import (
    BitstreamError,
    LibraryMissingError,
    LimitExceededError,
    OptionError,
    UnknownModelError,
    UnsupportedImageError,
    WorkerDiedError,
    is_out_of_memory,
)
from genaccel.files.workers import described


class ExitCode(IntEnum):
    """Distinct outcomes."""

    OK = 0
    FAILURE = 1
    USAGE = 2
    CORRUPT_FILE = 3
    UNKNOWN_MODEL = 4
    LIMIT_EXCEEDED = 5
    PARTIAL_FAILURE = 6
    INTERRUPTED = 130


_BY_TYPE: tuple[tuple[type[Exception], ExitCode], ...] = (
    (BitstreamError, ExitCode.CORRUPT_FILE),
    (UnknownModelError, ExitCode.UNKNOWN_MODEL),
    (LimitExceededError, ExitCode.LIMIT_EXCEEDED),
    (OptionError, ExitCode.USAGE),
    (UnsupportedImageError, ExitCode.FAILURE),
    (LibraryMissingError, ExitCode.FAILURE),
    (WorkerDiedError, ExitCode.FAILURE),
    (OSError, ExitCode.FAILURE),
)


def exit_code(error: Exception) -> ExitCode | None:
    """The code for an expected failure; None for one that is a fault of the program."""
    if is_out_of_memory(error):
        return ExitCode.FAILURE
    return next((code for kind, code in _BY_TYPE if isinstance(error, kind)), None)


def said(error: Exception) -> str:
    """An error in a sentence: of an expected one its own, of a fault of the program with its type and place."""
    if is_out_of_memory(error):
        return f"out of memory ({error})" if f"{error}" else "out of memory"
    return described(error) if exit_code(error) is None else f"{error}"
