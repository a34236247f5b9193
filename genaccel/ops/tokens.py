# SPDX-License-Identifier: Apache-2.0
"""Which tokens of a cached transformer block to compute anew (SODA, arXiv:2603.07057, section on token pruning).

At a step that reuses the cached output of a module, those that matter most are computed: score all, select some. These
operators are for inference: none has a gradient, and :func:`token_scores` refuses tensors that want one.
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

__all__ = ["select_tokens", "token_scores"]


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
