# SPDX-License-Identifier: Apache-2.0
"""Frames of a video file, or of a folder with one image a frame."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from genaccel.eval.images import UNUSABLE, load_image
from genaccel.files.folders import find_images


class FrameSource:
    """Frames ``[H, W, 3]`` uint8, read one at a time and as often as asked.

    Args:
        path: Video file that FFmpeg reads, or a folder; a folder's frames are in natural order, so that
            ``frame-9`` comes before ``frame-10``.

    Attributes:
        path: As given.
        files: Of a folder, in order; None for a video.

    Raises:
        FileNotFoundError: If there is no such file or folder.
        ValueError: If a folder holds no image.
    """

    def __init__(self, path: Path) -> None:
        if not path.exists():
            raise FileNotFoundError(f"{path} does not exist")
        self.path = path
        self.files: list[Path] | None = None
        if path.is_dir():
            self.files = sorted(
                find_images(path), key=lambda file: natural_key(file.relative_to(path).as_posix())
            )
            if not self.files:
                raise ValueError(f"{path} holds no image")

    def __iter__(self) -> Iterator[NDArray[np.uint8]]:
        """Decode.

        Raises:
            ImportError: If a video is given and PyAV is not installed.
            ValueError: If a file does not decode, or a video has no frame.
        """
        return _decode_video(self.path) if self.files is None else _read_images(self.files)


def natural_key(name: str) -> list[tuple[int, int, str]]:
    """Sorts numbers inside a name by their value.

    Example:
        >>> sorted(["10.png", "9.png"], key=natural_key)
        ['9.png', '10.png']
    """
    pieces = re.split(r"(\d+)", name, flags=re.ASCII)
    # Digits come before letters, and the text itself decides between "01" and "1".
    return [
        (0, int(piece), piece) if piece.isascii() and piece.isdigit() else (1, 0, piece)
        for piece in pieces
        if piece
    ]


def _read_images(files: list[Path]) -> Iterator[NDArray[np.uint8]]:
    for file in files:
        try:
            yield load_image(file).pixels
        except UNUSABLE as error:
            raise ValueError(f"{file}: {error}") from error


def _import_av() -> Any:
    try:
        import av
    except ImportError as error:
        raise ImportError(
            "video files need PyAV: run `pip install av`, or give folders of frames"
        ) from error
    return av


def _decode_video(path: Path) -> Iterator[NDArray[np.uint8]]:
    av = _import_av()
    count = 0
    try:
        with av.open(str(path)) as container:
            if not container.streams.video:
                raise ValueError(f"{path} has no video stream")
            for frame in container.decode(video=0):
                count += 1
                yield frame.to_ndarray(format="rgb24")
    except av.error.FFmpegError as error:
        raise ValueError(f"{path} does not decode as a video: {error}") from error
    if count == 0:
        raise ValueError(f"{path} has no frame")
