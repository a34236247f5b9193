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
from pathlib import Path
from typing import Any, Generic, TypeVar

from genaccel.errors import WorkerDiedError

Item = TypeVar("Item")
Result = TypeVar("Result")
OpenWork = Callable[[], Callable[[Item], Result]]

# In fresh workers: the first deaths may have been another process's greed for memory.
_TRIES = 3
# Deaths of workers that were opening, for each that is to be there, with none that opened between them.
_DEATHS_OF_OPENING = 2
# A worker that is told to stop first finishes the call into native code that it is in.
_SECONDS_TO_STOP = 10.0


class DescribedError(RuntimeError):
    """In words, an error that cannot be handed on as it is."""


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
    """

    def __init__(self, open_work: OpenWork[Any, Any], task: _Task[Any] | None = None) -> None:
        # Not fork: a process with threads, as torch's, must not be copied.
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(theirs, open_work), daemon=True)
        with _without_interrupts():
            self.process.start()
        theirs.close()  # so that the worker's death ends the pipe
        self.is_open = False
        self.task = task

    def begin(self, task: _Task[Any]) -> None:
        """Hand it a task."""
        self.task = task
        # If it died while it was idle, its end of the pipe says so.
        with suppress(ConnectionError):
            self.connection.send(task.item)

    def death(self) -> str:
        """How it died, in words."""
        self.process.join()
        code = self.process.exitcode or 0
        if code >= 0:
            return f"ended with exit code {code}"
        try:
            name = signal.Signals(-code).name
        except ValueError:  # of the real-time ones, most have none
            name = f"signal {-code}"
        return f"was killed by {name}" + (", maybe for memory" if name == "SIGKILL" else "")


def map_in_workers(
    open_work: OpenWork[Item, Result],
    items: Iterable[Item],
    *,
    workers: int,
    clean_up: Callable[[Item, int], object] | None = None,
    again: Callable[[Item], Item] | None = None,
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
        again: Makes the item that is tried again of one whose worker died, maybe just after it had done it.

    Raises:
        ValueError: If ``workers`` is not positive.
        WorkerDiedError: If no worker survives opening its work. After the first item is done, those that are left
            have it as their outcome instead.
        Exception: What ``open_work`` raised, as far as no worker could open it.
    """
    if workers < 1:
        raise ValueError(f"workers must be at least 1, got {workers}")
    waiting = iter(items)
    left_over: deque[_Task[Item]] = deque()
    pool: list[_Worker] = []
    retired: list[_Worker] = []
    deaths_of_opening = 0
    has_opened = False

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

    def lose(worker: _Worker) -> None:
        """Take a worker that does not open out of the pool, its item into those that are left."""
        worker.connection.close()
        pool.remove(worker)
        if worker.task is not None:
            left_over.append(worker.task)

    try:
        for _ in range(workers):
            pool.append(_Worker(open_work))
        while pool:
            ready = set(wait([worker.connection for worker in pool]))
            for worker in [worker for worker in pool if worker.connection in ready]:
                try:
                    kind, value = worker.connection.recv()
                except (EOFError, OSError):
                    if worker.is_open:
                        outcome = _replace(worker, pool, open_work, clean_up, again)
                        if outcome is not None:
                            yield outcome
                        continue
                    kind = "cannot open"
                    value = WorkerDiedError(
                        f"no worker process survives opening its work: the last one {worker.death()}; "
                        "fewer of them take less memory"
                    )
                if kind == "cannot open":
                    died = isinstance(value, WorkerDiedError)
                    if not died and not has_opened:
                        raise value
                    lose(worker)
                    deaths_of_opening += 1
                    if deaths_of_opening < _DEATHS_OF_OPENING * workers and (died or not pool):
                        pool.append(_Worker(open_work, left_over.popleft() if left_over else None))
                    if pool:
                        continue
                    if not has_opened:
                        raise value
                    while (task := next_task()) is not None:
                        yield Outcome(item=task.item, error=value)
                    continue
                if kind == "open":
                    has_opened, deaths_of_opening = True, 0
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


def _replace(
    worker: _Worker,
    pool: list[_Worker],
    open_work: OpenWork[Any, Any],
    clean_up: Callable[[Any, int], object] | None,
    again: Callable[[Any], Any] | None,
) -> Outcome[Any, Any] | None:
    """Put a new worker in the place of one that died at work; the outcome of its item, if that is not tried again."""
    death = worker.death()
    worker.connection.close()
    pool.remove(worker)
    task = worker.task
    if task is None:
        pool.append(_Worker(open_work))
        return None
    assert worker.process.pid is not None
    if clean_up is not None:
        with suppress(OSError):  # as of a folder that is gone
            clean_up(task.item, worker.process.pid)
    task.deaths += 1
    if task.deaths < _TRIES:
        if again is not None:
            task.item = again(task.item)
        pool.append(_Worker(open_work, task))
        return None
    pool.append(_Worker(open_work))
    error = WorkerDiedError(
        f"{task.deaths} worker processes died on it, one after the other: the last {death}"
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
        except BaseException as error:
            connection.send(("cannot open", _portable(as_failure(error))))
            return
        connection.send(("open", None))
        while True:
            item = connection.recv()
            try:
                reply = ("result", work(item))
            except BaseException as error:
                reply = ("error", _portable(as_failure(error)))
            _send(connection, reply)
    except (EOFError, ConnectionError):  # the latter also where a reply was left unread
        return


def _send(connection: Connection, reply: tuple[str, Any]) -> None:
    """Send a reply; of one that cannot be, say why."""
    try:
        message = pickle.dumps(reply)
    except Exception as error:
        message = pickle.dumps(("error", DescribedError(f"{type(error).__name__}: {error}")))
    connection.send_bytes(message)


def as_failure(error: BaseException) -> Exception:
    """What an item raised, as the failure of this item alone.

    Libraries in Rust raise what is no ``Exception`` when they panic.

    Raises:
        KeyboardInterrupt, SystemExit, GeneratorExit: What ends the process, and not the item.
    """
    if isinstance(error, KeyboardInterrupt | SystemExit | GeneratorExit):
        raise error
    return error if isinstance(error, Exception) else DescribedError(described(error))


def described(error: BaseException) -> str:
    """Type, text and place of an error that nobody expected.

    Example:
        >>> try:
        ...     [][0]
        ... except IndexError as error:
        ...     print(described(error))
        IndexError: list index out of range (<doctest ...>, line 2)
    """
    if isinstance(error, DescribedError):
        return f"{error}"
    steps = traceback.extract_tb(error.__traceback__)
    where = f" ({Path(steps[-1].filename).name}, line {steps[-1].lineno})" if steps else ""
    text = f"{error}"
    return f"{type(error).__name__}{': ' if text else ''}{text}{where}"


def _portable(error: Exception) -> Exception:
    """An exception that survives the way to another process, with its traceback as a note."""
    try:
        where = "".join(traceback.format_exception(error))
    except Exception:  # as where memory is short
        where = f"{type(error).__name__}\n"
    try:
        copy: Exception = pickle.loads(pickle.dumps(error))
        if str(copy) != str(error):  # as of one whose arguments are not its text
            raise ValueError
    except Exception:
        copy = DescribedError(described(error))
    copy.add_note(f"In a worker process:\n{where}")
    return copy
