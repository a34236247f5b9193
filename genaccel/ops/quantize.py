# SPDX-License-Identifier: Apache-2.0
"""Vector quantisation and its relaxed rate (RDVQ, arXiv 2604.10546, equations 3 to 7 and 12)."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from genaccel import _library
from genaccel.ops._validate import (
    require_dimensions,
    require_float_tensor,
    require_floating_tensor,
    require_same_kind,
    require_shape,
)

_library.load()

__all__ = ["nearest_code", "soft_cross_entropy"]


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
    _require_features_and_codebook(features, codebook)
    return torch.ops.genaccel.nearest_code.default(features.contiguous(), codebook.contiguous())


def _require_features_and_codebook(features: Tensor, codebook: Tensor) -> None:
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


def soft_cross_entropy(
    features: Tensor, codebook: Tensor, logits: Tensor, temperature: float
) -> tuple[Tensor, Tensor]:
    """Nearest code word of each row, and the differentiable rate of coding it with predicted probabilities.

    The rate is the cross-entropy ``-sum_k p log2 q`` between the relaxed assignment
    ``p = softmax(-|y - c|^2 / temperature)`` and the prediction ``q = softmax(logits)``. It has gradients to the
    features, ``2 / temperature * Cov_p(-log2 q, c)``, to the logits, ``(q - p) / ln 2``, and to the codebook. Both
    softmaxes are computed while the code words go by: no ``[N, K]`` tensor is stored besides the logits and, in the
    backward, their gradient. No second derivatives.

    As the temperature falls, the rate becomes that of the nearest code word, ``-log2 q`` at its index, and the
    gradients to features and codebook vanish where one code word takes all of ``p``. In float32 the rounding of a
    squared distance ``d`` changes ``p`` by ``1e-7 d / temperature``. Any positive temperature is safe from NaN, if the
    logits are finite.

    Args:
        features: ``[N, C]`` float32 or float64 of any length; the codec's are unit vectors, for which the index is
            that of ``nearest_code``, but for ties that only rounding decides.
        codebook: ``[K, C]``, K >= 1, of the same dtype and device.
        logits: ``[N, K]``, finite. float16, bfloat16 or float32 with float32 features, summed in float32; float64
            with float64 features.
        temperature: Of the relaxed assignment, above 0 and finite, in units of squared distance. RDVQ: 0.1 below
            0.025 bits per pixel, else 0.01.

    Returns:
        ``indices`` ``[N]`` int64, of the smallest squared distance, the lowest of equal ones; ``rate`` ``[N]`` in bits
        per token, of the dtype of the features.

    Raises:
        TypeError: For another dtype, or a temperature that is no number.
        ValueError: For another shape, an empty codebook, different devices, or a temperature out of range.

    Example:
        >>> import torch
        >>> logits = torch.tensor([[0.0, 0.0]])
        >>> soft_cross_entropy(torch.tensor([[0.9, 0.1]]), torch.eye(2), logits, temperature=0.1)
        (tensor([0]), tensor([1.]))
    """
    _require_features_and_codebook(features, codebook)
    require_floating_tensor("logits", logits)
    require_shape("logits", logits, (features.shape[0], codebook.shape[0]))
    if (features.dtype == torch.float64) != (logits.dtype == torch.float64):
        raise TypeError(
            f"logits must be float64 if and only if features is, got {logits.dtype} and {features.dtype}"
        )
    if logits.device != features.device:
        raise ValueError(f"logits must be on {features.device} as features is, got {logits.device}")
    if isinstance(temperature, bool) or not isinstance(temperature, int | float):
        raise TypeError(f"temperature must be a number, got {type(temperature).__name__}")
    if not 0 < temperature < math.inf:
        raise ValueError(f"temperature must be above 0 and finite, got {temperature}")
    rate, indices, _ = torch.ops.genaccel.soft_cross_entropy.default(
        features.contiguous(), codebook.contiguous(), logits.contiguous(), float(temperature)
    )
    return indices, rate


# In a row: best score, sum of the soft weights, largest logit, sum of exponentials, mean logit.
_STATISTICS = 5


@torch.library.register_fake("genaccel::soft_cross_entropy")
def _soft_cross_entropy_fake(
    features: Tensor, codebook: Tensor, logits: Tensor, temperature: float
) -> tuple[Tensor, Tensor, Tensor]:
    rows = features.shape[0]
    return (
        features.new_empty(rows),
        features.new_empty(rows, dtype=torch.int64),
        features.new_empty(rows, _STATISTICS),
    )


@torch.library.register_fake("genaccel::soft_cross_entropy_backward")
def _soft_cross_entropy_backward_fake(
    grad: Tensor,
    features: Tensor,
    codebook: Tensor,
    logits: Tensor,
    indices: Tensor,
    statistics: Tensor,
    temperature: float,
    with_features: bool,
    with_codebook: bool,
    with_logits: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    def like(tensor: Tensor, wanted: bool) -> Tensor:
        return torch.empty_like(tensor) if wanted else tensor.new_empty(0)

    return like(features, with_features), like(codebook, with_codebook), like(logits, with_logits)


def _setup_soft_context(
    ctx: Any, inputs: tuple[Tensor, Tensor, Tensor, float], output: tuple[Tensor, Tensor, Tensor]
) -> None:
    _, indices, statistics = output
    ctx.save_for_backward(*inputs[:3], indices, statistics)
    ctx.temperature = inputs[3]
    ctx.mark_non_differentiable(indices, statistics)


def _soft_backward(
    ctx: Any, grad: Tensor, _grad_indices: Tensor | None, _grad_statistics: Tensor | None
) -> tuple[Tensor | None, Tensor | None, Tensor | None, None]:
    wanted = ctx.needs_input_grad[:3]
    gradients = torch.ops.genaccel.soft_cross_entropy_backward.default(
        grad.contiguous(), *ctx.saved_tensors, ctx.temperature, *wanted
    )
    to_features, to_codebook, to_logits = (
        g if w else None for g, w in zip(gradients, wanted, strict=True)
    )
    return to_features, to_codebook, to_logits, None


torch.library.register_autograd(
    "genaccel::soft_cross_entropy", _soft_backward, setup_context=_setup_soft_context
)
