# SPDX-License-Identifier: Apache-2.0
"""How often each code word is used, as the static tables that code the indices."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from genaccel import ops
from genaccel.models.autoencoder import CDF_PRECISION, Autoencoder

# Added to each count: the Krichevsky-Trofimov estimate, so that an index never seen costs a finite length.
_PSEUDO_COUNT = 0.5


@torch.inference_mode()
def count_indices(model: Autoencoder, images: Iterable[Tensor]) -> Tensor:
    """Count the indices of images per scale.

    Args:
        model: In evaluation mode.
        images: Batches ``[B, 3, H, W]`` in [-1, 1].

    Returns:
        int64 ``[scales, K]``.
    """
    counts = torch.zeros(len(model.params.strides), model.params.codebook_size, dtype=torch.int64)
    for x in images:
        for scale, index_map in enumerate(model.encode(x)):
            counts[scale] += torch.bincount(
                index_map.flatten().cpu(), minlength=model.params.codebook_size
            )
    return counts


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
