# SPDX-License-Identifier: Apache-2.0
"""A budget instead of knobs: the fastest relaxation whose cost in likelihood stays within what the caller allows.

Some sequences are drawn plainly and with each setting, and the target tells the likelihood of both. How much less likely a
setting's tokens are is known only up to chance, so it is held against the budget by an upper confidence bound, which few
sequences make wide: within the budget is what has been shown to be, not what looks so.
"""

from __future__ import annotations

import hashlib
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from genaccel.files.untrusted import shown
from genaccel.skip_decoding.decoding import decode
from genaccel.skip_decoding.drafts.draft_tree import TreeShape
from genaccel.skip_decoding.drafts.drafting import Drafter
from genaccel.skip_decoding.memory.cached_rows import CachedRows
from genaccel.skip_decoding.options import DecodingOptions
from genaccel.skip_decoding.sampling import SamplingRule
from genaccel.skip_decoding.tuning.cost_curve import clock_of, drafter_key
from genaccel.skip_decoding.tuning.measurements import content_digest, keep, recall

_CONFIDENCE = 0.95
# From strict to lax; None is without.
_DELTAS = (0.05, 0.1, 0.2, 0.4)
_INTERVALS = (8, 5, 3, 2)
_ROLLBACKS = (0.01, 0.0)
_THRESHOLDS = (0.9, 0.8, 0.7, 0.6, 0.5)
# Rows of a sequence whose logits are in memory together.
_WINDOW = 64


@dataclass(frozen=True, kw_only=True, slots=True)
class Setting:
    """What of the options is tuned.

    Attributes:
        delta: Of the relaxation, or None for none.
        interval: Of skipped rounds, or None.
        threshold: Of the likeness of paths from which on rounds are skipped, or None.
        rollback_below: Probability under which unverified tokens are taken back.
    """

    delta: float | None = None
    interval: int | None = None
    threshold: float | None = None
    rollback_below: float = 0.0

    def applied(self, options: DecodingOptions) -> DecodingOptions:
        """The options with this setting; they have the neighbours and code words that it needs."""
        relaxation, skip = options.relaxation, options.skip
        if relaxation is not None:
            relaxation = None if self.delta is None else replace(relaxation, delta=self.delta)
        if skip is not None:
            is_off = self.interval is None and self.threshold is None
            skip = (
                None
                if is_off
                else replace(
                    skip,
                    interval=self.interval,
                    threshold=self.threshold,
                    rollback_below=self.rollback_below,
                )
            )
        return replace(options, relaxation=relaxation, skip=skip)


@dataclass(frozen=True, kw_only=True, slots=True)
class Tuned:
    """A setting within the budget, and what it was measured to cost.

    Attributes:
        options: To decode with.
        setting: What of them was tuned.
        nll_gap: By how many nats a token is less likely under the target than one of plain decoding, in the mean.
        nll_gap_bound: The upper confidence bound of that, with 95 % for all settings that were tried together.
        unverified_fraction: Share of the tokens that no forward has judged.
        speedup: Tokens per cost over those of exact decoding with the same drafter.
        sequences: That were drawn with each setting.
    """

    options: DecodingOptions
    setting: Setting
    nll_gap: float
    nll_gap_bound: float
    unverified_fraction: float
    speedup: float
    sequences: int


def negative_log_likelihood(
    model: Any,
    prompts: Tensor,
    is_token: Tensor | None,
    tokens: Tensor,
    lengths: Tensor,
    *,
    rule: SamplingRule,
    negative_prompts: Tensor | None = None,
    negative_is_token: Tensor | None = None,
) -> Tensor:
    """Nats of a token under the target, float64 ``[S]``: the mean over each sequence.

    The distribution is that of the rule with its guidance and temperature (1 if it is greedy), without top-k and
    top-p: these give some tokens no probability, and a gap would be infinite.

    Args:
        model: The target.
        prompts: ``[S, L]``, padded on the left.
        is_token: False for padding, ``[S, L]``; by default there is none.
        tokens: That came after, ``[S, T]``.
        lengths: Of each that count, ``[S]``, at least 1.
        rule: The distribution.
        negative_prompts: Of the unconditional branch, ``[S, K]``.
        negative_is_token: False for their padding.
    """
    soft = replace(rule, temperature=rule.temperature or 1.0, top_k=0, top_p=1.0)
    branches = [(prompts, is_token)]
    if rule.is_guided:
        if negative_prompts is None:
            raise ValueError(f"guidance_scale {rule.guidance_scale:g} needs negative_prompts")
        branches.append((negative_prompts, negative_is_token))
    total = torch.zeros(len(tokens), dtype=torch.float64, device=tokens.device)
    steps = torch.arange(tokens.shape[1], device=tokens.device)
    counts = steps < lengths[:, None]
    with torch.inference_mode():
        memories, heads = [], []
        for prompt, mask in branches:
            mask = torch.ones_like(prompt, dtype=torch.bool) if mask is None else mask.bool()
            memories.append(CachedRows(model))
            heads.append(memories[-1].prefill(prompt, mask).logits)
        begin = 0
        while True:
            end = min(begin + heads[0].shape[1], tokens.shape[1])
            weights = soft.log_weights(soft.combine(torch.cat(heads))[:, : end - begin])
            picked = weights.double().log_softmax(-1).gather(2, tokens[:, begin:end, None])[..., 0]
            total -= torch.where(counts[:, begin:end], picked, 0.0).sum(1)
            if end == tokens.shape[1]:
                return total / lengths
            rows = tokens[:, end - 1 : end - 1 + _WINDOW]
            heads = []
            for memory in memories:
                heads.append(memory.read(rows, TreeShape.chain(rows.shape[1] - 1)).logits)
                path = torch.arange(rows.shape[1], device=rows.device).expand(len(rows), -1)
                memory.keep(path, torch.full_like(lengths, rows.shape[1]))
            begin = end


def upper_bound(values: Tensor, confidence: float = _CONFIDENCE) -> float:
    """Upper confidence bound of the mean of values ``[n]``, n at least 2, by Student's t (one-sided).

    Example:
        >>> round(upper_bound(torch.tensor([0.0, 1.0, 0.0, 1.0, 0.0, 1.0])), 3)  # 0.5 + 2.015 * 0.2236
        0.951
    """
    count = len(values)
    return float(values.mean() + _quantile(confidence, count - 1) * values.std() / count**0.5)


def _quantile(confidence: float, degrees: int) -> float:
    """Of Student's t: exact for 1 and 2 degrees of freedom, else by Cornish and Fisher's expansion."""
    if degrees == 1:
        return math.tan(math.pi * (confidence - 0.5))
    if degrees == 2:
        centred = 2 * confidence - 1
        return centred * math.sqrt(2 / (1 - centred**2))
    z = statistics.NormalDist().inv_cdf(confidence)
    terms = (
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
        (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / 92160,
    )
    return z + sum(term / degrees**power for power, term in enumerate(terms, 1))


@dataclass(frozen=True, slots=True)
class _Trial:
    setting: Setting
    gaps: Tensor
    unverified_fraction: float
    rate: float  # tokens per second


def tune(
    model: Any,
    drafter: Drafter,
    prompts: Tensor,
    is_token: Tensor | None = None,
    *,
    rule: SamplingRule,
    options: DecodingOptions,
    max_new_tokens: int,
    max_nll_gap: float | None = None,
    max_unverified: float | None = None,
    negative_prompts: Tensor | None = None,
    negative_is_token: Tensor | None = None,
    sequences: int = 8,
) -> Tuned:
    """The setting with the most tokens per cost within the budget: from the user's cache, or measured and put there.

    Where no relaxed setting has been shown to stay within it, decoding is exact.

    Args:
        model: The target.
        drafter: Guesses.
        prompts: Some that it is tuned on, ``[S, L]``, as for ``decode``; repeated if they are few.
        is_token: False for their padding.
        rule: By which tokens are drawn.
        options: With a relaxation and a skip rule where these may be used; their numbers are what is tuned.
        max_new_tokens: Of a sequence.
        max_nll_gap: Nats by which a token may be less likely under the target, in the mean; None for no bound.
        max_unverified: Largest share of a sequence's tokens that no forward has judged; None for that of the skip rule.
        negative_prompts: Of the unconditional branch, ``[S, K]``.
        negative_is_token: False for their padding.
        sequences: That are drawn with each setting, at least 4.

    Raises:
        ValueError: If a bound is below 0, there are no prompts, too few sequences, or the options have an ensemble.
    """
    for name, value in (("max_nll_gap", max_nll_gap), ("max_unverified", max_unverified)):
        if value is not None and not 0 <= value < math.inf:
            raise ValueError(f"{name} must be at least 0, got {value}")
    if sequences < 4 or not len(prompts):
        raise ValueError("a budget needs a prompt, and at least 4 sequences to be tuned on")
    if options.ensemble_weight is not None:
        raise ValueError(
            "a budget is of relaxation and skips; ensemble_weight has a bound of its own"
        )
    if max_unverified is not None and options.skip is not None:
        options = replace(
            options, skip=replace(options.skip, max_unverified=min(max_unverified, 1))
        )
    key = {
        "target": content_digest(model),
        "drafter": drafter_key(drafter),
        "rule": [rule.temperature, rule.top_k, rule.top_p, rule.guidance_scale],
        "options": _options_key(options),
        "max_new_tokens": max_new_tokens,
        "max_nll_gap": max_nll_gap,
        "sequences": sequences,
    }
    try:
        return _tuned(options, recall("budget", key) or {})
    except ValueError:
        pass
    rows = torch.arange(sequences, device=prompts.device) % len(prompts)

    def picked(values: Tensor | None) -> Tensor | None:
        return None if values is None else values[rows]

    batch: dict[str, Any] = {
        "rule": rule,
        "negative_prompts": picked(negative_prompts),
        "negative_is_token": picked(negative_is_token),
    }
    starts = prompts[rows], picked(is_token)
    clock = clock_of(prompts.device)

    def drawn(options: DecodingOptions, drafter: Drafter | None) -> tuple[Tensor, float, float]:
        begin = clock()
        decoded = decode(
            model, *starts, max_new_tokens=max_new_tokens, drafter=drafter, options=options, **batch
        )
        rate = decoded.report.generated_tokens / (clock() - begin)
        nats = negative_log_likelihood(model, *starts, decoded.tokens, decoded.lengths, **batch)
        return nats, rate, decoded.report.unverified_fraction

    exact = replace(options, relaxation=None, skip=None)
    plain, _, _ = drawn(exact, None)
    # Exact decoding draws what plain decoding draws: its gap is none.
    unrelaxed = _Trial(Setting(), torch.zeros_like(plain), 0.0, drawn(exact, drafter)[1])
    deltas, skips = _settings(options)
    most = len(deltas) + sum(map(len, skips)) + len(deltas) * bool(skips)
    confidence = 1 - (1 - _CONFIDENCE) / max(1, most)

    def within(settings: Sequence[Setting]) -> list[_Trial]:
        """Those up to the first that is not within the budget, for laxer ones cost more."""
        found = []
        for setting in settings:
            nats, rate, unverified = drawn(setting.applied(options), drafter)
            trial = _Trial(setting, nats - plain, unverified, rate)
            if max_nll_gap is not None and upper_bound(trial.gaps, confidence) > max_nll_gap:
                break
            # What changed no token here has not been shown to cost nothing.
            if bool(trial.gaps.any()) or (max_nll_gap is None and unverified):
                found.append(trial)
        return found

    def rate(trial: _Trial) -> float:
        return trial.rate

    relaxed = within(deltas)
    skipping = [trial for settings in skips for trial in within(settings)]
    fits = [unrelaxed, *relaxed, *skipping]
    if relaxed and skipping:
        skip = max(skipping, key=rate).setting
        fits += within([replace(skip, delta=trial.setting.delta) for trial in relaxed])
    best = max(fits, key=rate)
    measured = {
        "delta": best.setting.delta,
        "interval": best.setting.interval,
        "threshold": best.setting.threshold,
        "rollback_below": best.setting.rollback_below,
        "nll_gap": float(best.gaps.mean()),
        "nll_gap_bound": upper_bound(best.gaps, confidence),
        "unverified_fraction": best.unverified_fraction,
        "speedup": best.rate / unrelaxed.rate,
        "sequences": sequences,
    }
    keep("budget", key, measured)
    return _tuned(options, measured)


def _settings(options: DecodingOptions) -> tuple[list[Setting], list[list[Setting]]]:
    """Settings of the relaxation, and of skips with each roll-back, from strict to lax."""
    deltas = [] if options.relaxation is None else [Setting(delta=delta) for delta in _DELTAS]
    skip = options.skip
    if skip is None:
        return deltas, []
    # One that the caller wants stays.
    rollbacks = (skip.rollback_below,) if skip.rollback_below else _ROLLBACKS
    if skip.threshold is not None:
        kinds = [[Setting(threshold=t, rollback_below=r) for t in _THRESHOLDS] for r in rollbacks]
    else:
        kinds = [[Setting(interval=i, rollback_below=r) for i in _INTERVALS] for r in rollbacks]
    return deltas, kinds


def _options_key(options: DecodingOptions) -> list[Any]:
    """What of the options is not tuned, and which of them are."""
    relaxation, skip = options.relaxation, options.skip
    neighbours = b"" if relaxation is None else relaxation.neighbours.cpu().numpy().tobytes()
    return [
        None if relaxation is None else relaxation.count,
        hashlib.sha256(neighbours).hexdigest()[:16],
        None if skip is None else "interval" if skip.threshold is None else "threshold",
        None if skip is None else [skip.path, skip.truncates, skip.max_unverified],
        None if skip is None else skip.rollback_below,
        options.guessing,
        list(options.end_tokens),
    ]


def _tuned(options: DecodingOptions, values: Mapping[str, Any]) -> Tuned:
    """Of what was kept; ValueError if it cannot be."""
    tuned = ("delta", "interval", "threshold", "rollback_below")
    numbers = ("nll_gap", "nll_gap_bound", "unverified_fraction", "speedup")
    try:
        for name in tuned:
            if values[name] is not None and type(values[name]) not in (int, float):
                raise ValueError(f"{name} must be a number, got {shown(values[name])}")
        setting = Setting(**{name: values[name] for name in tuned})
        return Tuned(
            options=setting.applied(options),
            setting=setting,
            sequences=int(values["sequences"]),
            **{name: float(values[name]) for name in numbers},
        )
    except (LookupError, TypeError) as error:
        raise ValueError(f"the budget's setting is not complete: {error}") from error
