# SPDX-License-Identifier: Apache-2.0
import errno
import os
import secrets
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

from genaccel.files import atomic
from genaccel.files.atomic import (
    atomic_folder,
    atomic_path,
    atomic_stream,
    refuse_existing,
    remove_partial,
    write_atomically,
    write_json,
)


@pytest.fixture
def umask():
    """Sets the umask; the former one comes back."""
    before = os.umask(0o022)
    yield os.umask
    os.umask(before)


def mode_of(path):
    return path.stat().st_mode & 0o777


def test_writes_a_file_and_leaves_nothing_else(tmp_path):
    write_atomically(tmp_path / "a.gac", b"one")
    assert (tmp_path / "a.gac").read_bytes() == b"one"
    write_atomically(tmp_path / "b.txt", "grün\n")
    assert (tmp_path / "b.txt").read_bytes() == "grün\n".encode()
    assert sorted(os.listdir(tmp_path)) == ["a.gac", "b.txt"]


def test_json_ends_in_a_line_break_and_what_is_none_is_not_begun(tmp_path):
    write_json(tmp_path / "a.json", {"a": [1]})
    assert (tmp_path / "a.json").read_text() == '{\n  "a": [\n    1\n  ]\n}\n'
    write_json(tmp_path / "a.json", [1, 2], indent=None, overwrite=True)
    assert (tmp_path / "a.json").read_text() == "[1, 2]\n"
    with pytest.raises(TypeError):
        write_json(tmp_path / "b.json", {1, 2})
    assert os.listdir(tmp_path) == ["a.json"]


def test_libraries_write_to_a_path_or_a_stream(tmp_path):
    with atomic_path(tmp_path / "a.npy") as partial:
        assert partial.parent == tmp_path
        np.lib.format.open_memmap(partial, "w+", np.uint8, (2, 3))[:] = 7
        assert not (tmp_path / "a.npy").exists()
    np.testing.assert_array_equal(np.load(tmp_path / "a.npy"), np.full((2, 3), 7))
    with atomic_stream(tmp_path / "b.npz") as stream:  # seeks, as torch.save and Pillow do
        np.savez(stream, x=np.arange(3))
    np.testing.assert_array_equal(np.load(tmp_path / "b.npz")["x"], np.arange(3))
    with atomic_path(tmp_path / "c") as partial:  # a library with a temporary file of its own
        (tmp_path / "other").write_bytes(b"c")
        os.chmod(tmp_path / "other", 0o600)
        os.replace(tmp_path / "other", partial)
    assert (tmp_path / "c").read_bytes() == b"c"
    assert mode_of(tmp_path / "c") == mode_of(tmp_path / "a.npy")


def test_existing_files_are_kept_unless_overwriting(tmp_path):
    path = tmp_path / "a.gac"
    path.write_bytes(b"old")
    with pytest.raises(FileExistsError, match="--force"):
        refuse_existing(path)
    with pytest.raises(FileExistsError, match="--force"):
        write_atomically(path, b"new")
    assert path.read_bytes() == b"old"
    write_atomically(path, b"new", overwrite=True)
    assert path.read_bytes() == b"new"


@pytest.mark.parametrize("hard_links", [True, False])
def test_a_file_that_appears_meanwhile_is_kept(tmp_path, monkeypatch, hard_links):
    def no_link(*_args):
        raise OSError(errno.EOPNOTSUPP, "not here")

    if not hard_links:
        monkeypatch.setattr(os, "link", no_link)
    path = tmp_path / "a"

    def write():
        with atomic_stream(path) as stream:
            stream.write(b"mine")
            path.write_bytes(b"theirs")

    with pytest.raises(FileExistsError, match="--force"):
        write()
    assert path.read_bytes() == b"theirs"
    write_atomically(tmp_path / "b", b"b")
    assert (tmp_path / "b").read_bytes() == b"b"
    assert sorted(os.listdir(tmp_path)) == ["a", "b"]


def test_of_many_processes_one_makes_the_file(tmp_path):
    code = (
        "import sys\nfrom pathlib import Path\nfrom genaccel.files.atomic import write_atomically\n"
        "print('ready', flush=True); sys.stdin.readline()\n"
        "for i in range(100):\n"
        "    try: write_atomically(Path(sys.argv[1], str(i)), sys.argv[2])\n"
        "    except FileExistsError: continue\n"
        "    print(i, flush=True)\n"
    )
    writers = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(tmp_path), name],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for name in "ab"
    ]
    for writer in writers:
        assert writer.stdout.readline() == "ready\n"
    for writer in writers:
        writer.stdin.write("\n")
        writer.stdin.flush()
    done = {
        name: writer.communicate()[0].split() for name, writer in zip("ab", writers, strict=True)
    }
    assert [writer.returncode for writer in writers] == [0, 0]
    # Who said that it wrote a file did, and nobody wrote it again.
    assert sorted(done["a"] + done["b"], key=int) == [str(i) for i in range(100)]
    for name, numbers in done.items():
        assert all((tmp_path / number).read_text() == name for number in numbers)
    assert len(os.listdir(tmp_path)) == 100


def test_a_taken_hidden_name_is_left_alone(tmp_path, monkeypatch):
    tokens = ["taken", "taken", "free"]
    monkeypatch.setattr(secrets, "token_hex", lambda _: tokens.pop(0))
    taken = tmp_path / f".a.{os.getpid()}.taken.partial"
    taken.symlink_to(
        tmp_path / "victim"
    )  # as somebody might put it there to have a file overwritten
    write_atomically(tmp_path / "a", b"data")
    assert tokens == []
    assert taken.is_symlink()
    assert not (tmp_path / "victim").exists()
    assert (tmp_path / "a").read_bytes() == b"data"


@pytest.mark.parametrize("failing", ["fsync", "replace", "chmod"])
def test_a_failing_write_leaves_the_old_file_and_no_rubbish(tmp_path, monkeypatch, failing):
    path = tmp_path / "a.gac"
    path.write_bytes(b"old")
    path.chmod(0o604)

    def disk_full(*_args, **_options):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, failing, disk_full)
    with pytest.raises(OSError, match=r"No space left on device: '.*/a\.gac'"):
        write_atomically(path, b"new", overwrite=True)
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["a.gac"]


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_a_full_disk_is_said_with_the_name_of_the_file():
    with pytest.raises(OSError, match="No space left on device: '/dev/full'"):
        write_atomically(atomic.Path("/dev/full"), b"data")


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit, ValueError])
@pytest.mark.parametrize("overwrite", [True, False])
def test_every_exception_cleans_up(tmp_path, kind, overwrite):
    path = tmp_path / "a"
    if overwrite:
        path.write_bytes(b"old")

    def write_file():
        with atomic_stream(path, overwrite=overwrite) as stream:
            stream.write(b"half")
            raise kind

    def write_folder():
        with atomic_folder(tmp_path / "folder") as partial:
            (partial / "half").write_bytes(b"half")
            raise kind

    for write in (write_file, write_folder):
        with pytest.raises(kind):
            write()
    assert os.listdir(tmp_path) == (["a"] if overwrite else [])
    assert not overwrite or path.read_bytes() == b"old"


@pytest.fixture
def interruptible():
    """Interrupts reach Python, also in a process that was started in the background, which ignores them."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_an_interrupt_in_the_middle_cleans_up(tmp_path, interruptible):
    def write():
        with atomic_stream(tmp_path / "a") as stream:
            threading.Timer(0.2, signal.raise_signal, [signal.SIGINT]).start()
            end = time.monotonic() + 20
            while time.monotonic() < end:
                stream.write(b"half")
                stream.seek(0)
                time.sleep(0.01)

    with pytest.raises(KeyboardInterrupt):
        write()
    assert os.listdir(tmp_path) == []


def test_a_killed_writer_leaves_the_old_file_and_what_can_be_removed(tmp_path):
    path = tmp_path / "a"
    path.write_bytes(b"old")
    code = (
        "import os, signal, sys\nfrom pathlib import Path\n"
        "from genaccel.files.atomic import atomic_folder, atomic_stream\n"
        "path = Path(sys.argv[1])\n"
        "with atomic_stream(path, overwrite=True) as stream, atomic_folder(path.with_name('b')) as folder:\n"
        "    (folder / 'half').write_bytes(b'half'); stream.write(b'half'); stream.flush()\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    writer = subprocess.Popen([sys.executable, "-c", code, str(path)])
    assert writer.wait() == -signal.SIGKILL
    assert path.read_bytes() == b"old"
    assert not (tmp_path / "b").exists()
    left = sorted(name for name in os.listdir(tmp_path) if name != "a")
    assert [name.split(f".{writer.pid}.")[0] for name in left] == [".a", ".b"]
    for name in ("a", "b"):
        remove_partial(tmp_path / name, writer.pid + 1)  # another process's stay
    assert len(os.listdir(tmp_path)) == 3
    for name in ("a", "b"):
        remove_partial(tmp_path / name, writer.pid)
    assert os.listdir(tmp_path) == ["a"]
    remove_partial(tmp_path / "nowhere" / "a", writer.pid)


def test_the_umask_applies_to_new_files_and_an_old_ones_permissions_are_kept(tmp_path, umask):
    umask(0o027)
    write_atomically(tmp_path / "a", b"new")
    assert mode_of(tmp_path / "a") == 0o640
    for mode in (0o600, 0o664, 0o444):
        (tmp_path / "a").chmod(mode)
        with atomic_path(tmp_path / "a", overwrite=True) as partial:
            assert mode_of(partial) == 0o600  # nobody else reads what is to be private
        assert mode_of(tmp_path / "a") == mode
    with atomic_folder(tmp_path / "b") as partial:
        (partial / "file").touch()
    assert mode_of(tmp_path / "b") == 0o750
    (tmp_path / "b").chmod(0o700)
    with atomic_folder(tmp_path / "b", overwrite=True):
        pass
    assert mode_of(tmp_path / "b") == 0o700


def test_links_are_followed(tmp_path):
    (tmp_path / "real.gac").write_bytes(b"old")
    (tmp_path / "link.gac").symlink_to("real.gac")
    (tmp_path / "new.gac").symlink_to("later.gac")
    with pytest.raises(FileExistsError):
        write_atomically(tmp_path / "link.gac", b"new")
    write_atomically(tmp_path / "link.gac", b"new", overwrite=True)
    assert (tmp_path / "link.gac").is_symlink()
    assert (tmp_path / "real.gac").read_bytes() == b"new"
    write_atomically(tmp_path / "new.gac", b"new")
    assert (tmp_path / "new.gac").is_symlink()
    assert (tmp_path / "later.gac").read_bytes() == b"new"


def test_a_pipe_is_written_to_and_not_replaced(tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    try:
        write_atomically(pipe, b"data")
        assert os.read(reader, 100) == b"data"
    finally:
        os.close(reader)
    assert pipe.is_fifo()


def test_standard_output_that_is_a_pipe_can_be_written_to_by_name():
    code = (
        "from pathlib import Path\nfrom genaccel.files.atomic import write_atomically\n"
        "write_atomically(Path('/dev/stdout'), 'data')"
    )
    assert (
        subprocess.run([sys.executable, "-c", code], check=True, capture_output=True).stdout
        == b"data"
    )


def test_what_is_in_the_way_is_said(tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").touch()
    for overwrite in (True, False):
        with pytest.raises(IsADirectoryError, match="folder is a folder"):
            write_atomically(tmp_path / "folder", b"", overwrite=overwrite)
        with (
            pytest.raises(FileExistsError, match="file exists already"),
            atomic_folder(tmp_path / "file", overwrite=overwrite),
        ):
            pass
        with pytest.raises(NotADirectoryError, match="file/a'"):
            write_atomically(tmp_path / "file" / "a", b"", overwrite=overwrite)
        with pytest.raises(FileNotFoundError, match=r"no folder .*/nowhere to write a into"):
            write_atomically(tmp_path / "nowhere" / "a", b"", overwrite=overwrite)
        with (
            pytest.raises(FileNotFoundError, match=r"no folder .*/nowhere to write a into"),
            atomic_folder(tmp_path / "nowhere" / "a", overwrite=overwrite),
        ):
            pass
    assert sorted(os.listdir(tmp_path)) == ["file", "folder"]


def test_errors_name_the_file_that_was_asked_for_and_no_other(tmp_path, monkeypatch):
    def refuse(first, second):
        raise OSError(errno.EIO, "broken", str(first), None, str(second))

    monkeypatch.setattr(os, "link", refuse)
    with pytest.raises(OSError, match=r"\] broken: '[^']*/a'$"):
        write_atomically(tmp_path / "a", b"")
    monkeypatch.setattr(atomic, "_sync", lambda path: refuse(path, path))
    with (
        pytest.raises(OSError, match=r"\] broken: '[^']*/folder'$"),
        atomic_folder(tmp_path / "folder"),
    ):
        pass
    for number in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        with pytest.raises(OSError, match=r": '[^']*/a'$"), atomic_stream(tmp_path / "a"):
            raise OSError(number, os.strerror(number))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_cannot_be_written_to_is_said_with_the_files_name(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(PermissionError, match=r"denied: '.*/a'$"):
        write_atomically(tmp_path / "a", b"")
    tmp_path.chmod(0o700)


def test_parents_are_made_on_request(tmp_path):
    write_atomically(tmp_path / "a" / "b" / "c", b"data", parents=True)
    with atomic_folder(tmp_path / "d" / "e", parents=True) as partial:
        (partial / "f").touch()
    assert (tmp_path / "a" / "b" / "c").read_bytes() == b"data"
    assert os.listdir(tmp_path / "d" / "e") == ["f"]


@pytest.mark.parametrize("name", ["x" * 255, "\N{SNOWMAN}" * 85, os.fsdecode(b"\xff" * 255)])
def test_names_as_long_as_names_can_be(tmp_path, name):
    write_atomically(tmp_path / name, b"data")
    assert os.listdir(tmp_path) == [name]


def test_file_and_folder_are_put_on_the_disk(tmp_path, monkeypatch):
    synced = []
    real = os.fsync

    def fsync(descriptor):
        synced.append(os.readlink(f"/proc/self/fd/{descriptor}"))
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    write_atomically(tmp_path / "a", b"data")
    assert synced[0].endswith(".partial")
    assert synced[1:] == [str(tmp_path)]
    synced.clear()
    with atomic_folder(tmp_path / "b") as partial:
        (partial / "c").mkdir()
        (partial / "c" / "d").touch()
        (partial / "link").symlink_to("nothing")
    assert {name.removeprefix(str(partial)) for name in synced[:-1]} == {"", "/c", "/c/d"}
    assert synced[-1] == str(tmp_path)


@pytest.mark.parametrize("number", [errno.EINVAL, errno.EIO])
def test_a_file_system_may_have_no_way_to_sync_a_folder(tmp_path, monkeypatch, number):
    real = os.fsync

    def fsync(descriptor):
        if os.readlink(f"/proc/self/fd/{descriptor}") == str(tmp_path):
            raise OSError(number, os.strerror(number))
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    if number == errno.EIO:
        with pytest.raises(OSError, match="Input/output"):
            write_atomically(tmp_path / "a", b"data")
    else:
        write_atomically(tmp_path / "a", b"data")
    assert (tmp_path / "a").read_bytes() == b"data"


@pytest.fixture
def old_folder(tmp_path):
    folder = tmp_path / "model"
    (folder / "part").mkdir(parents=True)
    (folder / "part" / "old").write_bytes(b"old")
    return folder


def test_a_folder_is_filled_and_takes_the_place_of_an_empty_one(tmp_path):
    (tmp_path / "empty").mkdir()
    for name in ("new", "empty"):
        with atomic_folder(tmp_path / name) as partial:
            (partial / "a").write_bytes(b"data")
        assert os.listdir(tmp_path / name) == ["a"]
    assert sorted(os.listdir(tmp_path)) == ["empty", "new"]


def test_a_folder_with_files_is_kept_unless_overwriting(old_folder):
    with pytest.raises(FileExistsError, match="not empty"), atomic_folder(old_folder):
        pass
    new = old_folder.with_name("meanwhile")

    def write():
        with atomic_folder(new) as partial:
            (partial / "mine").touch()
            new.mkdir()
            (new / "theirs").touch()

    with pytest.raises(FileExistsError, match="not empty"):
        write()
    assert os.listdir(new) == ["theirs"]
    assert os.listdir(old_folder) == ["part"]


@pytest.mark.parametrize("exchange", [True, False])
def test_a_folder_is_replaced_as_a_whole(old_folder, monkeypatch, exchange):
    link = old_folder.with_name("link")
    link.symlink_to("model")
    if exchange:
        # One step: at no moment is the name without a folder.
        monkeypatch.setattr(atomic, "_partial_path", _at_most_once(atomic._partial_path))
    else:
        monkeypatch.setattr(atomic, "_renamed_in_exchange", lambda *_: False)
    with atomic_folder(link, overwrite=True) as partial:
        (partial / "new").write_bytes(b"new")
        assert os.listdir(old_folder) == ["part"]
    assert link.is_symlink()
    assert os.listdir(old_folder) == ["new"]
    assert sorted(os.listdir(old_folder.parent)) == ["link", "model"]


def _at_most_once(function):
    calls = []

    def once(*arguments):
        calls.append(arguments)
        assert len(calls) == 1
        return function(*arguments)

    return once


@pytest.mark.parametrize("exchange", [True, False])
def test_a_folder_that_cannot_be_put_in_place_leaves_the_old_one(old_folder, monkeypatch, exchange):
    real = os.rename

    def rename(source, target):
        if str(target) == str(old_folder) and os.path.exists(os.path.join(source, "new")):
            number = errno.ENOTEMPTY if os.path.exists(target) else errno.EIO
            raise OSError(number, os.strerror(number), str(source))
        real(source, target)

    def no_exchange(*_):
        if exchange:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return False

    monkeypatch.setattr(os, "rename", rename)
    monkeypatch.setattr(atomic, "_renamed_in_exchange", no_exchange)
    with (
        pytest.raises(OSError, match="Input/output"),
        atomic_folder(old_folder, overwrite=True) as partial,
    ):
        (partial / "new").touch()
    assert (old_folder / "part" / "old").read_bytes() == b"old"
    assert os.listdir(old_folder.parent) == ["model"]
