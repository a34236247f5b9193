# SPDX-License-Identifier: Apache-2.0
"""Sorts calls of a model into kinds by their arguments: their shapes, residuals, caches, skipped layers.

In calls of one kind, as far as arguments tell, blocks are called in the same order and their states
flow in the same way. Numbers that change from step to step do not count.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from genaccel.hooks.blocks import Parameters

# Longer lists of numbers are data.
_LONGEST_LIST = 64


def call_kind(parameters: Parameters, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Hashable:
    """The kind of a call, as a key.

    Args:
        parameters: Parameters of the model, so that keyword and positional arguments are one.
        args: Positional arguments of the call.
        kwargs: Keyword arguments of the call.

    Example:
        >>> from torch import zeros
        >>> model = nn.Linear(2, 2)
        >>> call_kind(Parameters(model), (zeros(1, 2),), {}) == call_kind(
        ...     Parameters(model), (), {"input": zeros(1, 2)}
        ... )
        True
    """
    named = {**dict(zip(parameters.names, args, strict=False)), **kwargs}
    rest = tuple(_kind(value) for value in args[len(parameters.names) :])
    return (
        tuple((name, _kind(named[name])) for name in sorted(named) if named[name] is not None),
        rest,
    )


def first_states_shape(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> tuple[int, ...]:
    """Shape of the first floating-point tensor of more than two dimensions; empty without one."""
    for value in tree_leaves((args, dict(kwargs))):
        if isinstance(value, Tensor) and value.is_floating_point() and value.ndim > 2:
            return tuple(value.shape)
    return ()


def first_tensor(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Tensor | None:
    """The first tensor that a call takes, on its own or in a list."""
    leaves = tree_leaves((args, dict(kwargs)))
    return next((value for value in leaves if isinstance(value, Tensor)), None)


def _kind(value: Any) -> Hashable:
    if isinstance(value, Tensor):
        return (tuple(value.shape), value.dtype, value.device)
    if value is None or isinstance(value, bool | str):
        return value
    if isinstance(value, int | float | complex):
        return type(value).__name__
    if isinstance(value, Mapping):
        return tuple((str(key), _kind(value[key])) for key in sorted(value, key=str))
    if isinstance(value, list | tuple | set | frozenset):
        # Numbers in lists name blocks, such as those to be skipped.
        if len(value) <= _LONGEST_LIST and all(isinstance(item, int) for item in value):
            return (type(value).__name__, tuple(value))
        return (type(value).__name__, tuple(_kind(item) for item in value))
    if isinstance(value, nn.Module):
        return (type(value).__name__, id(value))
    return type(value).__name__
