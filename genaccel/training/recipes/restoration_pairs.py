# SPDX-License-Identifier: Apache-2.0
"""Pairs of a coded base layer and its picture, made once and kept on disk, to train restoration on.

Encoding and decoding takes longer than a training step of the network; from the disk a pair costs nothing. So
views of the pictures are encoded once each, at random size and quality, and training cuts windows out of them.
"""

from __future__ import annotations

import io
import os
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from tqdm.auto import tqdm

from genaccel.data.image_folder import RandomCropDataset
from genaccel.files.atomic import atomic_path, atomic_stream, write_json
from genaccel.files.image_writer import encode_image
from genaccel.files.images import AS_STORED, read_image
from genaccel.files.untrusted import read_json, read_json_object
from genaccel.models.restoration import INNER_STRIDE, SCALES, lanczos_enlarged
from genaccel.training.options import AT_LEAST_0, Option, Within, check

_MANIFEST_NAME = "pairs.json"

# By their order in SCALES. Full and half size share the rates that people use; quarter size is for the lowest.
_SCALE_SHARES = (0.45, 0.40, 0.15)
# Largest quality: about 0.4 bits per pixel of the picture on photographs at full and half size. A quarter of
# the size needs 0.1 even at its best.
_MAX_QUALITY = {1: 55, 2: 75, 4: 90}
# Sharpness of the views: the pictures are reduced, most of all those that were JPEG files.
_MIN_SCALE, _MAX_SCALE = 0.4, 0.9
_COLOR_PERMUTATION = 0.25
_AVIF_SPEED = 6  # the default of avifenc, and of our rate-distortion sweeps


@dataclass(frozen=True, kw_only=True, slots=True)
class PairsConfig:
    """Size of the set of pairs.

    Args:
        count: Views that are encoded and trained on.
        view_size: Side of a view in pixels, a multiple of 8.
        seed: Of the views, sizes, qualities, and of the run.
    """

    count: Annotated[int, Option(name="views"), Within(low=len(SCALES))] = 12_000
    view_size: int = 256
    seed: Annotated[int, Option(), AT_LEAST_0] = 0

    def __post_init__(self) -> None:
        check(self)
        if self.view_size < INNER_STRIDE or self.view_size % INNER_STRIDE:
            raise ValueError(
                f"view_size must be a multiple of {INNER_STRIDE}, got {self.view_size}"
            )

    def counts(self) -> dict[int, int]:
        """Views of each scale; at least one."""
        counts = {
            scale: max(1, int(share * self.count))
            for scale, share in zip(SCALES[1:], _SCALE_SHARES[1:], strict=True)
        }
        return {SCALES[0]: self.count - sum(counts.values()), **counts}


def coded_base(
    picture: NDArray[np.uint8], *, scale: int, quality: int
) -> tuple[NDArray[np.uint8], int]:
    """A picture ``[H, W, 3]`` at a share of its size after AVIF, and the bytes that it took.

    A size that is no multiple of the scale is padded first: a base that is half a pixel off costs 0.9 dB.

    Returns:
        ``[ceil(H / scale), ceil(W / scale), 3]`` and the size of the file without metadata.
    """
    height, width = picture.shape[:2]
    padding = ((0, -height % scale), (0, -width % scale), (0, 0))
    image = Image.fromarray(np.pad(picture, padding, mode="edge"))
    if scale > 1:
        image = image.resize(
            (image.width // scale, image.height // scale), Image.Resampling.LANCZOS
        )
    data = encode_image(image, "AVIF", quality=quality, speed=_AVIF_SPEED, max_threads=1)
    return read_image(io.BytesIO(data), AS_STORED).pixels, len(data)


def write_pairs(
    data: str | os.PathLike[str], out: str | os.PathLike[str], config: PairsConfig
) -> None:
    """Encode views of the images under a folder; what is there already is kept.

    Args:
        data: Folder of images.
        out: Folder of the pairs.
        config: How many and how large.

    Raises:
        ValueError: If ``out`` holds pairs of another configuration.
    """
    folder = Path(out)
    manifest = folder / _MANIFEST_NAME
    if manifest.is_file():
        found = read_json(manifest)
        if found != asdict(config):
            raise ValueError(f"{folder} holds pairs of {found}, not of {asdict(config)}")
        return
    folder.mkdir(parents=True, exist_ok=True)
    dataset = RandomCropDataset(
        data,
        config.view_size,
        scale=(_MIN_SCALE, _MAX_SCALE),
        color_permutation=_COLOR_PERMUTATION,
        seed=config.seed,
    )
    number = 0
    with tqdm(total=config.count, desc="encoding views", unit="view", disable=None) as progress:
        for scale, count in config.counts().items():
            side = config.view_size // scale
            shapes = {
                "base": (count, side, side, 3),
                "target": (count, *([config.view_size] * 2), 3),
            }
            qualities = np.random.default_rng((config.seed, scale)).integers(
                _MAX_QUALITY[scale], endpoint=True, size=count, dtype=np.uint8
            )
            with ExitStack() as stack:
                files = {}
                for name, shape in shapes.items():
                    path = atomic_path(_path(folder, scale, name), overwrite=True)
                    files[name] = np.lib.format.open_memmap(
                        stack.enter_context(path), "w+", np.uint8, shape
                    )
                for row in range(count):
                    planes = dataset[number].add(1).mul(127.5).round().to(torch.uint8)
                    view = planes.permute(1, 2, 0).numpy()
                    files["target"][row] = view
                    quality = int(qualities[row])
                    files["base"][row], _ = coded_base(view, scale=scale, quality=quality)
                    number += 1
                    progress.update()
                for file in files.values():
                    file.flush()
            with atomic_stream(_path(folder, scale, "quality"), overwrite=True) as stream:
                np.save(stream, qualities)
    write_json(manifest, asdict(config), indent=None)


@dataclass(frozen=True, kw_only=True, slots=True)
class Pairs:
    """Windows of one scale.

    Attributes:
        scale: Side of a target over that of its base.
        base: ``[B, 3, S / scale, S / scale]`` in [0, 1].
        target: ``[B, 3, S, S]`` in [0, 1].
        quality: ``[B]``.
    """

    scale: int
    base: Tensor
    target: Tensor
    quality: Tensor

    @property
    def enlarged(self) -> Tensor:
        """The bases at the size of the targets."""
        return lanczos_enlarged(self.base, self.scale)

    def to(self, device: torch.device) -> Pairs:
        """The same on a device."""
        return Pairs(
            scale=self.scale,
            base=self.base.to(device),
            target=self.target.to(device),
            quality=self.quality.to(device),
        )


class PairStream:
    """An endless, numbered stream of windows out of the pairs of a folder.

    Window ``n`` is a pure function of the folder, the seed and ``n``.

    Args:
        folder: Written by :func:`write_pairs`.
        window_size: Side of a window in pixels of the picture, a multiple of 8.
        seed: Number of the stream.

    Raises:
        FileNotFoundError: If the folder has no finished pairs.
        ValueError: If the window is larger than a view, or no multiple of 8.
    """

    def __init__(self, folder: str | os.PathLike[str], window_size: int, *, seed: int = 0) -> None:
        path = Path(folder)
        if not (path / _MANIFEST_NAME).is_file():
            raise FileNotFoundError(f"{path} holds no pairs: {_MANIFEST_NAME} is missing")
        try:
            self.config = PairsConfig(**read_json_object(path / _MANIFEST_NAME))
        except TypeError as error:
            raise ValueError(f"{path / _MANIFEST_NAME} is no list of pairs: {error}") from error
        if not INNER_STRIDE <= window_size <= self.config.view_size or window_size % INNER_STRIDE:
            raise ValueError(
                f"window_size must be a multiple of {INNER_STRIDE} up to {self.config.view_size}, "
                f"got {window_size}"
            )
        self.window_size, self.seed = window_size, seed
        self._files = {
            scale: {name: _stored(path, scale, name) for name in ("base", "target", "quality")}
            for scale in SCALES
        }

    def windows(self, numbers: range) -> list[Pairs]:
        """The windows with these numbers, those of one scale together; no scale without a window."""
        size = self.window_size
        found: dict[int, list[tuple[NDArray[np.uint8], NDArray[np.uint8], int]]] = {}
        positions = (self.config.view_size - size) // INNER_STRIDE + 1
        for number in numbers:
            random = np.random.default_rng((self.seed, number))
            scale = int(random.choice(SCALES, p=_SCALE_SHARES))
            files = self._files[scale]
            row = int(random.integers(len(files["quality"])))
            # Windows lie as pictures do to the network's grid, and so to that of the blocks of AV1.
            top, left = (INNER_STRIDE * int(random.integers(positions)) for _ in range(2))
            target = files["target"][row, top : top + size, left : left + size]
            top, left, side = top // scale, left // scale, size // scale
            base = files["base"][row, top : top + side, left : left + side]
            found.setdefault(scale, []).append((base, target, int(files["quality"][row])))
        return [
            Pairs(
                scale=scale,
                base=_planes([base for base, _, _ in found[scale]]),
                target=_planes([target for _, target, _ in found[scale]]),
                quality=torch.tensor([float(quality) for _, _, quality in found[scale]]),
            )
            for scale in SCALES
            if scale in found
        ]


def _planes(pictures: list[NDArray[np.uint8]]) -> Tensor:
    return torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).float().div_(255)


def _stored(folder: Path, scale: int, name: str) -> NDArray[np.uint8]:
    """An array of the pairs, left on the disk."""
    path = _path(folder, scale, name)
    try:
        array: NDArray[np.uint8] = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise ValueError(f"{path} is damaged: {error}") from error
    if array.dtype != np.uint8 or array.ndim != (1 if name == "quality" else 4):
        raise ValueError(f"{path} holds no {name} of pairs")
    return array


def _path(folder: Path, scale: int, name: str) -> Path:
    return folder / f"scale{scale}-{name}.npy"
