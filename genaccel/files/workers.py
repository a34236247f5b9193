# SPDX-License-Identifier: Apache-2.0
"""Worker processes that open their work once each, and whose death loses no item.

``concurrent.futures.ProcessPoolExecutor`` gives up every item in flight when one worker dies, and does not say
whose it was. Here each worker has a pipe of its own and one item at a time: a death is known at once, and so is
the item, which is tried once more.
"""

from __future__ import annotations

import multiprocessing
import pickle
import signal
import sys
import time
import traceback
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from typing import Any, Generic, TypeVar

from genaccel.errors import WorkerDiedError

Item = TypeVar("Item")
Result = TypeVar("Result")
OpenWork = Callable[[], Callable[[Item], Result]]

# Once more in a fresh worker: the first death may have been another process's greed for memory.
_TRIES = 2
# A worker that is told to stop first finishes the call into native code that it is in.
_SECONDS_TO_STOP = 10.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome(Generic[Item, Result]):
    """Result or error of an item.

    Attributes:
        item: The item.
        result: What the work made of it; None if it failed.
        error: What it raised, or a WorkerDiedError.
    """

    item: Item
    result: Result | None = None
    error: Exception | None = None


@dataclass(kw_only=True, slots=True)
class _Task(Generic[Item]):
    item: Item
    deaths: int = 0


class _Worker:
    """A process that serves one item at a time.

    Args:
        open_work: As for :func:`map_in_workers`.
        task: What it shall do first: the item of a worker that died.
        deaths_while_opening: Of the workers before it, one after the other.
    """

    def __init__(
        self,
        open_work: OpenWork[Any, Any],
        task: _Task[Any] | None = None,
        deaths_while_opening: int = 0,
    ) -> None:
        # Not fork: a process with threads, as torch's, must not be copied.
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(theirs, open_work), daemon=True)
        with _without_interrupts():
            self.process.start()
        theirs.close()  # so that the worker's death ends the pipe
        self.is_open = False
        self.task = task
        self.deaths_while_opening = deaths_while_opening

    def begin(self, task: _Task[Any]) -> None:
        """Hand it a task."""
        self.task = task
        # If it died while it was idle, its end of the pipe says so.
        with suppress(BrokenPipeError):
            self.connection.send(task.item)

    def death(self) -> str:
        """How it died, in words."""
        self.process.join()
        code = self.process.exitcode or 0
        if code >= 0:
            return f"ended with exit code {code}"
        name = signal.Signals(-code).name
        return f"was killed by {name}" + (", maybe for memory" if name == "SIGKILL" else "")


def map_in_workers(
    open_work: OpenWork[Item, Result],
    items: Iterable[Item],
    *,
    workers: int,
    clean_up: Callable[[Item, int], object] | None = None,
) -> Generator[Outcome[Item, Result]]:
    """Do items in several processes; outcomes come in the order in which they are done.

    Close the iterator (``contextlib.closing``) to stop the workers before its end. They ignore Ctrl-C, which
    is this process's to act on, and leave by an exception, so that files under way are removed.

    Args:
        open_work: Called once in each worker; makes the function that does an item. To be pickled: a function
            of a module, or a ``functools.partial`` of one.
        items: Taken one by one as workers become free; to be pickled, as results and errors.
        workers: Number of processes.
        clean_up: Called here with the item and the process id of a worker that was killed during it.

    Raises:
        ValueError: If ``workers`` is not positive.
        WorkerDiedError: If no worker survives opening its work.
        Exception: What ``open_work`` raised.
    """
    if workers < 1:
        raise ValueError(f"workers must be at least 1, got {workers}")
    waiting = iter(items)
    left_over: deque[_Task[Item]] = deque()
    pool: list[_Worker] = []
    retired: list[_Worker] = []

    def next_task() -> _Task[Item] | None:
        if left_over:
            return left_over.popleft()
        for item in waiting:
            return _Task(item=item)
        return None

    def go_on(worker: _Worker) -> None:
        task = next_task()
        if task is not None:
            worker.begin(task)
            return
        worker.connection.close()  # it leaves by itself
        pool.remove(worker)
        retired.append(worker)

    try:
        for _ in range(workers):
            pool.append(_Worker(open_work))
        while pool:
            ready = set(wait([worker.connection for worker in pool]))
            for worker in [worker for worker in pool if worker.connection in ready]:
                try:
                    kind, value = worker.connection.recv()
                except (EOFError, OSError):
                    outcome = _bury(worker, pool, left_over, open_work, clean_up)
                    if not pool and (left_over or not retired):
                        raise WorkerDiedError(
                            f"no worker process survives opening its work: the last one {worker.death()}; "
                            "fewer of them take less memory"
                        ) from None
                    if outcome is not None:
                        yield outcome
                    continue
                if kind == "cannot open":
                    raise value
                if kind == "open":
                    worker.is_open = True
                    if worker.task is None:
                        go_on(worker)
                    else:
                        worker.begin(worker.task)
                    continue
                assert worker.task is not None
                item, worker.task = worker.task.item, None
                go_on(worker)  # before the caller takes its time
                yield Outcome(item=item, **{kind: value})
    finally:
        _stop([*pool, *retired], clean_up)


def _bury(
    worker: _Worker,
    pool: list[_Worker],
    left_over: deque[_Task[Any]],
    open_work: OpenWork[Any, Any],
    clean_up: Callable[[Any, int], object] | None,
) -> Outcome[Any, Any] | None:
    """Put a new worker in the place of a dead one; the outcome of its item, if that is not tried again.

    A worker that died while it opened its work gets one successor; after that the others go on without.
    """
    death = worker.death()
    worker.connection.close()
    pool.remove(worker)
    task = worker.task
    if not worker.is_open:
        deaths = worker.deaths_while_opening + 1
        if deaths < _TRIES:
            pool.append(_Worker(open_work, task, deaths))
            return None
        if task is not None:
            left_over.append(task)
        return None
    if task is None:
        pool.append(_Worker(open_work))
        return None
    assert worker.process.pid is not None
    if clean_up is not None:
        clean_up(task.item, worker.process.pid)
    task.deaths += 1
    if task.deaths < _TRIES:
        pool.append(_Worker(open_work, task))
        return None
    pool.append(_Worker(open_work))
    error = WorkerDiedError(
        f"two worker processes died on it, one after the other: the second {death}"
    )
    return Outcome(item=task.item, error=error)


def _stop(workers: list[_Worker], clean_up: Callable[[Any, int], object] | None) -> None:
    """End processes: those that have nothing to do by themselves, busy ones by an exception in them."""
    for worker in workers:
        worker.connection.close()
        if not worker.is_open:
            worker.process.kill()  # it has begun nothing
        elif worker.task is not None:
            worker.process.terminate()
    deadline = time.monotonic() + _SECONDS_TO_STOP
    for worker in workers:
        worker.process.join(max(deadline - time.monotonic(), 0.0))
        if worker.process.is_alive():
            worker.process.kill()
            worker.process.join()
            if worker.task is not None and clean_up is not None and worker.process.pid is not None:
                clean_up(worker.task.item, worker.process.pid)


@contextmanager
def _without_interrupts() -> Iterator[None]:
    """Hold interrupts back; processes that are started within never get any, not even while Python starts."""
    resource_tracker.ensure_running()  # on its own start, it would let them through again
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _leave(*_: object) -> None:
    sys.exit(1)


def _serve(connection: Connection, open_work: OpenWork[Any, Any]) -> None:
    """Body of a worker: it ends when the other end of the pipe does, as when the main process is killed."""
    signal.signal(signal.SIGTERM, _leave)
    try:
        try:
            work = open_work()
        except Exception as error:
            connection.send(("cannot open", _portable(error)))
            return
        connection.send(("open", None))
        while True:
            item = connection.recv()
            try:
                reply = ("result", work(item))
            except Exception as error:
                reply = ("error", _portable(error))
            connection.send(reply)
    except (EOFError, ConnectionError):  # the latter also where a reply was left unread
        return


def _portable(error: Exception) -> Exception:
    """An exception that survives the way to another process, with its traceback as a note."""
    where = "".join(traceback.format_exception(error))
    try:
        copy: Exception = pickle.loads(pickle.dumps(error))
    except Exception:
        copy = RuntimeError(f"{type(error).__name__}: {error}")
    copy.add_note(f"In a worker process:\n{where}")
    return copy
