# SPDX-License-Identifier: Apache-2.0
"""Integer tables for entropy coders."""

from __future__ import annotations

import torch
from torch import Tensor

from genaccel import _library
from genaccel.ops._validate import require_float_tensor

_library.load()

__all__ = ["pmf_to_cdf"]

MAX_PRECISION = 24


def pmf_to_cdf(pmf: Tensor, precision: int) -> Tensor:
    """Cumulative integer tables in which every symbol can be coded.

    ``frequency = 1 + floor(p * (2**precision - S))``; the slots left over go to the largest remainders, the
    lowest symbol first among equal ones. After one rounding to fixed point all arithmetic is integer: the CPU
    and the GPU give the same tables for the same probabilities.

    Args:
        pmf: ``[..., S]`` float32 or float64, not necessarily normalised. Entries that are negative or not finite count
            as zero, and a row without a positive entry as uniform: looking for them would stall a GPU.
        precision: Bits of a table, 1 to 24; S is at most ``2**precision``.

    Returns:
        int32 ``[..., S + 1]`` from 0 to ``2**precision``, strictly increasing.

    Raises:
        TypeError: For another dtype.
        ValueError: For a precision or a number of symbols out of range.

    Example:
        >>> import torch
        >>> pmf_to_cdf(torch.tensor([0.5, 0.25, 0.25]), 4)
        tensor([ 0,  8, 12, 16], dtype=torch.int32)
    """
    require_float_tensor("pmf", pmf)
    if isinstance(precision, bool) or not isinstance(precision, int):
        raise TypeError(f"precision must be an int, got {type(precision).__name__}")
    if not 1 <= precision <= MAX_PRECISION:
        raise ValueError(f"precision must be in [1, {MAX_PRECISION}], got {precision}")
    if pmf.ndim == 0 or not 1 <= pmf.shape[-1] <= 2**precision:
        raise ValueError(
            f"pmf must have 1 to 2**precision = {2**precision} symbols in its last dimension, "
            f"got shape {tuple(pmf.shape)}"
        )
    rows = pmf.reshape(-1, pmf.shape[-1]) if pmf.numel() else pmf.new_empty(0, pmf.shape[-1])
    cdf: Tensor = torch.ops.genaccel.pmf_to_cdf.default(rows.contiguous(), precision)
    return cdf.view(*pmf.shape[:-1], pmf.shape[-1] + 1)


@torch.library.register_fake("genaccel::pmf_to_cdf")
def _pmf_to_cdf_fake(pmf: Tensor, precision: int) -> Tensor:
    return pmf.new_empty(pmf.shape[0], pmf.shape[1] + 1, dtype=torch.int32)
