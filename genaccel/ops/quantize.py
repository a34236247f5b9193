# SPDX-License-Identifier: Apache-2.0
"""Vector quantisation (RDVQ, arXiv 2604.10546, equations 3 to 5)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from genaccel import _library
from genaccel.ops._validate import require_dimensions, require_float_tensor, require_same_kind

_library.load()


def nearest_code(features: Tensor, codebook: Tensor) -> tuple[Tensor, Tensor]:
    """Nearest code word of each row; both sides are L2-normalised first.

    Between unit vectors the squared distance is ``2 - 2 <y, c>``: nearest means largest cosine. Exact ties go
    to the lowest index. No ``[N, K]`` matrix is stored.

    The gradient of ``quantized`` passes straight through to the normalised features,
    ``(I - y y^T) g / |u|`` for ``y = u / |u|``; zero rows get none, and so does the codebook, which learns from
    a loss of its own.

    Args:
        features: ``[N, C]`` float32 or float64.
        codebook: ``[K, C]``, K >= 1, of the same dtype and device.

    Returns:
        ``quantized`` ``[N, C]``, the unit code words, and ``indices`` ``[N]`` int64.

    Raises:
        TypeError: For another dtype.
        ValueError: For another shape, an empty codebook, or different devices.

    Example:
        >>> import torch
        >>> quantized, indices = nearest_code(torch.tensor([[3.0, 0.1]]), torch.eye(2))
        >>> quantized, indices
        (tensor([[1., 0.]]), tensor([0]))
    """
    require_float_tensor("features", features)
    require_float_tensor("codebook", codebook)
    require_dimensions("features", features, 2)
    require_dimensions("codebook", codebook, 2)
    require_same_kind("codebook", codebook, "features", features)
    if codebook.shape[1] != features.shape[1] or codebook.shape[1] == 0:
        raise ValueError(
            f"codebook must have {features.shape[1]} columns as features has (at least 1), "
            f"got {codebook.shape[1]}"
        )
    if codebook.shape[0] == 0:
        raise ValueError("codebook must have at least one row")
    return torch.ops.genaccel.nearest_code.default(features.contiguous(), codebook.contiguous())


@torch.library.register_fake("genaccel::nearest_code")
def _nearest_code_fake(features: Tensor, codebook: Tensor) -> tuple[Tensor, Tensor]:
    return torch.empty_like(features), features.new_empty(features.shape[0], dtype=torch.int64)


@torch.library.register_fake("genaccel::nearest_code_backward")
def _nearest_code_backward_fake(grad: Tensor, features: Tensor) -> Tensor:
    return torch.empty_like(features)


def _setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: tuple[Tensor, Tensor]) -> None:
    ctx.save_for_backward(inputs[0])
    ctx.mark_non_differentiable(output[1])


def _backward(ctx: Any, grad: Tensor, _grad_indices: Tensor | None) -> tuple[Tensor, None]:
    (features,) = ctx.saved_tensors
    return torch.ops.genaccel.nearest_code_backward.default(grad.contiguous(), features), None


torch.library.register_autograd("genaccel::nearest_code", _backward, setup_context=_setup_context)
