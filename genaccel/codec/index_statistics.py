# SPDX-License-Identifier: Apache-2.0
"""How often each code word is used, as the static tables that code the indices."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from genaccel import ops
from genaccel.models.autoencoder import CDF_PRECISION, Autoencoder, AutoencoderParams

# Added to each count: the Krichevsky-Trofimov estimate, so that an index never seen costs a finite length.
_PSEUDO_COUNT = 0.5


def count_indices(params: AutoencoderParams, index_maps: Sequence[NDArray[np.int32]]) -> Tensor:
    """Count the indices of an image, int64 ``[scales, K]``, in its index maps ``[h, w]``, coarse to fine."""
    counts = [np.bincount(m.reshape(-1), minlength=params.codebook_size) for m in index_maps]
    return torch.from_numpy(np.stack(counts).astype(np.int64))


def set_index_cdfs(model: Autoencoder, counts: Tensor) -> None:
    """Replace the model's static tables by those of ``counts`` ``[scales, K]``."""
    pmf = counts.double() + _PSEUDO_COUNT
    model.index_cdfs.copy_(ops.pmf_to_cdf(pmf, CDF_PRECISION))


def bits_per_pixel(model: Autoencoder, counts: Tensor) -> float:
    """Mean rate in bits per pixel that the model's tables give indices distributed as ``counts``."""
    frequencies = model.index_cdfs.diff(dim=1).double()
    bits = CDF_PRECISION - frequencies.log2()
    per_scale = (counts * bits).sum(1) / counts.sum(1)
    return sum(
        float(mean) / stride**2
        for mean, stride in zip(per_scale, model.params.strides, strict=True)
    )
