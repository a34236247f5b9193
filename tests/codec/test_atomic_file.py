# SPDX-License-Identifier: Apache-2.0
import os

import pytest

from genaccel.files.atomic import write_atomically


def test_writes_a_file_and_leaves_nothing_else(tmp_path):
    write_atomically(tmp_path / "a.gac", b"one")
    assert (tmp_path / "a.gac").read_bytes() == b"one"
    assert os.listdir(tmp_path) == ["a.gac"]


def test_existing_files_are_kept_unless_overwriting(tmp_path):
    path = tmp_path / "a.gac"
    path.write_bytes(b"old")
    with pytest.raises(FileExistsError, match="--force"):
        write_atomically(path, b"new")
    assert path.read_bytes() == b"old"
    write_atomically(path, b"new", overwrite=True)
    assert path.read_bytes() == b"new"


@pytest.mark.parametrize("failing", ["fsync", "replace"])
def test_a_failing_write_leaves_the_old_file_and_no_rubbish(tmp_path, monkeypatch, failing):
    path = tmp_path / "a.gac"
    path.write_bytes(b"old")

    def disk_full(*_args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, failing, disk_full)
    with pytest.raises(OSError, match="No space left"):
        write_atomically(path, b"new", overwrite=True)
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["a.gac"]


def test_links_are_followed_and_the_umask_applies(tmp_path):
    (tmp_path / "real.gac").write_bytes(b"old")
    (tmp_path / "link.gac").symlink_to("real.gac")
    previous = os.umask(0o027)
    try:
        write_atomically(tmp_path / "link.gac", b"new", overwrite=True)
    finally:
        os.umask(previous)
    assert (tmp_path / "link.gac").is_symlink()
    assert (tmp_path / "real.gac").read_bytes() == b"new"
    assert (tmp_path / "real.gac").stat().st_mode & 0o777 == 0o640


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
