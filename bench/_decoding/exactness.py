# SPDX-License-Identifier: Apache-2.0
"""What must hold to the last token: the authors' numbers, plain decoding's tokens, distributions, the target's memory."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import Any

import torch
from scipy.stats import chi2
from torch import Tensor

from bench._decoding.generator import Generator, Mode
from genaccel.skip_decoding.decoding import decode
from genaccel.skip_decoding.drafts.draft_tree import TreeShape
from genaccel.skip_decoding.drafts.drafting import Drafter
from genaccel.skip_decoding.options import DecodingOptions
from genaccel.skip_decoding.sampling import SamplingRule
from genaccel.skip_decoding.verifying.acceptance import (
    Relaxation,
    accept_by_rejection,
    nearest_code_words,
)
from tests.skip_decoding.enumeration import of_drawn_guesses, of_fixed_guesses
from tests.skip_decoding.golden_vvs import FIELDS
from tests.skip_decoding.tiny_models import DRAFTERS, draft_of, prompts_of, tiny_llama

RULES: dict[str, dict[str, Any]] = {
    "T 1": {},
    "top k": {"top_k": 10},
    "top p": {"top_p": 0.8},
    "greedy": {"temperature": 0.0},
}
GUIDANCE_SCALES = (1.0, 3.0)
BATCHES = (1, 3, 8)
# With those above and the drafters of the tests, at least 20,000 tokens that may differ.
_TOKENS = 28


def golden_rows() -> list[dict[str, Any]]:
    """Of each field of the fixture, how many numbers were compared and how many differ."""
    rows = []
    for field, (compare, count) in FIELDS.items():
        compared = [one for number in range(count) for one in compare(number)]
        wrong = sum(not one.agrees for one in compared)
        rows.append(
            {"field": field, "cases": count, "compared": len(compared), "mismatches": wrong}
        )
    return rows


def lossless_rows() -> list[dict[str, Any]]:
    """Tokens of each drafter of a tiny float64 model that differ from plain decoding's, over all rules and batches."""
    target = tiny_llama()
    found = dict.fromkeys(DRAFTERS, (0, 0, 0))
    for count in BATCHES:
        prompts, is_token = prompts_of(count)
        negative, negative_is_token = prompts_of(count, 9)
        for scale in GUIDANCE_SCALES:
            for values in RULES.values():

                def tokens_of(
                    drafter: Drafter | None,
                    rule: SamplingRule = SamplingRule(guidance_scale=scale, **values),  # noqa: B008
                    prompts: Tensor = prompts,
                    is_token: Tensor = is_token,
                    negative: Tensor = negative,
                    negative_is_token: Tensor = negative_is_token,
                ) -> tuple[Tensor, int]:
                    decoded = decode(
                        target,
                        prompts,
                        is_token,
                        rule=rule,
                        max_new_tokens=_TOKENS,
                        options=DecodingOptions(seed=17),
                        drafter=drafter,
                        negative_prompts=negative,
                        negative_is_token=negative_is_token,
                    )
                    return decoded.tokens, decoded.report.target_forwards

                plain, _ = tokens_of(None)
                for name, make in DRAFTERS.items():
                    tokens, forwards = tokens_of(make(target))
                    wrong, compared, total = found[name]
                    found[name] = (
                        wrong + int((tokens != plain).sum()),
                        compared + plain.numel(),
                        total + forwards,
                    )
    runs = len(BATCHES) * len(GUIDANCE_SCALES) * len(RULES)
    return [
        {
            "drafter": name,
            "tokens": compared,
            "differing": wrong,
            "tokens_per_forward": runs * _TOKENS / forwards,
        }
        for name, (wrong, compared, forwards) in found.items()
    ]


@dataclass(frozen=True, slots=True)
class Assisted:
    """Greedy decoding with guidance: tokens until the first one that is not plain decoding's, of as many as there are."""

    ours: int
    theirs: int
    tokens: int


def assisted_generation() -> Assisted:
    """Ours, and transformers' assisted generation, against transformers' own plain decoding with guidance 3."""
    target = tiny_llama()
    prompts, negative, count = torch.tensor([[7, 9, 3]]), torch.tensor([[5]]), 24
    settings: dict[str, Any] = {
        "max_new_tokens": count,
        "do_sample": False,
        "guidance_scale": 3.0,
        "negative_prompt_ids": negative,
        "attention_mask": torch.ones_like(prompts),
    }
    plain = target.generate(prompts, **settings)[:, prompts.shape[1] :]
    assisted = target.generate(prompts, **settings, assistant_model=draft_of(target))
    ours = decode(
        target,
        prompts,
        rule=SamplingRule(temperature=0, guidance_scale=3.0),
        max_new_tokens=count,
        negative_prompts=negative,
        drafter=DRAFTERS["model, tree"](target),
    ).tokens
    return Assisted(
        _agreeing(ours, plain), _agreeing(assisted[:, prompts.shape[1] :], plain), count
    )


def _agreeing(found: Tensor, expected: Tensor) -> int:
    length = min(found.shape[1], expected.shape[1])
    same = (found[:, :length] == expected[:, :length]).long().cumprod(1)
    return int(same.sum())


def tree_p_value(*, draws: int, seed: int = 0) -> float:
    """Chi-square's p of three tokens together, drawn by trees of guesses without replacement from another distribution.

    Args:
        draws: Triples of tokens.
        seed: Of both distributions and of the draws.
    """
    generator = torch.Generator().manual_seed(seed)
    size, shape = 4, TreeShape((0, 0, 1, 2, 3, 4))
    target = torch.randn(size, size, generator=generator, dtype=torch.float64)  # by the last token
    draft = torch.randn(size, size, generator=generator, dtype=torch.float64)
    p, q = target.softmax(1), draft.softmax(1)
    children = torch.multinomial(q[0].expand(draws, -1), 2, generator=generator)  # [N, 2]
    below = torch.multinomial(q[children.flatten()], 1, generator=generator).view(draws, 2)
    last = torch.multinomial(q[below.flatten()], 1, generator=generator).view(draws, 2)
    trees = torch.cat((torch.zeros(draws, 1, dtype=torch.long), children, below, last), 1)
    uniforms = torch.rand(draws, 7, generator=generator, dtype=torch.float64)
    path, residual, _ = accept_by_rejection(
        shape, trees, target[trees], uniforms, draft_probabilities=q[trees]
    )
    following = torch.where(path[:, 1:] >= 0, trees.gather(1, path[:, 1:].clamp(min=0)), -1)
    counts = torch.zeros(size, size, size, dtype=torch.float64)
    for guesses, weights in zip(following.tolist(), residual, strict=True):
        drawn = [token for token in guesses if token >= 0]
        while len(drawn) < 3:
            drawn.append(int(torch.multinomial(weights, 1, generator=generator)))
            weights = p[drawn[-1]]
        counts[drawn[0], drawn[1], drawn[2]] += 1
    expected = draws * p[0][:, None, None] * p[:, :, None] * p[None]
    statistic = float(((counts - expected).square() / expected).sum())
    return float(chi2.sf(statistic, counts.numel() - 1))


def lantern_variation(deltas: tuple[float, ...] = (0.05, 0.2, 0.4)) -> list[dict[str, Any]]:
    """Largest total variation of a step from the target's distribution, by enumeration, beside its bound.

    Of distributions of eight tokens, one to three siblings, and guesses that are the drafter's likeliest or drawn by it.
    """
    rows = []
    for delta in deltas:
        for name, distribution in (("likeliest", of_fixed_guesses), ("drawn", of_drawn_guesses)):
            largest = 0.0
            for seed, siblings in (*itertools.product(range(4), (1, 2)), (4, 3)):
                generator = torch.Generator().manual_seed(seed)
                weights = 2 * torch.randn(2, 8, generator=generator, dtype=torch.float64)
                codes = torch.randn(8, 3, generator=generator)
                relaxation = Relaxation(
                    neighbours=nearest_code_words(codes, 5), count=4, delta=delta
                )
                target, draft = weights.softmax(1)
                found = distribution(siblings, target, draft, relaxation)
                largest = max(largest, float((found - target).abs().sum()) / 2)
            rows.append(
                {
                    "guesses": name,
                    "delta": delta,
                    "total_variation": largest,
                    "over_delta": round(largest / delta, 9),
                }
            )
    return rows


def largest_cache_difference(generator: Generator, mode: Mode, *, seed: int = 0) -> float:
    """Of the keys and values that the target has at each of its forwards, from those of one forward over all tokens.

    Args:
        generator: What is decoded, one picture with guidance.
        mode: How; one that skips verifications.
        seed: Of the picture.
    """
    model = generator.pipeline.transformer
    seen: list[list[tuple[Tensor, Tensor]]] = []

    def keep(module: Any, arguments: Any, inputs: dict[str, Any]) -> None:
        mask = inputs["attention_mask"]
        cache: Any = inputs["cache" if "cache" in inputs else "past_key_values"]
        columns = mask.shape[-1] - mask.shape[-2]
        if columns:
            layers = [(layer.keys, layer.values) for layer in cache.layers]
            seen.append([(k[:, :, :columns].clone(), v[:, :, :columns].clone()) for k, v in layers])

    label = generator.labels(seed, 1)
    handle = model.register_forward_pre_hook(keep, with_kwargs=True)
    try:
        drawn = generator.draw(mode, label, seed)
    finally:
        handle.remove()
    first = len(generator.codebook)
    heads = torch.tensor([[first + label[0]], [first + generator.num_classes]])
    with torch.inference_mode():
        whole = model(torch.cat((heads, drawn.tokens.expand(2, -1)), 1), use_cache=True)
    cache: Any = whole.cache if hasattr(whole, "cache") else whole.past_key_values
    largest = 0.0
    for states in seen:
        for pair, layer in zip(states, cache.layers, strict=True):
            for found, expected in zip(pair, (layer.keys, layer.values), strict=True):
                difference = (found - expected[:, :, : found.shape[2]]).abs().max()
                largest = max(largest, float(difference))
    if not seen or not drawn.report.unverified_tokens:
        return math.nan
    return largest
