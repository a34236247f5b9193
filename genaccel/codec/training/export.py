# SPDX-License-Identifier: Apache-2.0
"""Turns a training run of any stage into a model that codes files."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm.auto import tqdm

from genaccel.codec.coding.window_grid import PADDING_INDEX
from genaccel.codec.image_codec import INTEGER_ENTROPY_FOLDER, ImageCodec
from genaccel.codec.training.index_statistics import (
    bits_per_pixel,
    count_indices,
    has_index_cdfs,
    predicted_bits,
    set_index_cdfs,
    static_bits,
)
from genaccel.codec.training.rate_distortion_model import (
    RateDistortionModel,
    window_grid,
)
from genaccel.codec.training.trained_networks import (
    ENTROPY_FOLDER,
    CodecRun,
    load_run,
    load_scales,
)
from genaccel.files.folders import find_images
from genaccel.files.images import AS_STORED, read_image
from genaccel.models.integer_export import integer_model_of, quantize
from genaccel.models.masked_entropy_model import MaskedEntropyModel
from genaccel.models.quantization_aware import QuantizationAwareEntropyModel
from genaccel.models.registry import record_parts, replaced_folder

# Windows that set the scales of the integer entropy model, of so many of each image.
_CALIBRATION_WINDOWS = 256
_WINDOWS_OF_AN_IMAGE = 4


class ExportReport(NamedTuple):
    """Rates of an exported model, measured on images."""

    folder: Path
    bits_per_pixel: float  # on the images measured, by the tables
    predicted_bits_per_pixel: float | None  # by the entropy model, if the run has one
    codes_used: list[int]  # code words met at least once, per scale

    def rates(self) -> str:
        """The folder and its rates in words."""
        text = f"{self.folder}: {self.bits_per_pixel:.3f} bits per pixel"
        if self.predicted_bits_per_pixel is not None:
            text += f" by static tables, {self.predicted_bits_per_pixel:.3f} by the entropy model"
        return text


def export_model(
    run: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    data: str | os.PathLike[str],
    max_images: int = 1000,
    entropy_dtype: torch.dtype = torch.float32,
) -> ExportReport:
    """Write the averaged weights of a run's last checkpoint, with index tables measured on images of ``data``.

    A codec that stage ``entropy`` found with measured tables keeps them. A quantisation-aware run has chosen the
    grids of the integer entropy model; for any other, windows of the images choose them.

    Args:
        run: Folder of a run of ``genaccel train codec``, ``entropy`` or ``joint``; it may still be running.
        out: Folder for ``config.json`` and ``model.safetensors``; the entropy model, if the run has one, goes to
            its folder ``entropy`` with files of the same names, and in integers, as files are coded with it, to
            ``entropy-int8``. A model that is there is replaced as a whole.
        data: Folder of images, the training set as a rule.
        max_images: Images to count indices on, spread evenly over the folder.
        entropy_dtype: Of the stored weights of the entropy model. float32 leaves all of the rounding to a later
            quantisation; float16 takes half the space.

    Raises:
        FileNotFoundError: If the run has no checkpoint.
        ValueError: If ``max_images`` is not positive, no image can be read, or ``out`` has an entropy model and
            the run has none.
    """
    if max_images < 1:
        raise ValueError(f"max_images must be at least 1, got {max_images}")
    model, entropy_model = load_run(run)
    scales = load_scales(run)
    # The weights that count are the stored ones: measure with them, not with their fp32 originals.
    model.half().float()
    networks = None
    if entropy_model is not None:
        for (
            weight
        ) in entropy_model.parameters():  # its buffers are not stored: they stay as they are
            weight.data = weight.data.to(entropy_dtype).float()
        networks = RateDistortionModel(model, entropy_model).eval()
        networks.scales = scales
    elif (Path(out) / ENTROPY_FOLDER).exists():
        raise ValueError(f"{out} has an entropy model, and {run} has none: choose another folder")
    codec = ImageCodec(model)
    paths = find_images(data)
    step = -(-len(paths) // max_images) or 1
    num_scales = len(model.params.strides)
    counts = torch.zeros(num_scales, model.params.codebook_size, dtype=torch.int64)
    predicted = torch.zeros(num_scales, dtype=torch.float64)
    windows: list[Tensor] = []
    for path in tqdm(paths[::step], desc="measuring index tables", unit="image", disable=None):
        try:
            image = read_image(path, AS_STORED).pixels
        except (OSError, ValueError):
            continue  # training has left it out and said so
        index_maps = codec.encode_indices(image)
        counts += count_indices(model.params, index_maps)
        if networks is not None:
            predicted += predicted_bits(networks, index_maps)
            windows.append(_some_windows(networks.entropy_model, index_maps))
    if not bool(counts.any()):
        raise ValueError(f"{data} has no image that can be read")
    # Stage "entropy" leaves the codec as it is: with its tables it keeps its digest, and reads the files that it wrote.
    if CodecRun(run).options()["stage"] != "entropy" or not has_index_cdfs(model):
        set_index_cdfs(model, counts)
    with replaced_folder(out) as fresh:
        model.save_pretrained(fresh)
        if entropy_model is not None:
            entropy_model.save_pretrained(fresh / ENTROPY_FOLDER, dtype=entropy_dtype)
            codebook = model.quantize.codebook.detach()
            if scales is None:
                chosen = torch.cat(windows)
                chosen = chosen[:: -(-len(chosen) // _CALIBRATION_WINDOWS)]
                integers = quantize(entropy_model, codebook, chosen)
            else:
                integers = integer_model_of(
                    QuantizationAwareEntropyModel(entropy_model, scales), codebook
                )
            integers.save_pretrained(fresh / INTEGER_ENTROPY_FOLDER)
        record_parts(fresh)
    tokens = counts.sum(1)
    return ExportReport(
        folder=Path(out),
        bits_per_pixel=bits_per_pixel(model.params, static_bits(model, counts), tokens),
        predicted_bits_per_pixel=(
            None if networks is None else bits_per_pixel(model.params, predicted, tokens)
        ),
        codes_used=[int(n) for n in (counts > 0).sum(1)],
    )


def _some_windows(
    entropy_model: MaskedEntropyModel, index_maps: Sequence[NDArray[np.int32]]
) -> Tensor:
    """Windows ``[n, L]`` of an image, spread evenly over it."""
    maps = [torch.from_numpy(m).long().unsqueeze(0) for m in index_maps]
    windows = window_grid(entropy_model, maps).cut(maps, fill=PADDING_INDEX)
    return windows[:: -(-len(windows) // _WINDOWS_OF_AN_IMAGE)]
