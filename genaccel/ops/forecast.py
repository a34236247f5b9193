# SPDX-License-Identifier: Apache-2.0
"""Forecasts of skipped modules (SODA, arXiv:2603.07057; TaylorSeer, arXiv:2503.06923)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from genaccel import _library
from genaccel.ops._validate import (
    require_floating_tensor,
    require_no_gradient,
    require_same_kind,
    require_shape,
)

_library.load()

__all__ = ["predict_add"]

MAX_HISTORY = 128


def predict_add(
    bases: Sequence[Tensor] | None,
    history: Sequence[Tensor],
    coefficients: Sequence[float],
    offsets: Sequence[float],
) -> list[Tensor]:
    """Weighted sums of cached tensors, for many modules in one call.

    For each of T tensors, ``out[t] = bases[t] + offsets[t] + sum_h coefficients[t, h] * history[t, h]``. What the
    forecasters of :mod:`genaccel.sensitivity.run.forecast` say, for all modules of a step at once; or, with T = 1, a whole
    run of reused blocks. Each tensor is read once; sums are float32 (float64 for float64) and rounded once. On a GPU
    it is one launch for up to 60 tensors (48 of float64) and 128 history tensors in all, otherwise as few as needed.
    For inference: it has no gradient, and tensors that want one are refused.

    Args:
        bases: T tensors of any shape: float16, bfloat16, float32 or float64, all of one dtype and device. None, or an
            empty list, for zeros.
        history: ``T * H`` tensors, H at most 128, those of the first result first; shaped as its base is.
        coefficients: ``T * H`` numbers. A tensor whose coefficient is 0 is not read: its NaN do not count.
        offsets: T numbers.

    Returns:
        T new tensors.

    Raises:
        TypeError: For another dtype, or more than one.
        ValueError: For lists whose lengths do not fit, neither base nor history, different shapes or devices, or a
            gradient wanted.

    Example:
        >>> import torch
        >>> new, old = torch.tensor([3.0, 5.0]), torch.tensor([2.0, 1.0])
        >>> predict_add([torch.ones(2)], [new, old], [1.5, -0.5], [0.25])
        [tensor([4.7500, 8.2500])]
    """
    bases = [] if bases is None else list(bases)
    history = list(history)
    weights, constants = [float(c) for c in coefficients], [float(o) for o in offsets]
    count = len(constants)
    if bases and len(bases) != count:
        raise ValueError(
            f"bases must have {count} tensors as there are offsets, or none, got {len(bases)}"
        )
    if count == 0 and not history and not weights:
        return []
    if count == 0 or len(history) % count != 0:
        raise ValueError(
            f"history must have a multiple of {count} tensors, the number of offsets, got {len(history)}"
        )
    if len(weights) != len(history):
        raise ValueError(
            f"coefficients must have {len(history)} numbers as history has tensors, got {len(weights)}"
        )
    terms = len(history) // count
    if terms > MAX_HISTORY:
        raise ValueError(f"history must have at most {MAX_HISTORY} tensors for each, got {terms}")
    if not bases and terms == 0:
        raise ValueError("bases or history must be given")
    first = bases[0] if bases else history[0]
    require_floating_tensor("bases[0]" if bases else "history[0]", first)
    dtype, device, wants_gradients = first.dtype, first.device, torch.is_grad_enabled()
    for t in range(count):
        like = bases[t] if bases else history[t * terms]
        shape = like.shape if isinstance(like, Tensor) else None
        for tensor in (*bases[t : t + 1], *history[t * terms : (t + 1) * terms]):
            # Hundreds of tensors a call: names are put together only for messages.
            if (
                not isinstance(tensor, Tensor)
                or tensor.dtype is not dtype
                or tensor.device != device
                or tensor.shape != shape
                or (wants_gradients and tensor.requires_grad)
            ):
                _raise_unlike(bases, history, t, terms)
    return torch.ops.genaccel.predict_add.default(
        [base if base.is_contiguous() else base.contiguous() for base in bases],
        [tensor if tensor.is_contiguous() else tensor.contiguous() for tensor in history],
        weights,
        constants,
    )


@torch.library.register_fake("genaccel::predict_add")
def _predict_add_fake(
    bases: list[Tensor], history: list[Tensor], coefficients: list[float], offsets: list[float]
) -> list[Tensor]:
    like = bases or history[:: len(history) // len(offsets)]
    return [torch.empty_like(tensor) for tensor in like]


def _raise_unlike(bases: list[Tensor], history: list[Tensor], t: int, terms: int) -> None:
    """Raise for the first tensor of the t-th result that is not as it should be."""
    first = bases[0] if bases else history[0]
    like = bases[t] if bases else history[t * terms]
    named = [(f"bases[{t}]", bases[t])] if bases else []
    named += [(f"history[{i}]", history[i]) for i in range(t * terms, (t + 1) * terms)]
    for name, value in named:
        require_floating_tensor(name, value)
        require_same_kind(name, value, "the first tensor", first)
        require_shape(name, value, like.shape)
        require_no_gradient("predict_add", **{name: value})
