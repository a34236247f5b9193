# SPDX-License-Identifier: Apache-2.0
"""Many forecasts at once: one launch for all tensors of a kind, whatever their shapes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from genaccel.ops.forecast import predict_add


@dataclass(frozen=True, slots=True, eq=False)
class ForecastRequest:
    """A linear forecast of one tensor.

    Attributes:
        history: Past tensors of one shape, the newest first.
        weights: One for each tensor.
        offset: Added to every element.
    """

    history: Sequence[Tensor]
    weights: Sequence[float]
    offset: float = 0.0


def make_forecasts(requests: Sequence[ForecastRequest]) -> list[Tensor]:
    """Compute the weighted sum of each request; plain reuse returns the very tensor of the history.

    Example:
        >>> newest, older = torch.ones(2), torch.zeros(2)
        >>> make_forecasts([ForecastRequest((newest, older), (2.0, -1.0))])
        [tensor([2., 2.])]
    """
    made = [request.history[0] for request in requests]
    kinds: dict[tuple[int, torch.dtype, torch.device], list[int]] = {}
    for i, request in enumerate(requests):
        if tuple(request.weights) != (1.0,) or request.offset != 0.0:
            newest = request.history[0]
            kinds.setdefault((len(request.weights), newest.dtype, newest.device), []).append(i)
    for (count, _, _), places in kinds.items():
        results = predict_add(
            [],
            [requests[i].history[h] for i in places for h in range(count)],
            [w for i in places for w in requests[i].weights],
            [requests[i].offset for i in places],
        )
        for i, tensor in zip(places, results, strict=True):
            made[i] = tensor
    return made
