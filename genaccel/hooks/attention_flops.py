# SPDX-License-Identifier: Apache-2.0
"""FLOPs of scaled dot-product attention, whichever of torch's kernels computes it.

torch registers formulas for some kernels and not for others, and which ones differs by version: 2.14 has none for the
CPU's flash attention. What an image costs may not depend on that, so the formulas of attention are here. As torch's, they
count the products densely: a mask, causal or not, saves nothing.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from torch import Tensor

# Of the products of one attention: batch * heads, queries, keys, channels of query and key, channels of value.
_Sizes = tuple[int, int, int, int, int]


def attention_flops(name: str, arguments: Sequence[Any]) -> int | None:
    """FLOPs of a call of an attention kernel.

    Args:
        name: Of the operator, with its namespace and without its overload: ``"aten::_flash_attention_forward"``;
            of a higher-order operator, its plain name.
        arguments: In the order of the operator's schema, up to the last one that has no default.

    Returns:
        Two per multiply-add, or None if it is no attention kernel.

    Example:
        >>> import torch
        >>> x = torch.ones(1, 2, 5, 4)  # [B, H, N, D]
        >>> attention_flops("aten::_scaled_dot_product_flash_attention", (x, x, x))
        800
    """
    formula = _FORMULAS.get(name)
    return None if formula is None else formula(arguments)


def _forward(sizes: _Sizes) -> int:
    """Scores and their product with the values."""
    groups, queries, keys, channels, value_channels = sizes
    return 2 * groups * queries * keys * (channels + value_channels)


def _backward(sizes: _Sizes) -> int:
    """The scores once more, and of each of the two products two that give its factors their gradients."""
    groups, queries, keys, channels, value_channels = sizes
    return 2 * groups * queries * keys * (3 * channels + 2 * value_channels)


def _heads_first(query: Tensor, key: Tensor, value: Tensor) -> _Sizes:
    """Sizes for tensors ``[..., H, N, D]``; the heads of key and value may be fewer, each then serves several of the query."""
    *groups, queries, channels = query.shape
    return math.prod(groups), queries, key.shape[-2], channels, value.shape[-1]


def _heads_last(query: Tensor, key: Tensor, value: Tensor) -> _Sizes:
    """Sizes for tensors ``[B, N, H, D]``."""
    batch, queries, heads, channels = query.shape
    return batch * heads, queries, key.shape[1], channels, value.shape[-1]


def _packed(
    query: Tensor, key: Tensor, value: Tensor, query_starts: Tensor, key_starts: Tensor | None
) -> Iterator[_Sizes]:
    """Sizes for packed sequences ``[sum of N, H, D]``, given the start of each and the end of the last."""
    heads, channels = query.shape[-2:]
    query_lengths = query_starts.diff().tolist()
    key_lengths = query_lengths if key_starts is None else key_starts.diff().tolist()
    for queries, keys in zip(query_lengths, key_lengths, strict=True):
        yield heads, queries, keys, channels, value.shape[-1]


def _of_heads_first(flops: Callable[[_Sizes], int], first: int) -> Callable[[Sequence[Any]], int]:
    """Formula of an operator whose query, key and value are the arguments from ``first`` on."""
    return lambda arguments: flops(_heads_first(*arguments[first : first + 3]))


def _maybe_packed(
    flops: Callable[[_Sizes], int],
    dense: Callable[[Tensor, Tensor, Tensor], _Sizes],
    first: int,
    starts: int,
) -> Callable[[Sequence[Any]], int]:
    """The same where the arguments from ``starts`` on say how sequences are packed, or are None."""

    def formula(arguments: Sequence[Any]) -> int:
        query, key, value = arguments[first : first + 3]
        query_starts, key_starts = arguments[starts : starts + 2]
        if query_starts is None:
            return flops(dense(query, key, value))
        return sum(flops(sizes) for sizes in _packed(query, key, value, query_starts, key_starts))

    return formula


def _multi_head_attention(arguments: Sequence[Any]) -> int:
    """FLOPs of a whole ``nn.MultiheadAttention`` in evaluation mode: both projections, and attention between them."""
    query, key, _, width, heads = arguments[:5]
    lengths = _lengths(query)
    attention = 0
    for queries, keys in zip(lengths, _lengths(key), strict=True):
        attention += _forward((heads, queries, keys, width // heads, width // heads))
        attention += 2 * width * width * (2 * queries + 2 * keys)
    return attention


def _encoder_layer(arguments: Sequence[Any]) -> int:
    """FLOPs of a whole ``nn.TransformerEncoderLayer`` in evaluation mode: attention and feed-forward layers."""
    source, width, heads = arguments[:3]
    first, second = arguments[14], arguments[16]
    feed_forward = 2 * sum(_lengths(source)) * (first.numel() + second.numel())
    return _multi_head_attention((source, source, source, width, heads)) + feed_forward


def _lengths(x: Tensor) -> list[int]:
    """Tokens of each sequence of ``[B, N, D]``, which may be nested."""
    if x.is_nested:
        lengths: list[int] = x._nested_tensor_size()[:, 0].tolist()
        return lengths
    return [x.shape[1]] * x.shape[0]


_HEADS_FIRST = (
    "aten::_scaled_dot_product_flash_attention",
    "aten::_scaled_dot_product_flash_attention_for_cpu",
    "aten::_scaled_dot_product_efficient_attention",
    "aten::_scaled_dot_product_cudnn_attention",
    "aten::_scaled_dot_product_fused_attention_overrideable",
)
_FORMULAS: dict[str, Callable[[Sequence[Any]], int]] = {
    **{name: _of_heads_first(_forward, 0) for name in _HEADS_FIRST},
    **{f"{name}_backward": _of_heads_first(_backward, 1) for name in _HEADS_FIRST},
    # Its gradient is that of plain operators.
    "aten::_scaled_dot_product_attention_math_for_mps": _of_heads_first(_forward, 0),
    "aten::_triton_scaled_dot_attention": _of_heads_first(_forward, 0),
    "flex_attention": _of_heads_first(_forward, 0),
    "flex_attention_backward": _of_heads_first(_backward, 0),
    # What the kernels above are made of, and what nested tensors call at once.
    "aten::_flash_attention_forward": _maybe_packed(_forward, _heads_last, 0, 3),
    "aten::_flash_attention_forward_no_dropout_inplace": _maybe_packed(_forward, _heads_last, 1, 4),
    "aten::_flash_attention_backward": _maybe_packed(_backward, _heads_last, 1, 6),
    "aten::_efficient_attention_forward": _maybe_packed(_forward, _heads_last, 0, 4),
    "aten::_efficient_attention_backward": _maybe_packed(_backward, _heads_last, 1, 6),
    "aten::_cudnn_attention_forward": _maybe_packed(_forward, _heads_first, 0, 4),
    "aten::_cudnn_attention_forward_no_dropout_inplace": _maybe_packed(
        _forward, _heads_first, 1, 4
    ),
    "aten::_cudnn_attention_backward": _maybe_packed(_backward, _heads_first, 1, 9),
    "aten::_native_multi_head_attention": _multi_head_attention,
    "aten::_triton_multi_head_attention": _multi_head_attention,
    "aten::_transformer_encoder_layer_fwd": _encoder_layer,
}
