# SPDX-License-Identifier: Apache-2.0
"""Chooses how many tokens to recompute at reused steps: UAS of SODA, arXiv:2603.07057.

The paper's rate alpha is read both ways, as dropped and as computed. Here a rate ``r`` is always
the **recomputed fraction** of the tokens: 0 is plain reuse, 1 the full submodule (S7). Steps count up,
as in :mod:`genaccel.sensitivity.planning.schedule`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

# Halvings of an interval of length 1: below the spacing of float64 rates that could matter.
_BISECTIONS = 50


@dataclass(frozen=True, kw_only=True, slots=True)
class PruningConfig:
    """Settings of the rule by which recomputed fractions follow from measured errors.

    Args:
        timing: Which reuse error stands for the sensitivity of a step (S6, S7). "look_ahead", as
            printed, is that of the next step at an age one higher; "same_step" is the step's own.
            The last step, and ages that were not measured, use their own in both.
        rate_slope: Slope of the rate law, relative: ``r = base (1 + rate_slope e / mean(e))``.
        rates: Recomputed fractions that may occur besides 0, ascending; the last is the clip of
            (S7).
        token_multiple: Token counts are rounded up to multiples of it, for the tiles of matrix
            products.
    """

    timing: Literal["look_ahead", "same_step"] = "look_ahead"
    rate_slope: float = 0.5
    rates: tuple[float, ...] = (0.05, 0.1, 0.15, 0.2, 0.3, 0.5)
    token_multiple: int = 16

    def __post_init__(self) -> None:
        if self.timing not in ("look_ahead", "same_step"):
            raise ValueError(f'timing must be "look_ahead" or "same_step", got {self.timing!r}')
        if not 0 <= self.rate_slope < math.inf:
            raise ValueError(f"rate_slope must be finite and not negative, got {self.rate_slope}")
        _check_rates(self.rates)
        if self.token_multiple < 1:
            raise ValueError(f"token_multiple must be at least 1, got {self.token_multiple}")


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class PruningPlan:
    """Tokens to compute at every step.

    Attributes:
        token_counts: ``[S, L, M]``, int32: all tokens where the layer is computed, 0 for plain
            reuse.
        base_rate: Base of the rate law that the bisection found (beta_r).
        recompute_flops: FLOPs spent at reused steps.
        expected_error: Sum of the measured errors at reused steps.
    """

    token_counts: NDArray[np.int32]
    base_rate: float
    recompute_flops: float
    expected_error: float


def static_token_counts(
    num_tokens: int, rates: Sequence[float], multiple: int = 16
) -> tuple[int, ...]:
    """The few shapes that partial submodules run at, ascending and without 0.

    Example:
        >>> static_token_counts(256, (0.05, 0.1, 0.5))
        (16, 32, 128)
    """
    _check_rates(rates)
    # A hair less before rounding up: 0.15 * 320 is 48, not what follows it.
    counts = {math.ceil(r * num_tokens / multiple - 1e-9) * multiple for r in rates}
    return tuple(sorted(min(c, num_tokens) for c in counts if c - multiple < num_tokens))


def plan_pruning(
    pruning_error: ArrayLike,
    reuse_error: ArrayLike,
    *,
    rates: Sequence[float],
    computed: ArrayLike,
    num_tokens: int,
    submodule_flops: ArrayLike,
    recompute_flops: float,
    prunable: ArrayLike | None = None,
    config: PruningConfig | None = None,
) -> PruningPlan:
    """Spend a budget of FLOPs on the tokens of reused steps, by (S6), (S7) and (S10).

    A token count grows with the sensitivity of its submodule, and is 0 where recomputing so many
    tokens has no smaller error than reuse. The base rate is the largest that keeps the budget; what
    its last jump leaves over goes to the most sensitive submodules.

    Args:
        pruning_error: E_p, ``[S, L, M, R]``: of the cached output with the tokens recomputed at
            rate ``rates[r]``. Taken as non-increasing in the rate; where measurements are not, the
            least at any lower rate counts.
        reuse_error: E_c, ``[S, K, L, M]``, column ``k - 1`` for age ``k``. NaN where not measured,
            in both tables.
        rates: Recomputed fractions of ``pruning_error``, ascending, above 0 and at most 1.
        computed: Whether each step computes each layer in full, ``[S, L]`` or ``[S]`` for all
            layers alike.
        num_tokens: Tokens of a full submodule.
        submodule_flops: FLOPs of each submodule with all tokens, ``[L, M]``.
        recompute_flops: FLOPs that may be spent.
        prunable: Submodules that may run on some tokens, ``[L, M]``; all by default. Self-attention
            usually not.
        config: Timing, rate law and token counts.

    Raises:
        ValueError: If shapes do not fit, the budget is negative, or an age is beyond what was
            measured.

    Example:
        >>> plan = plan_pruning(
        ...     np.full((3, 1, 1, 1), 0.1),
        ...     np.full((3, 2, 1, 1), 0.2),
        ...     rates=(0.5,),
        ...     computed=[True, False, False],
        ...     num_tokens=64,
        ...     submodule_flops=[[100.0]],
        ...     recompute_flops=60.0,
        ... )
        >>> plan.token_counts[:, 0, 0].tolist(), plan.recompute_flops
        ([64, 16, 16], 50.0)
    """
    config = config or PruningConfig()
    partial = np.asarray(pruning_error, dtype=np.float64)
    reuse = np.asarray(reuse_error, dtype=np.float64)
    flops = np.asarray(submodule_flops, dtype=np.float64)
    _check_shapes(partial, reuse, rates, flops)
    if not recompute_flops >= 0:
        raise ValueError(f"recompute_flops must not be negative, got {recompute_flops:g}")
    steps, layers, submodules, _ = partial.shape
    mask = _computed_mask(computed, steps, layers)
    allowed = (
        np.ones((layers, submodules), bool) if prunable is None else np.asarray(prunable, bool)
    )

    sizes = np.array(
        [0, *static_token_counts(num_tokens, config.rates, config.token_multiple)]
    )  # [J]
    own, ahead = _reuse_at_age(reuse, _ages(mask))  # [S, L, M] each
    sensitivity = ahead if config.timing == "look_ahead" else own
    at_size = _error_at_sizes(partial, reuse[:, 0], rates, sizes / num_tokens)  # [S, L, M, J]
    eligible = ~mask[:, :, None] & allowed & np.isfinite(sensitivity) & (sensitivity > 0)
    mean = sensitivity[eligible].mean() if eligible.any() else 1.0
    weight = np.where(eligible, 1 + config.rate_slope * sensitivity / mean, 0.0)
    middles = (sizes[:-1] + sizes[1:]) / 2

    def sizes_at(base: float) -> NDArray[np.intp]:
        size = np.searchsorted(middles, base * weight * num_tokens, side="right")
        error = np.take_along_axis(at_size, size[..., None], axis=3)[..., 0]
        return np.where(eligible & (error < sensitivity), size, 0)  # (S6)

    def cost(size: NDArray[np.intp]) -> NDArray[np.float64]:
        return sizes[size] / num_tokens * flops

    base, chosen = _close_budget(sizes_at, cost, sensitivity, recompute_flops)
    error = np.take_along_axis(at_size, chosen[..., None], axis=3)[..., 0]
    error = np.where(mask[:, :, None], 0.0, np.where(chosen > 0, error, own))
    counts = np.where(mask[:, :, None], num_tokens, sizes[chosen])
    return PruningPlan(
        token_counts=counts.astype(np.int32),
        base_rate=base,
        recompute_flops=float(cost(chosen).sum()),
        expected_error=float(np.nansum(error)),
    )


def partial_update_error(
    fresh: Tensor, cached: Tensor, scores: Tensor, token_counts: Sequence[int]
) -> Tensor:
    """Error of a cached output in which the best-scored tokens are fresh (S2), for all counts at once.

    Args:
        fresh: Output of this step, ``[B, N, C]``.
        cached: Output of an earlier step, of the same shape.
        scores: ``[B, N]``; the highest are recomputed first.
        token_counts: R numbers of recomputed tokens.

    Returns:
        One minus the cosine over the whole tensor of each sample, ``[B, R]``, float64. 0 where both
        are zero, 1 where one is.

    Example:
        >>> fresh, cached = torch.eye(2)[None], torch.ones(1, 2, 2)
        >>> partial_update_error(fresh, cached, torch.tensor([[1.0, 2.0]]), [0, 1, 2]).round(decimals=3)
        tensor([[0.2930, 0.1840, 0.0000]], dtype=torch.float64)
    """
    if fresh.shape != cached.shape or fresh.shape[:2] != scores.shape or fresh.ndim != 3:
        raise ValueError(
            "fresh and cached must be [B, N, C] and scores [B, N], "
            f"got {list(fresh.shape)}, {list(cached.shape)} and {list(scores.shape)}"
        )
    order = scores.argsort(dim=1, descending=True, stable=True)
    new, old = fresh.double(), cached.double()
    sums = torch.stack([(new * new).sum(2), (new * old).sum(2), (old * old).sum(2)])  # [3, B, N]
    ordered = sums.gather(2, order.expand_as(sums))
    upto = torch.cat([ordered.new_zeros(3, len(fresh), 1), ordered.cumsum(2)], dim=2)
    index = torch.as_tensor(list(token_counts), device=fresh.device)
    head, total = upto[:, :, index], upto[:, :, -1:]
    tail = total - head
    dot = head[0] + tail[1]
    norm = head[0] + tail[2].clamp_min(0)
    both = (norm * total[0]).sqrt()
    cosine = torch.where(both > 0, dot / both.clamp_min(torch.finfo(both.dtype).tiny), 0.0)
    empty = (norm == 0) & (total[0] == 0)
    return torch.where(empty, 0.0, 1 - cosine).clamp_min(0)


def _check_rates(rates: Sequence[float]) -> None:
    if not rates or list(rates) != sorted(set(rates)) or not (rates[0] > 0 and rates[-1] <= 1):
        raise ValueError(f"rates must ascend within (0, 1], got {tuple(rates)}")


def _check_shapes(
    partial: NDArray[np.float64],
    reuse: NDArray[np.float64],
    rates: Sequence[float],
    flops: NDArray[np.float64],
) -> None:
    _check_rates(rates)
    if partial.ndim != 4 or partial.shape[3] != len(rates):
        raise ValueError(
            f"pruning_error must be [steps, layers, submodules, {len(rates)} rates], got {partial.shape}"
        )
    steps, layers, submodules, _ = partial.shape
    if reuse.ndim != 4 or reuse.shape[0] != steps or reuse.shape[2:] != (layers, submodules):
        raise ValueError(
            f"reuse_error must be [{steps}, intervals, {layers}, {submodules}], got {reuse.shape}"
        )
    if flops.shape != (layers, submodules) or not (flops >= 0).all():
        raise ValueError(
            f"submodule_flops must be [{layers}, {submodules}] and not negative, got {flops.shape}"
        )


def _computed_mask(computed: ArrayLike, steps: int, layers: int) -> NDArray[np.bool_]:
    mask = np.asarray(computed, dtype=bool)
    if mask.ndim == 1:
        mask = mask[:, None]
    if mask.ndim != 2 or mask.shape[0] != steps or mask.shape[1] not in (1, layers):
        raise ValueError(f"computed must be [{steps}, {layers}] or [{steps}], got {mask.shape}")
    if not mask[0].all():
        raise ValueError("computed must hold at the first step, which has nothing to reuse")
    return np.broadcast_to(mask, (steps, layers))


def _ages(mask: NDArray[np.bool_]) -> NDArray[np.intp]:
    """Steps since each layer was last computed, ``[S, L]``."""
    position = np.arange(len(mask))[:, None]
    last = np.maximum.accumulate(np.where(mask, position, 0), axis=0)
    ages: NDArray[np.intp] = position - last
    return ages


def _reuse_at_age(
    reuse: NDArray[np.float64], ages: NDArray[np.intp]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Reuse error of each step at its age, and of the next at one more, ``[S, L, M]`` each."""
    steps, width = reuse.shape[:2]
    if ages.max() > width:
        raise ValueError(
            f"a layer is reused at age {ages.max()}, but errors were measured up to {width}"
        )
    step = np.arange(steps)[:, None]
    layer = np.arange(ages.shape[1])[None]
    own = np.where((ages > 0)[..., None], reuse[step, np.maximum(ages, 1) - 1, layer], 0.0)
    following = np.minimum(step + 1, steps - 1)
    ahead = reuse[following, np.minimum(ages, width - 1), layer]
    known = (step + 1 < steps) & (ages < width) & (ages > 0)
    ahead = np.where(known[..., None] & np.isfinite(ahead), ahead, own)
    return own, ahead


def _error_at_sizes(
    partial: NDArray[np.float64],
    newest: NDArray[np.float64],
    rates: Sequence[float],
    fractions: NDArray[np.float64],
) -> NDArray[np.float64]:
    """E_p interpolated from reuse at age 1 (rate 0) to nothing (rate 1), ``[S, L, M, J]``."""
    # Where mixing rows of two steps is worse than either, reuse must not make it look better.
    start = np.fmax(newest, partial[..., 0])
    known = np.concatenate([start[..., None], partial], axis=3)
    grid = np.array([0.0, *rates])
    if grid[-1] < 1:
        known = np.concatenate([known, np.zeros_like(newest)[..., None]], axis=3)
        grid = np.append(grid, 1.0)
    known = np.minimum.accumulate(known, axis=3)
    right = np.clip(np.searchsorted(grid, fractions), 1, len(grid) - 1)
    share = (fractions - grid[right - 1]) / (grid[right] - grid[right - 1])
    error: NDArray[np.float64] = known[..., right - 1] * (1 - share) + known[..., right] * share
    return error


def _close_budget(
    sizes_at: Callable[[float], NDArray[np.intp]],
    cost: Callable[[NDArray[np.intp]], NDArray[np.float64]],
    sensitivity: NDArray[np.float64],
    budget: float,
) -> tuple[float, NDArray[np.intp]]:
    """The largest base rate within the budget, and the sizes (S10), ``[S, L, M]``."""
    allowance = budget * (1 + 1e-9)
    low, high = 0.0, 1.0
    if cost(sizes_at(high)).sum() <= allowance:
        return high, sizes_at(high)
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        if cost(sizes_at(middle)).sum() <= allowance:
            low = middle
        else:
            high = middle
    # Equal errors jump together. The jump that does not fit as a whole is made one by one.
    chosen, larger = sizes_at(low).ravel(), sizes_at(high).ravel()
    extra = (
        cost(larger.reshape(sensitivity.shape)).ravel()
        - cost(chosen.reshape(sensitivity.shape)).ravel()
    )
    left = allowance - cost(chosen.reshape(sensitivity.shape)).sum()
    rising = np.flatnonzero(larger > chosen)
    for i in rising[np.argsort(-sensitivity.ravel()[rising], kind="stable")]:
        if extra[i] <= left:
            chosen[i] = larger[i]
            left -= extra[i]
    return low, chosen.reshape(sensitivity.shape)
