# SPDX-License-Identifier: Apache-2.0
import logging
import os
import socket
import subprocess
import sys

import pytest

from genaccel.files.folders import find_files, find_images, walk_folder


def write(folder, *names):
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")


def names(folder, paths):
    return [path.relative_to(folder).as_posix() for path in paths]


def test_images_are_found_by_extension_in_path_order(tmp_path):
    write(tmp_path, "b.PNG", "a/z.jpg", "a/y.webp", "a.pgm", "c.png/inner.jpeg", "a-b/x.tif")
    write(tmp_path, ".hidden/x.png", "notes.txt", "no-suffix", ".png")
    expected = ["a-b/x.tif", "a.pgm", "a/y.webp", "a/z.jpg", "b.PNG", "c.png/inner.jpeg"]
    assert names(tmp_path, find_images(tmp_path)) == expected
    assert names(tmp_path, find_images(str(tmp_path))) == expected
    every = names(tmp_path, find_files(tmp_path))
    assert every == sorted([*expected, "no-suffix", "notes.txt"])
    assert names(tmp_path, find_files(tmp_path, {".txt"})) == ["notes.txt"]


def test_what_is_left_out_has_a_name_and_a_reason(tmp_path):
    write(tmp_path, "a.png", ".hidden/x.png", "sub/.dot.png", "sub/notes.txt", "sub/b.png")
    (tmp_path / "folder-link.png").symlink_to("sub")
    (tmp_path / "up").symlink_to(".")
    (tmp_path / "circle.png").symlink_to("circle.png")
    (tmp_path / "dead.png").symlink_to("nothing.png")
    (tmp_path / "file-link.png").symlink_to("sub/b.png")
    os.mkfifo(tmp_path / "pipe.png")
    found = walk_folder(tmp_path, {".png"})
    assert names(tmp_path, found.files) == ["a.png", "file-link.png", "sub/b.png"]
    assert {path.relative_to(tmp_path).as_posix(): why for path, why in found.left_out.items()} == {
        ".hidden": "hidden",
        "sub/.dot.png": "hidden",
        "sub/notes.txt": "another kind of file",
        "folder-link.png": "a link to a folder, which is not followed",
        "up": "a link to a folder, which is not followed",
        "circle.png": "cannot be read (Too many levels of symbolic links)",
        "dead.png": "a link to what is not there",
        "pipe.png": "no regular file",
    }


def test_only_what_a_user_would_miss_is_logged(tmp_path, caplog):
    write(tmp_path, "a.png", ".hidden/x.png", "notes.txt")
    (tmp_path / "dead.png").symlink_to("nothing.png")
    with caplog.at_level(logging.WARNING):
        find_images(tmp_path)
    assert caplog.messages == [f"left out {tmp_path / 'dead.png'}: a link to what is not there"]


def test_the_folder_itself_may_be_a_link_and_in_a_hidden_place(tmp_path):
    write(tmp_path, ".real/a.png")
    (tmp_path / "link").symlink_to(".real")
    assert find_images(tmp_path / "link") == [tmp_path / "link" / "a.png"]
    assert find_images(tmp_path / ".real") == [tmp_path / ".real" / "a.png"]


@pytest.mark.parametrize("at_root", [True, False])
def test_a_folder_that_cannot_be_read_is_named_or_an_error(tmp_path, monkeypatch, at_root):
    write(tmp_path, "a.png", "closed/b.png")
    closed = tmp_path if at_root else tmp_path / "closed"
    real = os.scandir

    def scandir(path):  # root, as whom tests may run, can read everything
        if path == closed:
            raise PermissionError(13, "Permission denied", str(path))
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    if at_root:
        with pytest.raises(PermissionError):
            walk_folder(tmp_path)
    else:
        found = walk_folder(tmp_path)
        assert found.files == [tmp_path / "a.png"]
        assert found.left_out == {closed: "cannot be read (Permission denied)"}
        assert found.unreadable == {closed}


def test_a_file_is_not_a_folder(tmp_path):
    write(tmp_path, "a.png")
    for path in (tmp_path / "a.png", tmp_path / "nothing"):
        with pytest.raises(NotADirectoryError, match=path.name):
            find_images(path)


def test_the_room_needs_no_torch_and_only_pictures_need_pillow():
    code = (
        "import sys, genaccel.files.atomic, genaccel.files.folders, genaccel.files.workers\n"
        "assert not {'torch', 'numpy', 'PIL'} & set(sys.modules)\n"
        "import genaccel.files.images\nassert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_what_is_left_out_is_counted_and_what_would_be_missed_is_named(tmp_path):
    write(tmp_path, "a.png", ".h/x.png", ".dot.png", "a.txt", "b.TXT", "sub/c.txt", "d.raw", "none")
    (tmp_path / "dead.png").symlink_to("nothing.png")
    (tmp_path / "dead.txt").symlink_to("nothing.txt")
    (tmp_path / "circle").symlink_to("circle")
    (tmp_path / "more").symlink_to("sub")
    os.mkfifo(tmp_path / "pipe.png")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(os.path.relpath(tmp_path / "socket.png"))
        found = walk_folder(tmp_path, {".png"})
    assert found.unreadable == {tmp_path / "dead.png"}
    sentences = list(found.sentences())
    assert sentences == [
        f"left out {tmp_path / 'dead.png'}: a link to what is not there",
        f"left out {tmp_path / 'more'}: a link to a folder, which is not followed",
        f"left out {tmp_path / 'pipe.png'}: no regular file",
        f"left out {tmp_path / 'socket.png'}: no regular file",
        "9 other files left out: 4 .txt, 2 hidden, 2 without a suffix, 1 .raw",
    ]
    assert list(found.sentences(named_apart=found.unreadable)) == sentences[1:]
    (tmp_path / "one").mkdir()
    write(tmp_path / "one", "x.txt")
    assert list(walk_folder(tmp_path / "one", {".png"}).sentences()) == [
        "1 other file left out: 1 .txt"
    ]
    assert list(walk_folder(tmp_path / "one").sentences()) == []


def test_trees_deeper_than_paths_can_be_are_left_out_by_name(tmp_path):
    write(tmp_path, "a.png")
    opened = os.open(tmp_path, os.O_RDONLY)
    try:
        for _ in range(24):
            os.mkdir("d" * 200, dir_fd=opened)
            inner = os.open("d" * 200, os.O_RDONLY, dir_fd=opened)
            os.close(opened)
            opened = inner
    finally:
        os.close(opened)
    found = walk_folder(tmp_path, {".png"})
    assert found.files == [tmp_path / "a.png"]
    ((path, reason),) = found.left_out.items()
    assert "File name too long" in reason
    assert found.unreadable == {path}
