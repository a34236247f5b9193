# SPDX-License-Identifier: Apache-2.0
"""Turns a training run into a model that codes files."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from torch import Tensor
from torch.utils.data import DataLoader, Subset
from tqdm.auto import tqdm

from genaccel.codec.index_statistics import bits_per_pixel, count_indices, set_index_cdfs
from genaccel.codec.training import load_trained
from genaccel.data.image_folder import RandomCropDataset

_CROP_SIZE = 256  # pixels; large enough that border tokens are few
_BATCH_SIZE = 8


class ExportReport(NamedTuple):
    """What was exported."""

    folder: Path
    bits_per_pixel: float  # on the training crops, by the tables
    codes_used: list[int]  # code words met at least once, per scale


def export_model(
    run: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    data: str | os.PathLike[str],
    num_crops: int = 1024,
) -> ExportReport:
    """Write the averaged weights of a run's last checkpoint, with index tables measured on crops of ``data``.

    Args:
        run: Folder of a run of ``genaccel train codec``; it may still be running.
        out: Folder for ``config.json`` and ``model.safetensors``.
        data: Folder of images, the training set as a rule.
        num_crops: Crops of 256x256 pixels to count indices on.

    Raises:
        FileNotFoundError: If the run has no checkpoint.
        ValueError: If ``num_crops`` is not positive.
    """
    if num_crops < 1:
        raise ValueError(f"num_crops must be at least 1, got {num_crops}")
    model = load_trained(run)
    # The weights that count are the stored ones: measure with them, not with their fp32 originals.
    model.half().float()
    dataset = RandomCropDataset(data, _CROP_SIZE, scale=(0.5, 1.0), seed=1)
    loader = DataLoader(Subset(dataset, range(num_crops)), batch_size=_BATCH_SIZE)

    def with_progress() -> Iterator[Tensor]:
        yield from tqdm(loader, desc="measuring index tables", unit="batch", disable=None)

    counts = count_indices(model, with_progress())
    set_index_cdfs(model, counts)
    model.save_pretrained(out)
    return ExportReport(
        folder=Path(out),
        bits_per_pixel=bits_per_pixel(model, counts),
        codes_used=[int(n) for n in (counts > 0).sum(1)],
    )
