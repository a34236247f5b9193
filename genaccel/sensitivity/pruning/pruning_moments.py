# SPDX-License-Identifier: Apache-2.0
"""Errors of reusing and of partly recomputing feed-forwards, measured on unaccelerated runs.

E_c and E_p of SODA (arXiv:2603.07057, S1 and S2, algorithm 1): each fresh output is compared with
those of the last steps as they are, and with the last one after its best-scored tokens are made
fresh, for all rates at once.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable, Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from genaccel.hooks.clock import Tick
from genaccel.ops.tokens import token_scores
from genaccel.sensitivity.config import SensitivityConfig
from genaccel.sensitivity.measure.calibration_moments import relative_errors
from genaccel.sensitivity.pruning.pruning import (
    PruningConfig,
    partial_update_error,
    static_token_counts,
)

_TENSORS = ("reuse", "reuse_counts", "partial", "partial_counts")


class PruningMoments:
    """Errors of reused and partly recomputed feed-forwards, summed over samples and runs.

    Args:
        num_steps: Steps of the sampler, S.
        num_layers: Prunable blocks, L.
        max_interval: Largest age, K.
        rates: Recomputed fractions, R of them, ascending.
    """

    def __init__(
        self, *, num_steps: int, num_layers: int, max_interval: int, rates: tuple[float, ...]
    ) -> None:
        self.rates = rates
        self.num_steps = num_steps
        self._reuse = torch.zeros(num_steps, max_interval, num_layers, dtype=torch.float64)
        self._reuse_counts = torch.zeros_like(self._reuse)
        self._partial = torch.zeros(num_steps, num_layers, len(rates), dtype=torch.float64)
        self._partial_counts = torch.zeros_like(self._partial)
        self._rings: dict[tuple[int, Hashable], deque[Tensor]] = {}

    def start_generation(self) -> None:
        """Forget past outputs, before another prompt begins."""
        self._rings.clear()

    @torch.no_grad()
    def observe(
        self, step: int, layer: int, scores: Tensor, output: Tensor, *, stream: Hashable = None
    ) -> None:
        """Take the output of a feed-forward.

        Args:
            step: Index of the sampler's step.
            layer: Index of the layer, below ``num_layers``.
            scores: Importance of the tokens, ``[B, N]``; high scores would be computed first.
            output: Output of the feed-forward, ``[B, N, C]``.
            stream: Tells calls of the same step apart.
        """
        key = (layer, stream)
        ring = self._rings.setdefault(key, deque(maxlen=self._reuse.shape[1]))
        fresh = output.detach().float()
        for age, cached in enumerate(reversed(ring), start=1):
            error = relative_errors(cached.float().flatten(1), fresh.flatten(1))[0]
            self._reuse[step, age - 1, layer] += float(error.sum())
            self._reuse_counts[step, age - 1, layer] += len(error)
        if ring:
            counts = [
                static_token_counts(fresh.shape[1], (rate,), multiple=1)[0] for rate in self.rates
            ]
            errors = partial_update_error(fresh, ring[-1].float(), scores, counts)  # [B, R]
            self._partial[step, layer] += errors.sum(0).cpu()
            self._partial_counts[step, layer] += len(errors)
        ring.append(output.detach().clone())

    def reuse_errors(self) -> NDArray[np.float64]:
        """E_c, mean one minus cosine, ``[S, K, L]``; NaN where not measured."""
        counts = self._reuse_counts
        return (self._reuse / torch.where(counts > 0, counts, torch.nan)).numpy()

    def partial_errors(self) -> NDArray[np.float64]:
        """E_p at age 1, ``[S, L, R]``; NaN where not measured."""
        counts = self._partial_counts
        return (self._partial / torch.where(counts > 0, counts, torch.nan)).numpy()

    def merge(self, other: PruningMoments) -> None:
        """Add the sums of another run over other prompts."""
        self.add(other.state_dict())

    def add(self, state: Mapping[str, Tensor]) -> None:
        """Add the sums of :meth:`state_dict` of other runs.

        Raises:
            ValueError: If they are of other sizes, or incomplete.
        """
        kept = self.state_dict()
        self.load_state_dict(state)
        for name, sums in kept.items():
            setattr(self, f"_{name}", getattr(self, f"_{name}") + sums)

    def state_dict(self) -> dict[str, Tensor]:
        """Copies of the sums, without past outputs."""
        return {name: getattr(self, f"_{name}").clone() for name in _TENSORS}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Replace the sums.

        Raises:
            ValueError: If they are of other sizes, or incomplete.
        """
        for name in _TENSORS:
            if name not in state or state[name].shape != getattr(self, f"_{name}").shape:
                raise ValueError(f"pruning state has no {name} of the right size")
        for name in _TENSORS:
            setattr(self, f"_{name}", state[name].to("cpu", torch.float64, copy=True))
        self._rings.clear()


class FeedForwardObserver:
    """Scores the tokens of observed feed-forwards as partial steps would, and measures.

    Args:
        config: Config of the method; its ``token_score`` and ``max_interval`` count.
    """

    def __init__(self, config: SensitivityConfig) -> None:
        self.config = config
        self.moments: PruningMoments | None = None
        self._inputs: dict[tuple[int, int], Tensor] = {}  # layer, call of the step -> last input

    def called(
        self, tick: Tick, layer: int, num_layers: int, states: Tensor, output: Tensor
    ) -> None:
        """Take a feed-forward's input and output, ``[B, N, C]``."""
        if self.moments is None or self.moments.num_steps != tick.num_steps:
            self.moments = PruningMoments(
                num_steps=tick.num_steps,
                num_layers=num_layers,
                max_interval=min(self.config.max_interval, max(1, tick.num_steps - 1)),
                rates=PruningConfig().rates,
            )
        scores = self._scores((layer, tick.call), tick.step, states)
        self.moments.observe(tick.step, layer, scores, output, stream=tick.call)

    def _scores(self, key: tuple[int, int], step: int, states: Tensor) -> Tensor:
        if self.config.planner.token_score == "random":
            generator = torch.Generator().manual_seed(step * 1009 + key[0])
            return torch.rand(states.shape[:2], generator=generator).to(states.device)
        states = states.detach().contiguous()
        last = self._inputs.get(key)
        if self.config.planner.token_score == "drift":
            self._inputs[key] = states.clone()
            if last is not None and last.shape == states.shape:
                return token_scores(states, "drift", last)
        return token_scores(states, "mean")
