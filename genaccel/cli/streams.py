# SPDX-License-Identifier: Apache-2.0
"""Standard streams that take any file name, closed ones, and signals that end the program."""

from __future__ import annotations

import io
import os
import re
import signal
import sys
from typing import BinaryIO, NoReturn

import typer

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")


def set_up_process() -> None:
    """Set up what all commands share; called once, before anything is read or written.

    Names that standard output's encoding cannot express, or that are not text at all, are printed with backslashes
    as standard error does it. Descriptors of streams that are closed are taken, so that no file that is opened later
    gets the number of standard error, and with it what libraries write there. SIGTERM and SIGHUP end the program by
    an exception, so that files under way are removed, unless they are ignored as ``nohup`` does.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            # The lowest free number is this one; the wrong way round, so that whoever uses it is told.
            os.open(os.devnull, os.O_WRONLY if descriptor == 0 else os.O_RDONLY)
            os.set_inheritable(descriptor, True)
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is signal.SIG_DFL:
            signal.signal(number, _end)


def _end(number: int, _: object) -> NoReturn:
    raise SystemExit(128 + number)


def standard_input() -> BinaryIO:
    """Standard input, in bytes.

    Raises:
        OSError: If it is closed.
    """
    if sys.stdin is None:
        raise OSError("standard input is closed")
    return sys.stdin.buffer


def standard_output() -> BinaryIO:
    """Standard output, in bytes.

    Raises:
        OSError: If it is closed.
        BadParameter: If it is a terminal.
    """
    if sys.stdout is None:
        raise OSError("standard output is closed")
    if sys.stdout.isatty():
        raise typer.BadParameter("refusing to write binary data to a terminal")
    return sys.stdout.buffer


def shown(name: object) -> str:
    """A file's name, or a sentence with one, as one line of a terminal: control characters as escapes.

    Example:
        >>> print(shown("a\\nb.png"))
        a\\nb.png
    """
    return _CONTROL.sub(lambda found: found[0].encode("unicode_escape").decode(), str(name))
