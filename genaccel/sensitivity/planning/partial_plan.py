# SPDX-License-Identifier: Apache-2.0
"""Plans with partial steps: what computed steps leave of a budget goes to submodules and tokens.

UAS of SODA, arXiv:2603.07057: fewer steps are computed, and steps between them run the feed-forwards of
some tokens (S6, S7, S10), or the norms and gates around forecasts of all submodules.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from genaccel.hooks.submodules import Layer
from genaccel.sensitivity.config import SensitivityConfig
from genaccel.sensitivity.planning.output_plan import output_plan
from genaccel.sensitivity.planning.planner import (
    Measurements,
    best_speedup,
    make_plan,
    segment_errors,
    used_steps,
)
from genaccel.sensitivity.planning.schedule import computations_for_flops
from genaccel.sensitivity.plans.plan import Plan
from genaccel.sensitivity.pruning.pruning import PruningConfig, plan_pruning

# Each makes a graph of its own in a compiled model, and a CUDA graph.
MAX_STEP_KINDS = 4

# Of the steps that a plan does not compute, those that run on forecasts of submodules. A third of them have most of the
# gain on landscapes-dit, and each costs several times what a step does that skips all blocks.
_PARTIAL_SHARE = {"segment": 0.0, "mixed": 0.35, "module": 1.0}

# Less is not worth a plan.
_LEAST_SPEEDUP = 1.02

# Tiles of matrix products want multiples of 16, but of 64 tokens 16 are a quarter.
_TOKEN_MULTIPLE = 16
_LEAST_MULTIPLES = 16


def plan_for_speedup(measured: Measurements, config: SensitivityConfig, *, speedup: float) -> Plan:
    """The plan of least expected error for a speed-up, with partial steps if the config asks for them.

    Args:
        measured: From calibration with the same config.
        config: What may be planned.
        speedup: FLOPs without acceleration over those with it.

    Raises:
        ValueError: If no plan reaches the speed-up, or the model has no submodules to prune.
    """
    config = _resolved(measured, config.changed(speedup=speedup))
    if config.granularity == "output":
        return output_plan(measured, config, speedup=speedup)
    if not config.has_partial_steps:
        return make_plan(measured, config, speedup=speedup)
    granularity: Literal["segment", "module", "mixed"] = config.granularity  # type: ignore[assignment]
    costs = _Costs.of(measured)
    begin, end = used_steps(measured, config)
    steps = end - begin
    budget = steps * costs.total / speedup
    skipped = costs.outside + _PARTIAL_SHARE[granularity] * costs.overhead
    count = computations_for_flops(
        (1 - config.pruning_share) * budget,
        num_steps=steps,
        computed_flops=costs.total,
        reused_flops=skipped,
    )
    whole = steps * costs.total / (count * costs.total + (steps - count) * costs.outside)
    # A hair less than what the steps give, which rounding could put above it.
    plan = make_plan(measured, config, speedup=max(1.0, whole * (1 - 1e-9)))
    submodules = _module_mask(plan, measured, config) if config.granularity == "mixed" else None
    plan = replace(plan, granularity=granularity, module_mask=submodules)
    if config.pruning_share > 0:
        left = budget - count * costs.total - (steps - count) * skipped
        plan = _with_tokens(plan, measured, costs, left)
    return replace(plan, flop_fraction=costs.fraction(plan, begin, end))


def best_plan(measured: Measurements, config: SensitivityConfig) -> Plan | None:
    """The plan for what a config asks for, or the best below it where that is out of reach.

    Args:
        measured: From calibration with the same config.
        config: With a speed-up.

    Returns:
        The plan; None where no step can be left out.
    """
    config = _resolved(measured, config)
    if config.granularity == "output":
        for speedup in (_asked(config), math.inf):
            try:
                return output_plan(measured, config, speedup=speedup)
            except ValueError:
                continue
        return None
    begin, end = used_steps(measured, config)
    most = best_speedup(
        segment_flops=measured.segment_flops,
        total_flops=measured.total_flops,
        warmup_steps=config.planner.warmup_steps,
        steps=end - begin,
        max_interval=config.max_interval,
    )
    asked = min(_asked(config), most)
    if config.has_partial_steps and not any(
        layer.segment >= 0 and layer.is_usable for layer in measured.layers
    ):
        # Its blocks have no submodules of their own: segments can be skipped all the same.
        config = replace(config, granularity="segment", pruning_share=0.0)
    # A hair less, which rounding could put above it.
    speedup = asked * (1 - 1e-9)
    while speedup > 1:
        try:
            return plan_for_speedup(measured, config, speedup=speedup)
        except ValueError:
            # Partial steps, or edges that were not measured, may allow less than whole ones.
            speedup = 1 + (speedup - 1) * 0.9 if speedup > _LEAST_SPEEDUP else 1.0
    return None


def _asked(config: SensitivityConfig) -> float:
    """The speed-up that a config asks for, infinite for "max"."""
    return float(config.speedup) if isinstance(config.speedup, int | float) else math.inf


def _resolved(measured: Measurements, config: SensitivityConfig) -> SensitivityConfig:
    """The config with the granularity that "auto" means for what was measured."""
    resolved = config.for_steps(measured.fingerprint.num_inference_steps)
    if config.granularity == "auto" and measured.moments is None:
        return config.changed(granularity="output")
    return resolved


def _module_mask(
    plan: Plan, measured: Measurements, config: SensitivityConfig
) -> NDArray[np.bool_]:
    """Choose where a mixed plan forecasts submodules instead of segments, ``[S, G]``, bool.

    These are steps directly behind computed ones, those where the forecast of segments has the highest price. A
    forecast of submodules follows the gates of the current step exactly, but the outputs that these multiply grow
    old: further behind a computed step it is no better than that of segments.
    """
    computed = plan.compute_mask[:, 0]  # shared by all segments
    behind = ~computed & np.roll(computed, 1)
    errors = segment_errors(measured, config.changed(forecasters=plan.forecasters))
    chosen = np.maximum(plan.forecaster_index[:, 0], 0)
    price = np.nansum(errors[chosen, np.arange(len(computed)), 0], axis=1)  # [S]
    order = np.argsort(np.where(behind, -price, np.inf), kind="stable")
    count = min(int(behind.sum()), int(_PARTIAL_SHARE["mixed"] * (~computed).sum()))
    mask = np.zeros_like(plan.compute_mask)
    mask[order[:count]] = True
    return mask


def check_layers(layers: Sequence[Layer], model_class: str) -> list[Layer]:
    """The layers that can run partially.

    Raises:
        ValueError: If there is none.
    """
    usable = [layer for layer in layers if layer.segment >= 0 and layer.is_usable]
    if not usable:
        raise ValueError(
            f"no block of {model_class} has attention and feed-forward as modules of their own: leave "
            'pruning_share at 0 and granularity at "segment"'
        )
    return usable


@dataclass(frozen=True, slots=True, eq=False)
class _Costs:
    """FLOPs of a call of the model, and of its parts."""

    total: float
    outside: float  # of all that is in no segment
    partial: float  # a call whose submodules are all forecast
    segments: NDArray[np.float64]  # [G]
    layers: tuple[Layer, ...]

    @classmethod
    def of(cls, measured: Measurements) -> _Costs:
        usable = check_layers(measured.layers, measured.fingerprint.model_class)
        segments = np.array(measured.segment_flops, dtype=np.float64)
        total = float(measured.total_flops)
        return cls(
            total=total,
            outside=total - float(segments.sum()),
            partial=total - sum(layer.saved_flops(0) for layer in usable),
            segments=segments,
            layers=measured.layers,
        )

    @property
    def overhead(self) -> float:
        """FLOPs that a partial step without tokens costs more than one that skips the segments."""
        return self.partial - self.outside

    def fraction(self, plan: Plan, begin: int, end: int) -> float:
        """FLOPs of a plan over those of the plain run."""
        spent = 0.0
        partial = plan.partial_mask
        for step in range(begin, end):
            spent += self.outside
            spent += float(self.segments[plan.compute_mask[step] | partial[step]].sum())
            for i, layer in enumerate(self.layers):
                if layer.segment >= 0 and partial[step, layer.segment]:
                    counts = plan.token_counts
                    spent -= layer.saved_flops(0 if counts is None else int(counts[step, i, 0]))
        return spent / ((end - begin) * self.total)


def _with_tokens(plan: Plan, measured: Measurements, costs: _Costs, budget: float) -> Plan:
    """Spend a budget on the tokens of steps that are not computed."""
    if measured.feed_forwards is None:
        raise ValueError(
            "feed-forwards were not measured: calibrate with a config whose pruning_share is above 0"
        )
    layers = costs.layers
    owners = [max(0, layer.segment) for layer in layers]
    tokens = np.array([layer.num_tokens for layer in layers])
    nominal = Counter(int(n) for n in tokens if n).most_common(1)
    if not nominal:
        raise ValueError(
            f"no feed-forward of {measured.fingerprint.model_class} treats tokens one by one: leave pruning_share at 0"
        )
    num_tokens = nominal[0][0]
    prunable = np.array([la.segment >= 0 and la.is_usable and la.num_tokens > 0 for la in layers])
    mask = plan.compute_mask[:, owners] | np.array([la.segment < 0 for la in layers])
    partial = measured.feed_forwards.partial_errors()[:, :, None]  # [S, L, 1, R]
    reuse = measured.feed_forwards.reuse_errors()[..., None]  # [S, K, L, 1]
    options = PruningConfig(
        token_multiple=min(_TOKEN_MULTIPLE, max(1, num_tokens // _LEAST_MULTIPLES))
    )
    overhead = 0.0 if plan.granularity == "module" else costs.overhead
    best: tuple[float, NDArray[np.int32]] | None = None
    order = _by_sensitivity(reuse[..., 0], mask)
    for number in range(1, len(order) + 1):
        left = budget - number * overhead
        if left <= 0:
            break
        chosen = np.zeros(len(mask), dtype=bool)
        chosen[order[:number]] = True
        # Elsewhere recomputing is never better than reuse: no cosine is further from one.
        priced = np.where(chosen[:, None, None, None], partial, 2.0)
        found = plan_pruning(
            priced,
            reuse,
            rates=measured.feed_forwards.rates,
            computed=mask,
            num_tokens=num_tokens,
            submodule_flops=[[float(layer.feed_forward_flops)] for layer in layers],
            recompute_flops=left,
            prunable=prunable[:, None],
            config=options,
        )
        if best is None or found.expected_error < best[0]:
            best = (found.expected_error, found.token_counts)
    if best is None:
        return plan
    counts = np.where(mask[:, :, None], 0, best[1])[..., 0]  # [S, L]
    counts = limit_step_kinds(counts, MAX_STEP_KINDS, options.token_multiple)
    # Layers of another number of tokens keep the share.
    counts = np.ceil(counts * (tokens / num_tokens)).astype(np.int32)
    counts = np.where(mask, tokens, np.minimum(counts, tokens)).astype(np.int32)
    return replace(
        plan,
        token_counts=np.ascontiguousarray(counts[:, :, None]),
        segment_of_layer=tuple(layer.segment for layer in layers),
    )


def _by_sensitivity(reuse: NDArray[np.float64], mask: NDArray[np.bool_]) -> NDArray[np.intp]:
    """Steps that compute nothing, those first whose feed-forwards bear reuse the least."""
    steps = np.flatnonzero(~mask.all(axis=1))
    position = np.arange(len(mask))[:, None]
    ages = position - np.maximum.accumulate(np.where(mask, position, 0), axis=0)  # [S, L]
    layer = np.arange(mask.shape[1])[None]
    own = reuse[position, np.clip(ages, 1, reuse.shape[1]) - 1, layer]
    score = np.nansum(np.where(ages > 0, own, 0.0), axis=1)
    order: NDArray[np.intp] = steps[np.argsort(-score[steps], kind="stable")]
    return order


def limit_step_kinds(counts: NDArray[np.int32], max_kinds: int, multiple: int) -> NDArray[np.int32]:
    """Let steps of similar token counts share one set of them.

    Args:
        counts: ``[S, L]``; rows of zeros stay.
        max_kinds: Different rows that may be left, besides zeros.
        multiple: Counts are multiples of it.

    Returns:
        ``[S, L]``, of no more tokens in all.

    Example:
        >>> limit_step_kinds(np.array([[0], [4], [8], [16]], dtype=np.int32), 2, 4).ravel().tolist()
        [0, 4, 4, 16]
    """
    used = np.flatnonzero(counts.any(axis=1))
    if len(np.unique(counts[used], axis=0)) <= max_kinds:
        return counts
    result = counts.copy()
    for group in np.array_split(
        used[np.argsort(counts[used].sum(axis=1), kind="stable")], max_kinds
    ):
        # Down, so that the budget is kept.
        result[group] = counts[group].mean(axis=0) // multiple * multiple
    return result
