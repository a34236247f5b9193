# SPDX-License-Identifier: Apache-2.0
"""Runs cases in processes of their own, under watch: whatever ends one is laid to the input that it was reading.

A process tells how each case ended before it begins the next, so that after a crash or a hang the parent knows whose it
was. Memory is bounded by the address space that may be added after the warm-up, and processor time is counted.
"""

from __future__ import annotations

import os
import random
import resource
import select
import signal
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple, NoReturn

from bench._fuzz.subject import Files, Subject, random_of, size_of, write_files

HANG_S = 20.0
CPU_S = 10.0
MEMORY_BYTES = 2**30
# Inputs so small may take no more than the two above.
SMALL_BYTES = 1024
_START_S = 240.0

# Ends that are failures, and what they mean.
FAILURES = {
    "crash": "the process died",
    "hang": f"no end after {HANG_S:g} s",
    "outside": "an exception that the contract does not know, or one without a message",
    "memory": f"over {MEMORY_BYTES >> 30} GiB for an input below {SMALL_BYTES} bytes",
    "time": f"over {CPU_S:g} CPU-s for an input below {SMALL_BYTES} bytes",
}


class Outcome(NamedTuple):
    """How a case ended.

    Attributes:
        number: Of the case.
        end: A key of ``FAILURES``, "refused", or "ok".
        detail: The word of the subject, the class of an exception, or what there is to say about a failure.
        seconds: Of the case.
    """

    number: int
    end: str
    detail: str
    seconds: float


def run_watched(
    make_subject: Callable[[], Subject], numbers: range, failures: Path, hang_s: float = HANG_S
) -> Iterator[Outcome]:
    """Run cases one after another.

    Args:
        make_subject: Called in each process that runs cases.
        numbers: Of the cases.
        failures: Folder that inputs of failures are saved in.
        hang_s: Seconds after which a case hangs.

    Raises:
        RuntimeError: If a process can't begin.
    """
    number = numbers.start
    while number < numbers.stop:
        process, pipe = _start(make_subject, range(number, numbers.stop), failures)
        is_ready, rest, begun = False, b"", time.monotonic()
        try:
            while True:
                limit = (hang_s if is_ready else _START_S) - (time.monotonic() - begun)
                readable, _, _ = select.select([pipe], [], [], max(limit, 0))
                if not readable:
                    os.kill(process, signal.SIGKILL)
                    break
                data = os.read(pipe, 1 << 16)
                if not data:
                    break
                *lines, rest = (rest + data).split(b"\n")
                begun = time.monotonic()
                for line in lines:
                    if not is_ready:
                        is_ready = True
                        continue
                    told, end, took, detail = line.decode(errors="replace").split("\t", 3)
                    yield Outcome(int(told), end, detail, float(took))
                    number = int(told) + 1
        finally:
            os.close(pipe)
            if sys.exc_info()[0] is not None:  # nobody wants the rest
                os.kill(process, signal.SIGKILL)
            _, status = os.waitpid(process, 0)
        if not is_ready:
            raise RuntimeError("the process that runs the cases could not begin")
        if number < numbers.stop and status != 0:
            hung = not readable
            _save_elsewhere(make_subject, number, failures)
            what = (
                f"signal {os.WTERMSIG(status)}"
                if os.WIFSIGNALED(status)
                else f"exit {os.WEXITSTATUS(status)}"
            )
            seconds = time.monotonic() - begun
            yield Outcome(number, "hang" if hung else "crash", "" if hung else what, seconds)
            number += 1


def run_here(make_subject: Callable[[], Subject], number: int) -> None:
    """Run one case without a watch, for a debugger; raises what it raises."""
    subject = make_subject()
    state = random_of(subject.name, number)
    files = subject.make(state)
    print({name: len(content) for name, content in files.items()})
    print(subject.run(files, state))


def _start(make_subject: Callable[[], Subject], numbers: range, failures: Path) -> tuple[int, int]:
    """A process that runs cases, and the pipe that it tells their ends by."""
    reading, writing = os.pipe()
    process = os.fork()
    if process:
        os.close(writing)
        return process, reading
    try:
        os.close(reading)
        _run(make_subject, numbers, failures, writing)
    except BaseException:
        traceback.print_exc()
    os._exit(1)


def _run(
    make_subject: Callable[[], Subject], numbers: range, failures: Path, pipe: int
) -> NoReturn:
    import torch

    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    subject = make_subject()
    for number in (-1, -2):  # pools and caches are made before memory is bounded
        _end_of(subject, number, random_of(subject.name, number))
    silence = os.open(os.devnull, os.O_WRONLY)
    os.dup2(silence, 2)  # libraries of image formats talk
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    bound = pages * resource.getpagesize() + MEMORY_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (bound, bound))
    os.write(pipe, b"ready\n")
    for number in numbers:
        state = random_of(subject.name, number)
        begun = time.monotonic()
        end, detail, files = _end_of(subject, number, state)
        if end in FAILURES:
            _save(files, failures / f"{subject.name}-{number}")
        line = f"{number}\t{end}\t{time.monotonic() - begun:.3f}\t{detail}\n"
        os.write(pipe, line.encode(errors="replace"))
        if end == "memory" or detail == "MemoryError":
            break  # what failed to get memory may be in any state
    os._exit(0)


def _end_of(subject: Subject, number: int, state: random.Random) -> tuple[str, str, Files]:
    files = subject.make(state)
    begun = time.process_time()
    try:
        end, detail = "ok", subject.run(files, state)
    except subject.contract as error:
        # A class in a contract is not yet a sentence.
        end, detail = ("refused" if str(error).strip() else "outside"), type(error).__name__
    except Exception as error:
        end, detail = "outside", _place_of(error)
        if isinstance(error, MemoryError) or "can't allocate memory" in str(error):
            end, detail = "refused", "MemoryError"
    is_small = 0 < size_of(files) < SMALL_BYTES
    if is_small and detail == "MemoryError":
        end = "memory"
    elif is_small and end not in FAILURES and time.process_time() - begun > CPU_S:
        end = "time"
    return end, detail, files


def _place_of(error: Exception) -> str:
    """Class and first line of an exception, and where it was raised."""
    frames = traceback.extract_tb(error.__traceback__)
    place = f" at {Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else ""
    first = " ".join(str(error).split())[:160]
    return f"{type(error).__name__}: {first}{place}"


def _save(files: Files, folder: Path) -> None:
    if not folder.exists():
        folder.mkdir(parents=True)
        write_files(files, folder)


def _save_elsewhere(make_subject: Callable[[], Subject], number: int, failures: Path) -> None:
    """Save the input of a case, which is made anew, but not run."""
    process = os.fork()
    if not process:
        try:
            subject = make_subject()
            files = subject.make(random_of(subject.name, number))
            _save(files, failures / f"{subject.name}-{number}")
        finally:
            os._exit(0)
    os.waitpid(process, 0)
