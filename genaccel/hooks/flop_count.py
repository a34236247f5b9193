# SPDX-License-Identifier: Apache-2.0
"""Counts the FLOPs of a call."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch._ops import HigherOrderOperator
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from genaccel.hooks.attention_flops import attention_flops


class FlopCount(TorchDispatchMode):
    """FLOPs of matrix products, convolutions and attention within the ``with``.

    Products and convolutions by torch's formulas, attention by our own: torch has them for some of its kernels only.
    Its ``FlopCounterMode`` also attributes FLOPs to modules, for which it hooks into autograd; that fails in models
    that switch gradients on and off.

    Example:
        >>> import torch
        >>> with FlopCount() as count:
        ...     _ = torch.ones(2, 3) @ torch.ones(3, 4)
        >>> count.total
        48
    """

    # flex_attention is one; without this it would raise.
    supports_higher_order_operators = True

    def __init__(self) -> None:
        super().__init__()
        self.total = 0

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: Any = (), kwargs: Any = None
    ) -> Any:
        """Run an operator and add what it costs."""
        kwargs = kwargs or {}
        if isinstance(func, HigherOrderOperator):
            name, key = func.name(), func
        else:
            name, key = func._schema.name, func._overloadpacket
        flops = _counted(attention_flops, name, args)
        formula = flop_registry.get(key)
        if flops is None and formula is None and key is not func:
            # Composite operators reach the dispatcher whole under inference mode.
            with self:
                result = func.decompose(*args, **kwargs)
            if result is not NotImplemented:
                return result
        result = func(*args, **kwargs)
        if flops is None and formula is not None:
            flops = _counted(formula, *args, **kwargs, out_val=result)
        self.total += int(flops or 0)
        return result


def _counted(formula: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """The FLOPs that a formula gives; None where it can't handle the arguments, which must not fail the call."""
    try:
        return formula(*args, **kwargs)
    except Exception:
        return None
