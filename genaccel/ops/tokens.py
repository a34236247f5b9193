# SPDX-License-Identifier: Apache-2.0
"""Partial updates of cached transformer blocks (SODA, arXiv:2603.07057, section on token pruning).

At a step that reuses the cached output of a module, the tokens that matter most are computed anew: score them,
select some, normalise these rows, run the module on them, write them into the cache, and add the gated cache to the
residual stream. These operators are for inference: none has a gradient, and tensors that want one are refused.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from genaccel import _library
from genaccel.ops._validate import (
    require_dimensions,
    require_dtype,
    require_floating_tensor,
    require_int,
    require_no_gradient,
    require_same_kind,
    require_shape,
)

_library.load()


def select_tokens(score: Tensor, k: int, groups: int = 1) -> Tensor:
    """Indices of the k largest scores of each row, ascending; among equal scores the lowest index first.

    The result is the same on every device and with any number of threads.

    Args:
        score: ``[B, N]`` float32. NaN counts as larger than all, as where torch sorts.
        k: Tokens to select, 0 to N.
        groups: Parts of the batch that share their tokens, such as the 2 halves of classifier-free guidance: the
            scores of rows ``b``, ``b + B / groups``, ... are summed, and all of them get the same indices.

    Returns:
        int64 ``[B, k]``.

    Raises:
        TypeError: For another dtype, or a number that is no int.
        ValueError: For another shape, ``k`` out of range, or ``groups`` that do not divide B.

    Example:
        >>> import torch
        >>> select_tokens(torch.tensor([[0.1, 0.7, 0.7, 0.2, 0.7]]), 2)
        tensor([[1, 2]])
        >>> select_tokens(torch.tensor([[3.0, 0.0, 2.0], [0.0, 4.0, 3.0]]), 1, groups=2)
        tensor([[2],
                [2]])
    """
    require_dtype("score", score, torch.float32)
    require_dimensions("score", score, 2)
    require_int("k", k)
    require_int("groups", groups)
    if not 0 <= k <= score.shape[1]:
        raise ValueError(f"k must be in [0, {score.shape[1]}], the number of tokens, got {k}")
    if groups < 1 or score.shape[0] % groups != 0:
        raise ValueError(
            f"groups must be at least 1 and divide the batch of {score.shape[0]}, got {groups}"
        )
    return torch.ops.genaccel.select_tokens.default(score.detach().contiguous(), k, groups)


@torch.library.register_fake("genaccel::select_tokens")
def _select_tokens_fake(score: Tensor, k: int, groups: int) -> Tensor:
    return score.new_empty(score.shape[0], k, dtype=torch.int64)


def token_scores(
    x: Tensor, kind: Literal["mean", "drift"] = "mean", reference: Tensor | None = None
) -> Tensor:
    """How much each token matters, in one pass over the features.

    "mean" is ``|mean_c x|``, the importance of SODA; "drift" is ``|mean_c (x - reference)|``, the change of it since
    another step.

    Args:
        x: ``[B, N, C]``, C at least 1; float16, bfloat16, float32 or float64. Sums are float32, float64 for float64.
        kind: "mean", or "drift", which needs ``reference``.
        reference: ``[B, N, C]`` of the same dtype and device: the features of the other step.

    Returns:
        float32 ``[B, N]``.

    Raises:
        TypeError: For another dtype.
        ValueError: For another shape, device or kind, a reference too many or too few, or a gradient wanted.

    Example:
        >>> import torch
        >>> token_scores(torch.tensor([[[1.0, -4.0], [2.0, 2.0]]]))
        tensor([[1.5000, 2.0000]])
    """
    require_floating_tensor("x", x)
    require_dimensions("x", x, 3)
    if x.shape[2] == 0:
        raise ValueError("x must have at least one channel")
    if kind not in ("mean", "drift"):
        raise ValueError(f'kind must be "mean" or "drift", got {kind!r}')
    if (kind == "drift") != (reference is not None):
        raise ValueError('reference must be given for kind "drift", and for that alone')
    require_no_gradient("token_scores", x=x)
    if reference is not None:
        require_floating_tensor("reference", reference)
        require_same_kind("reference", reference, "x", x)
        require_shape("reference", reference, x.shape)
        require_no_gradient("token_scores", reference=reference)
        reference = reference.contiguous()
    return torch.ops.genaccel.token_scores.default(x.contiguous(), reference)


@torch.library.register_fake("genaccel::token_scores")
def _token_scores_fake(x: Tensor, reference: Tensor | None) -> Tensor:
    return x.new_empty(x.shape[:2], dtype=torch.float32)


def gather_norm_modulate(
    x: Tensor, index: Tensor, shift: Tensor, scale: Tensor, eps: float = 1e-6
) -> Tensor:
    """Selected tokens through the adaptive layer normalisation of a DiT block.

    ``out[b, j] = layer_norm(x[b, index[b, j]]) * (1 + scale[b]) + shift[b]``: only the selected rows are read, once,
    and rounding happens once, at the end.

    Args:
        x: ``[B, N, C]``, C at least 1; float16, bfloat16, float32 or float64.
        index: int64 ``[B, k]``, from 0 to N - 1 in any order, as from :func:`select_tokens`.
        shift: ``[B, C]`` or ``[B, 1, C]`` of the dtype and device of x. Chunks of a wider matrix are not copied.
        scale: The same.
        eps: Added to the variance, positive.

    Returns:
        ``[B, k, C]``.

    Raises:
        TypeError: For another dtype.
        ValueError: For another shape or device, ``eps`` not positive, or a gradient wanted.
        RuntimeError: For an index out of range, on the CPU. On a GPU its row is NaN, for looking would stall it.

    Example:
        >>> import torch
        >>> x = torch.tensor([[[5.0, 5.0], [1.0, 3.0]]])
        >>> gather_norm_modulate(x, torch.tensor([[1]]), torch.zeros(1, 2), torch.ones(1, 2))
        tensor([[[-2.0000,  2.0000]]])
    """
    require_floating_tensor("x", x)
    require_dimensions("x", x, 3)
    if x.shape[2] == 0:
        raise ValueError("x must have at least one channel")
    _require_index(index, "x", x)
    if not eps > 0:
        raise ValueError(f"eps must be positive, got {eps}")
    shift = _modulation("shift", shift, "x", x)
    scale = _modulation("scale", scale, "x", x)
    require_no_gradient("gather_norm_modulate", x=x, shift=shift, scale=scale)
    return torch.ops.genaccel.gather_norm_modulate.default(
        x.contiguous(), index.contiguous(), shift, scale, eps
    )


@torch.library.register_fake("genaccel::gather_norm_modulate")
def _gather_norm_modulate_fake(
    x: Tensor, index: Tensor, shift: Tensor, scale: Tensor, eps: float
) -> Tensor:
    return x.new_empty(x.shape[0], index.shape[1], x.shape[2])


def scatter_gated_residual(
    residual: Tensor, cache: Tensor, rows: Tensor, index: Tensor, gate: Tensor
) -> Tensor:
    """Fresh rows into the cache, and the gated cache onto the residual stream.

    ``cache[b, index[b, j]] = rows[b, j]``, **in place**; the result is ``residual + gate * cache``. In place, most of
    the cache is read and not written: ``(3 N + k) B C`` elements are moved, against ``4 B N C`` for a new cache and
    ``(5 N + 2 k) B C`` for scatter, product and sum one by one.

    Args:
        residual: ``[B, N, C]``; float16, bfloat16, float32 or float64.
        cache: Output of the module at an earlier step, of the same shape, dtype and device; dense, for it is written.
        rows: ``[B, k, C]``, the module's output for the selected tokens.
        index: int64 ``[B, k]``, from 0 to N - 1 in any order. Of equal indices the last counts.
        gate: ``[B, C]`` or ``[B, 1, C]``. Chunks of a wider matrix are not copied.

    Returns:
        The new residual, ``[B, N, C]``.

    Raises:
        TypeError: For another dtype.
        ValueError: For another shape or device, a cache that is not contiguous or is another argument, or a gradient
            wanted.
        RuntimeError: For an index out of range, on the CPU. On a GPU its row is dropped, for looking would stall it.

    Example:
        >>> import torch
        >>> cache = torch.zeros(1, 2, 1)
        >>> rows, index, gate = torch.tensor([[[3.0]]]), torch.tensor([[1]]), torch.tensor([[2.0]])
        >>> scatter_gated_residual(torch.ones(1, 2, 1), cache, rows, index, gate).flatten()
        tensor([1., 7.])
        >>> cache.flatten()
        tensor([0., 3.])
    """
    require_floating_tensor("residual", residual)
    require_dimensions("residual", residual, 3)
    for name, value in (("cache", cache), ("rows", rows)):
        require_floating_tensor(name, value)
        require_same_kind(name, value, "residual", residual)
    require_shape("cache", cache, residual.shape)
    if not cache.is_contiguous():
        raise ValueError(f"cache must be contiguous, got strides {cache.stride()}")
    if cache is residual or cache is rows:
        raise ValueError("cache is written, and must be no other argument")
    _require_index(index, "residual", residual)
    require_shape("rows", rows, (residual.shape[0], index.shape[1], residual.shape[2]))
    gate = _modulation("gate", gate, "residual", residual)
    require_no_gradient(
        "scatter_gated_residual", residual=residual, cache=cache, rows=rows, gate=gate
    )
    return torch.ops.genaccel.scatter_gated_residual.default(
        residual.contiguous(), cache, rows.contiguous(), index.contiguous(), gate
    )


@torch.library.register_fake("genaccel::scatter_gated_residual")
def _scatter_gated_residual_fake(
    residual: Tensor, cache: Tensor, rows: Tensor, index: Tensor, gate: Tensor
) -> Tensor:
    return torch.empty_like(residual)


def _require_index(index: Tensor, name: str, tensor: Tensor) -> None:
    """Raise unless ``index`` is int64 ``[B, k]`` on the device of ``tensor`` ``[B, N, C]``."""
    require_dtype("index", index, torch.int64)
    require_dimensions("index", index, 2)
    if index.shape[0] != tensor.shape[0]:
        raise ValueError(
            f"index must have {tensor.shape[0]} rows as {name} has samples, got {index.shape[0]}"
        )
    if index.device != tensor.device:
        raise ValueError(f"index must be on {tensor.device} as {name} is, got {index.device}")


def _modulation(name: str, value: Tensor, other_name: str, other: Tensor) -> Tensor:
    """``value`` as ``[B, C]`` with dense rows, copied only if they are not."""
    require_floating_tensor(name, value)
    require_same_kind(name, value, other_name, other)
    batch, _, channels = other.shape
    if value.shape == (batch, 1, channels):
        value = value.squeeze(1)
    elif value.shape != (batch, channels):
        raise ValueError(
            f"{name} must have shape {(batch, channels)} or {(batch, 1, channels)}, got {tuple(value.shape)}"
        )
    return value if value.stride(1) == 1 else value.contiguous()
