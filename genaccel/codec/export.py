# SPDX-License-Identifier: Apache-2.0
"""Turns a training run into a model that codes files."""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

import torch
from tqdm.auto import tqdm

from genaccel.codec.image_codec import ImageCodec
from genaccel.codec.index_statistics import bits_per_pixel, count_indices, set_index_cdfs
from genaccel.codec.training import load_trained
from genaccel.data.image_files import find_images, read_rgb


class ExportReport(NamedTuple):
    """What was exported."""

    folder: Path
    bits_per_pixel: float  # on the images measured, by the tables
    codes_used: list[int]  # code words met at least once, per scale


def export_model(
    run: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    data: str | os.PathLike[str],
    max_images: int = 1000,
) -> ExportReport:
    """Write the averaged weights of a run's last checkpoint, with index tables measured on images of ``data``.

    Args:
        run: Folder of a run of ``genaccel train codec``; it may still be running.
        out: Folder for ``config.json`` and ``model.safetensors``.
        data: Folder of images, the training set as a rule.
        max_images: Images to count indices on, spread evenly over the folder.

    Raises:
        FileNotFoundError: If the run has no checkpoint.
        ValueError: If ``max_images`` is not positive, or no image can be read.
    """
    if max_images < 1:
        raise ValueError(f"max_images must be at least 1, got {max_images}")
    model = load_trained(run)
    # The weights that count are the stored ones: measure with them, not with their fp32 originals.
    model.half().float()
    codec = ImageCodec(model)
    paths = find_images(data)
    step = -(-len(paths) // max_images) or 1
    counts = torch.zeros(len(model.params.strides), model.params.codebook_size, dtype=torch.int64)
    for path in tqdm(paths[::step], desc="measuring index tables", unit="image", disable=None):
        try:
            image = read_rgb(path)
        except (OSError, ValueError):
            continue  # training has left it out and said so
        counts += count_indices(model.params, codec.encode_indices(image))
    if not bool(counts.any()):
        raise ValueError(f"{data} has no image that can be read")
    set_index_cdfs(model, counts)
    model.save_pretrained(out)
    return ExportReport(
        folder=Path(out),
        bits_per_pixel=bits_per_pixel(model, counts),
        codes_used=[int(n) for n in (counts > 0).sum(1)],
    )
