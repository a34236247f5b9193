# SPDX-License-Identifier: Apache-2.0
"""What the workers of ``test_workers.py`` do; a module of its own, since they import it."""

import os
import signal
import sys
import threading
import time
from contextlib import closing, suppress
from functools import partial
from pathlib import Path

from genaccel.files.atomic import write_atomically
from genaccel.files.workers import map_in_workers


class AwkwardError(Exception):
    """Cannot be rebuilt from its text, as pickle tries."""

    def __init__(self, text, *, place):
        super().__init__(f"{text} at {place}")


def open_folder(folder):
    """Notes in the folder who opened, and gives the function."""
    (folder / f"opened-{os.getpid()}").touch()
    return partial(do, folder)


def do(folder, item):
    with (folder / f"tries-{item}").open("a") as tries:
        tries.write(f"{os.getpid()}\n")
    if item == "bad":
        raise ValueError("bad item")
    if item == "awkward":
        raise AwkwardError("awkward item", place="home")
    if item == "no-memory":
        raise MemoryError
    if item == "deep":
        return do(folder, item)
    if item == "panics":
        raise PanicError("as libraries in Rust do")
    if item == "not-to-be-sent":
        return threading.Lock()
    if item == "leaves":
        sys.exit(3)
    if item == "dies-once" and len((folder / f"tries-{item}").read_text().splitlines()) == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    if item == "done-and-dies":
        write_atomically(folder / "done", b"whole")
        os.kill(os.getpid(), signal.SIGKILL)
    if item == "dies":
        os.kill(os.getpid(), signal.SIGKILL)
    if item == "killed-while-writing":
        os.fsync = lambda _: os.kill(os.getpid(), signal.SIGKILL)
        write_atomically(folder / item, b"half")
    if item == "slow-to-write":
        os.fsync = lambda _: time.sleep(60)
        write_atomically(folder / item, b"half")
    return item.upper()


class PanicError(BaseException):
    """As pyo3's, no Exception."""


def open_twice(folder):
    """Opens in the first two processes only, each of which dies of its second item."""
    if len(list(folder.glob("opened-*"))) == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    return open_folder(folder)


def open_badly():
    raise LookupError("no such model")


def open_never():
    os.kill(os.getpid(), signal.SIGKILL)


def open_one(folder):
    """Opens in one process; the others wait until its items are done, and die."""
    with suppress(FileExistsError):
        (folder / "first").touch(exist_ok=False)
        return open_folder(folder)
    while not (folder / "tries-b").exists():
        time.sleep(0.01)
    os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    # A main process that is killed while its workers are busy and idle.
    work = partial(open_folder, Path(sys.argv[1]))
    with closing(map_in_workers(work, ["a", "slow-to-write"], workers=2)) as outcomes:
        for outcome in outcomes:
            print(outcome.result, flush=True)
