# SPDX-License-Identifier: Apache-2.0
"""How often each code word is used, as the static tables that code the indices; and what indices cost."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from genaccel import ops
from genaccel.codec.coding.window_grid import PADDING_INDEX
from genaccel.codec.training.rate_distortion_model import (
    RateDistortionModel,
    window_grid,
)
from genaccel.models.autoencoder import CDF_PRECISION, Autoencoder, AutoencoderParams
from genaccel.models.masked_entropy_model import code_length_bits

# Added to each count: the Krichevsky-Trofimov estimate, so that an index never seen costs a finite length.
_PSEUDO_COUNT = 0.5
# Windows that the entropy model sees at once: their logits take 1.4 MB each for 1024 code words.
_WINDOWS_PER_BATCH = 16


def count_indices(params: AutoencoderParams, index_maps: Sequence[NDArray[np.int32]]) -> Tensor:
    """Count the indices of an image, int64 ``[scales, K]``, in its index maps ``[h, w]``, coarse to fine."""
    counts = [np.bincount(m.reshape(-1), minlength=params.codebook_size) for m in index_maps]
    return torch.from_numpy(np.stack(counts).astype(np.int64))


def set_index_cdfs(model: Autoencoder, counts: Tensor) -> None:
    """Replace the model's static tables by those of ``counts`` ``[scales, K]``."""
    pmf = counts.double() + _PSEUDO_COUNT
    model.index_cdfs.copy_(ops.pmf_to_cdf(pmf, CDF_PRECISION))


def has_index_cdfs(model: Autoencoder) -> bool:
    """Whether the model's static tables were measured: a new model has uniform ones."""
    frequencies = model.index_cdfs.diff(dim=1)
    return int(frequencies.max() - frequencies.min()) > 1


def static_bits(model: Autoencoder, counts: Tensor) -> Tensor:
    """Bits that the model's tables give to indices with ``counts`` ``[scales, K]``: float64 ``[scales]``."""
    frequencies = model.index_cdfs.diff(dim=1).double()
    return (counts * (CDF_PRECISION - frequencies.log2())).sum(1)


@torch.inference_mode()
def predicted_bits(
    networks: RateDistortionModel, index_maps: Sequence[NDArray[np.int32]]
) -> Tensor:
    """Bits that an ideal coder spends on an image's indices with the entropy model's predictions.

    Args:
        networks: In evaluation mode.
        index_maps: ``[h, w]``, coarse to fine.

    Returns:
        float64 ``[scales]``.
    """
    device = networks.autoencoder.index_cdfs.device
    maps = [torch.from_numpy(m).long().unsqueeze(0) for m in index_maps]
    grid = window_grid(networks.entropy_model, maps)
    indices = grid.cut(maps, fill=PADDING_INDEX)  # [windows, L]
    batches = []
    for some in indices.split(_WINDOWS_PER_BATCH):
        code_vectors = networks.autoencoder.quantize.codebook[some.to(device)]  # [B, L, C]
        batches.append(code_length_bits(networks.logits(code_vectors), some.to(device)))
    bits = grid.merge(torch.cat(batches).cpu().double().unsqueeze(2))
    return torch.stack([m.sum() for m in bits])


def bits_per_pixel(params: AutoencoderParams, bits: Tensor, tokens: Tensor) -> float:
    """Rate of ``bits`` ``[scales]`` spent on ``tokens`` ``[scales]`` indices, of an image without padding."""
    return sum(
        float(mean) / stride**2 for mean, stride in zip(bits / tokens, params.strides, strict=True)
    )
