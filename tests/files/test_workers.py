# SPDX-License-Identifier: Apache-2.0
import importlib
import os
import signal
import subprocess
import sys
import time
from contextlib import closing
from functools import partial
from pathlib import Path

import pytest

from genaccel.errors import WorkerDiedError
from genaccel.files.atomic import remove_partial
from genaccel.files.workers import as_failure, map_in_workers


@pytest.fixture
def work(monkeypatch):
    """The module of what workers do; they find it as this process does."""
    monkeypatch.syspath_prepend(Path(__file__).parent)
    return importlib.import_module("workers_work")


def wait_for(condition):
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def is_running(pid):
    try:
        return ") Z " not in Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return False


def tries(folder, item):
    return (folder / f"tries-{item}").read_text().split()


def test_every_item_has_one_outcome_and_each_worker_opens_once(work, tmp_path):
    items = ["a", "bad", "b", "awkward", "c", "d"]
    open_work = partial(work.open_folder, tmp_path)
    with closing(map_in_workers(open_work, items, workers=2)) as outcomes:
        found = {outcome.item: outcome for outcome in outcomes}
    assert {item: outcome.result for item, outcome in found.items() if outcome.error is None} == {
        item: item.upper() for item in "abcd"
    }
    assert isinstance(found["bad"].error, ValueError)
    assert str(found["bad"].error) == "bad item"
    assert "in do" in found["bad"].error.__notes__[0]
    assert str(found["awkward"].error).startswith(
        "AwkwardError: awkward item at home (workers_work"
    )
    assert len(list(tmp_path.glob("opened-*"))) == 2
    assert all(len(tries(tmp_path, item)) == 1 for item in items)


def test_whatever_an_item_raises_is_its_own_failure(work, tmp_path):
    items = ["no-memory", "deep", "panics", "not-to-be-sent", "leaves", "a"]
    open_work = partial(work.open_folder, tmp_path)
    with closing(map_in_workers(open_work, items, workers=1)) as outcomes:
        found = {outcome.item: outcome for outcome in outcomes}
    assert found["a"].result == "A"
    assert isinstance(found["no-memory"].error, MemoryError)
    assert isinstance(found["deep"].error, RecursionError)
    assert str(found["panics"].error).startswith("PanicError: as libraries in Rust do (workers_")
    assert "TypeError: cannot pickle" in str(found["not-to-be-sent"].error)
    assert "ended with exit code 3" in str(found["leaves"].error)


def test_items_that_no_worker_is_left_for_are_named(work, tmp_path):
    open_work = partial(work.open_twice, tmp_path)
    items = ["a", "dies", "b", "c"]
    with closing(map_in_workers(open_work, items, workers=1)) as outcomes:
        found = {outcome.item: outcome for outcome in outcomes}
    assert found["a"].result == "A"
    for item in ("dies", "b", "c"):
        assert "no worker process survives" in str(found[item].error)


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(1), GeneratorExit()])
def test_what_ends_the_process_is_no_failure_of_an_item(error):
    with pytest.raises(type(error)):
        as_failure(error)
    assert as_failure(failure := KeyError("x")) is failure


def test_an_item_whose_worker_dies_is_tried_once_more(work, tmp_path):
    items = ["a", "dies-once", "b", "dies", "c"]
    open_work = partial(work.open_folder, tmp_path)
    cleaned = []
    outcomes = map_in_workers(
        open_work, items, workers=2, clean_up=lambda item, pid: cleaned.append((item, str(pid)))
    )
    with closing(outcomes):
        found = {outcome.item: outcome for outcome in outcomes}
    assert list(found) != []
    for item in ("a", "b", "c", "dies-once"):
        assert found[item].result == item.upper()
    assert isinstance(found["dies"].error, WorkerDiedError)
    assert "SIGKILL" in str(found["dies"].error)
    assert len(set(tries(tmp_path, "dies"))) == 3  # in three processes
    assert len(set(tries(tmp_path, "dies-once"))) == 2
    for item in ("a", "b", "c"):
        assert len(tries(tmp_path, item)) == 1
    expected = [("dies", pid) for pid in tries(tmp_path, "dies")]
    expected += [("dies-once", tries(tmp_path, "dies-once")[0])]
    assert sorted(cleaned) == sorted(expected)


def test_what_is_tried_again_may_be_told_so(work, tmp_path):
    outcomes = map_in_workers(
        partial(work.open_folder, tmp_path),
        ["done-and-dies"],
        workers=1,
        again=lambda item: f"again-{item}",
    )
    with closing(outcomes):
        (outcome,) = outcomes
    assert outcome.result == "AGAIN-DONE-AND-DIES"


def test_what_a_killed_worker_was_writing_is_removed(work, tmp_path):
    (tmp_path / f".killed-while-writing.{os.getpid()}.0.partial").touch()  # another process's
    outcomes = map_in_workers(
        partial(work.open_folder, tmp_path),
        ["killed-while-writing"],
        workers=1,
        clean_up=lambda item, pid: remove_partial(tmp_path / item, pid),
    )
    with closing(outcomes):
        (outcome,) = outcomes
    assert isinstance(outcome.error, WorkerDiedError)
    (left,) = tmp_path.glob(".*.partial")
    assert str(os.getpid()) in left.name
    assert not (tmp_path / "killed-while-writing").exists()


def test_closing_stops_workers_and_leaves_no_half_file(work, tmp_path):
    outcomes = map_in_workers(
        partial(work.open_folder, tmp_path), ["a", "slow-to-write"], workers=2
    )
    with closing(outcomes):
        next(outcomes)
        wait_for(lambda: list(tmp_path.glob(".slow-to-write.*.partial")))
        pids = [int(path.name.removeprefix("opened-")) for path in tmp_path.glob("opened-*")]
        assert any(map(is_running, pids))
    assert not any(map(is_running, pids))
    assert list(tmp_path.glob("*slow-to-write*")) == [tmp_path / "tries-slow-to-write"]


def test_workers_end_with_the_main_process(work, tmp_path):
    process = subprocess.Popen(
        [sys.executable, work.__file__, str(tmp_path)],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)},
    )
    with process:
        assert process.stdout.readline() == b"A\n"
        wait_for(lambda: list(tmp_path.glob(".slow-to-write.*.partial")))
        wait_for(lambda: len(list(tmp_path.glob("opened-*"))) == 2)
        (busy,) = map(int, tries(tmp_path, "slow-to-write"))
        process.kill()
    idle = [int(path.name.removeprefix("opened-")) for path in tmp_path.glob("opened-*")]
    idle.remove(busy)
    wait_for(lambda: not any(map(is_running, idle)))
    os.kill(busy, signal.SIGTERM)  # it would write its file to the end first
    wait_for(lambda: not is_running(busy))
    assert list(tmp_path.glob(".*")) == []


def test_failing_to_open_is_raised_here(work):
    with (
        closing(map_in_workers(work.open_badly, ["a", "b"], workers=2)) as outcomes,
        pytest.raises(LookupError, match="no such model"),
    ):
        next(outcomes)


def test_workers_that_die_while_opening_are_given_up(work):
    with (
        closing(map_in_workers(work.open_never, ["a"], workers=1)) as outcomes,
        pytest.raises(WorkerDiedError, match="fewer of them"),
    ):
        next(outcomes)


def test_a_worker_that_never_opens_does_not_spoil_what_another_has_done(work, tmp_path):
    open_work = partial(work.open_one, tmp_path)
    with closing(map_in_workers(open_work, ["a", "b"], workers=2)) as outcomes:
        assert sorted(outcome.result for outcome in outcomes) == ["A", "B"]


def test_no_items_and_no_workers(work, tmp_path):
    open_work = partial(work.open_folder, tmp_path)
    assert list(map_in_workers(open_work, [], workers=2)) == []
    with pytest.raises(ValueError, match="at least 1"):
        next(map_in_workers(open_work, ["a"], workers=0))
