# SPDX-License-Identifier: Apache-2.0
"""Relaxed acceptance stays within its bound, and skipped verifications leave the target's memory whole."""

import itertools
from typing import Any

import pytest
import torch

pytest.importorskip("transformers")

from genaccel.skip_decoding.acceptance import (
    Relaxation,
    accept_by_rejection,
    nearest_code_words,
)
from genaccel.skip_decoding.cached_rows import CachedRows
from genaccel.skip_decoding.decoding import _Decoding, decode
from genaccel.skip_decoding.draft_tree import TreeShape
from genaccel.skip_decoding.drafters import JacobiDrafter, ModelDrafter
from genaccel.skip_decoding.drafting import Drafter
from genaccel.skip_decoding.feature_drafter import (
    FeatureDrafter,
    FeatureDrafterNetwork,
    FeatureDrafterParams,
)
from genaccel.skip_decoding.options import DecodingOptions, SkipRule
from genaccel.skip_decoding.report import DecodingReport
from genaccel.skip_decoding.sampling import SamplingRule
from tests.skip_decoding.enumeration import first_token_distribution
from tests.skip_decoding.tiny_models import VOCABULARY, draft_of, tiny_llama

UNIT_CODES = torch.nn.functional.normalize(
    torch.randn(VOCABULARY, 4, generator=torch.Generator().manual_seed(5)), dim=1
)


@pytest.fixture(scope="module")
def target() -> Any:
    return tiny_llama()


@pytest.mark.parametrize("seed", range(5))
def test_without_relaxation_the_distribution_is_the_targets(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    probabilities = torch.randn(12, generator=generator, dtype=torch.float64).softmax(0)
    tokens = torch.tensor([0, *torch.randperm(12, generator=generator)[:3]])
    found = first_token_distribution(TreeShape((0, 0, 0)), tokens, probabilities, None)
    torch.testing.assert_close(found, probabilities, atol=1e-12, rtol=0)


@pytest.mark.parametrize("delta", [0.05, 0.2, 0.4])
def test_one_relaxed_guess_moves_no_more_than_the_bound(delta: float) -> None:
    moved = []
    for seed in range(20):
        generator = torch.Generator().manual_seed(seed)
        probabilities = (2 * torch.randn(12, generator=generator, dtype=torch.float64)).softmax(0)
        codes = torch.randn(12, 3, generator=generator)
        relaxation = Relaxation(neighbours=nearest_code_words(codes, 8), count=6, delta=delta)
        tokens = torch.tensor([0, int(torch.randint(12, (1,), generator=generator))])
        found = first_token_distribution(TreeShape((0,)), tokens, probabilities, relaxation)
        assert float(found.sum()) == pytest.approx(1)
        # What the guess gains is what others lose; what is left of them is shared out anew.
        gained = float(found[tokens[1]] - probabilities[tokens[1]])
        assert -1e-12 <= gained <= delta + 1e-12
        moved.append(gained)
    assert max(moved) > 0.3 * delta


@pytest.mark.parametrize("seed", [0, 1])
def test_drawn_guesses_leave_the_distribution_alone(seed: int) -> None:
    """Chi-square over two tokens of a tree whose siblings are drawn without replacement."""
    generator = torch.Generator().manual_seed(seed)
    size, shape = 5, TreeShape((0, 0, 1, 2))
    target_weights = torch.randn(
        size, size, generator=generator, dtype=torch.float64
    )  # by last token
    draft_weights = torch.randn(size, size, generator=generator, dtype=torch.float64)
    p, q = target_weights.softmax(1), draft_weights.softmax(1)
    counts, runs = torch.zeros(size, size), 6000
    for _ in range(runs):
        children = torch.multinomial(q[0], 2, generator=generator)
        grandchildren = [int(torch.multinomial(q[c], 1, generator=generator)) for c in children]
        tokens = torch.tensor([0, *children, *grandchildren])
        found = accept_by_rejection(
            shape,
            tokens,
            target_weights[tokens],
            iter(torch.rand(4, generator=generator).tolist()),
            draft_probabilities=q[tokens],
        )
        drawn = [int(tokens[node]) for node in found.path[1:]]
        drawn.append(int(torch.multinomial(found.residual, 1, generator=generator)))
        while len(drawn) < 2:
            drawn.append(int(torch.multinomial(p[drawn[-1]], 1, generator=generator)))
        counts[drawn[0], drawn[1]] += 1
    expected = runs * p[0][:, None] * p
    assert (
        float(((counts - expected) ** 2 / expected).sum()) < 51.2
    )  # 24 degrees of freedom, p 0.001


@pytest.mark.parametrize("kind", ["model", "jacobi"])
def test_rejection_knows_nothing_of_how_guesses_were_drawn(target: Any, kind: str) -> None:
    """With nothing to borrow the tokens are as likely as those of plain decoding, whatever guesses."""
    prompts = torch.randint(1, VOCABULARY, (16, 3), generator=torch.Generator().manual_seed(0))
    relaxation = Relaxation(neighbours=nearest_code_words(UNIT_CODES, 2), count=1, delta=0.0)
    likelihoods = []
    for relaxed in (False, True):
        drafter = JacobiDrafter(3) if kind == "jacobi" else ModelDrafter(draft_of(target))
        tokens = decode(
            target,
            prompts,
            rule=SamplingRule(),
            max_new_tokens=60,
            drafter=drafter,
            options=DecodingOptions(seed=8, relaxation=relaxation if relaxed else None),
        ).tokens
        with torch.inference_mode():
            logits = target(torch.cat((prompts, tokens[:, :-1]), 1)).logits[:, 2:]
        picked = logits.log_softmax(-1).gather(2, tokens[..., None])
        likelihoods.append(float(picked.mean()))
    assert abs(likelihoods[0] - likelihoods[1]) < 0.1  # three standard errors


def test_relaxation_accepts_more(target: Any) -> None:
    prompts = torch.randint(1, VOCABULARY, (4, 3), generator=torch.Generator().manual_seed(0))
    neighbours = nearest_code_words(UNIT_CODES, 20)
    lengths = []
    for delta in (0.0, 0.3):
        options = DecodingOptions(
            relaxation=Relaxation(neighbours=neighbours, count=12, delta=delta)
        )
        found = decode(
            target,
            prompts,
            rule=SamplingRule(),
            max_new_tokens=40,
            options=options,
            drafter=ModelDrafter(draft_of(target), widths=(3, 2)),
        )
        assert found.lengths.tolist() == [40] * 4
        lengths.append(found.report.mean_acceptance_length)
    assert lengths[1] > 1.1 * lengths[0]


@pytest.mark.parametrize("guidance_scale", [1.0, 3.0])
@pytest.mark.parametrize(
    "skip",
    [
        SkipRule(),
        SkipRule(interval=3),
        SkipRule(interval=None, threshold=0.1, unit_codes=UNIT_CODES),
    ],
    ids=["every second", "every third", "alike"],
)
@pytest.mark.parametrize("kind", ["chain", "tree", "jacobi", "features"])
def test_the_memory_is_whole_after_a_skip(
    target: Any, kind: str, skip: SkipRule, guidance_scale: float
) -> None:
    prompts = torch.randint(1, VOCABULARY, (2, 5), generator=torch.Generator().manual_seed(1))
    rule = SamplingRule(guidance_scale=guidance_scale)
    widths = {"chain": (1, 1, 1), "tree": (3, 2, 1)}
    drafter: Drafter
    if kind == "jacobi":
        drafter = JacobiDrafter(4)
    elif kind == "features":
        params = FeatureDrafterParams.for_target(target.config)
        drafter = FeatureDrafter(FeatureDrafterNetwork(params).double().eval(), target)
    else:
        drafter = ModelDrafter(draft_of(target), widths=widths[kind])
    report = DecodingReport()
    branches = 2 if rule.is_guided else 1
    decoding = _Decoding(
        target, rule, drafter, DecodingOptions(skip=skip, seed=4), torch.arange(2), 40, report
    )
    rows = prompts.repeat(branches, 1)
    skips = []
    with torch.inference_mode():
        decoding.begin(rows, torch.ones_like(rows, dtype=torch.bool))
        while len(decoding.active):
            before = report.target_forwards
            decoding.round()
            skips.append(report.target_forwards == before)
            if decoding.num_pending or len(decoding.active) < 2:
                continue
            for branch in range(branches):
                for number in range(2):
                    tokens = decoding.result[number, : decoding.lengths[number] - 1]
                    whole = torch.cat((prompts[number], tokens))[None]
                    fresh = CachedRows(target)
                    fresh.prefill(whole, torch.ones_like(whole, dtype=torch.bool))
                    row = branch * 2 + number
                    assert int(decoding.target.ends[row]) == whole.shape[1]
                    for ours, theirs in zip(
                        decoding.target._cache.layers, fresh._cache.layers, strict=True
                    ):
                        for name in ("keys", "values"):
                            found = getattr(ours, name)[row, :, : whole.shape[1]]
                            torch.testing.assert_close(
                                found, getattr(theirs, name)[0], atol=1e-9, rtol=0
                            )
    # One path alone is like no other, so a chain is never skipped for its likeness.
    assert any(skips) == (skip.threshold is None or kind == "tree")
    assert not any(a and b for a, b in itertools.pairwise(skips))
    assert report.rounds + sum(skips) * 2 >= len(skips)
    assert report.unverified_fraction < 0.7
    assert (report.unverified_tokens > 0) == any(skips)
    assert decoding.lengths.tolist() == [40, 40]


def test_skipping_saves_forwards(target: Any) -> None:
    prompts = torch.randint(1, VOCABULARY, (1, 5), generator=torch.Generator().manual_seed(1))
    forwards = {}
    for skip in (None, SkipRule()):
        found = decode(
            target,
            prompts,
            rule=SamplingRule(),
            max_new_tokens=60,
            options=DecodingOptions(skip=skip),
            drafter=ModelDrafter(draft_of(target), widths=(1, 1, 1)),
        )
        forwards[skip is None] = found.report.target_forwards
    assert forwards[False] < 0.8 * forwards[True]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"interval": 1}, "interval must be at least 2"),
        ({"threshold": 0.5}, "not both"),
        ({"interval": None}, "not both"),
        ({"interval": None, "threshold": 0.5}, "needs the code words"),
    ],
)
def test_a_skip_rule_that_cannot_be_is_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SkipRule(**values)


def test_a_relaxation_that_cannot_be_is_refused() -> None:
    neighbours = nearest_code_words(UNIT_CODES, 3)
    with pytest.raises(ValueError, match="n at least 4"):
        Relaxation(neighbours=neighbours, count=4, delta=0.1)
    with pytest.raises(ValueError, match="delta must be at least 0"):
        Relaxation(neighbours=neighbours, count=2, delta=float("nan"))
    with pytest.raises(ValueError, match="count must be from 1 to 39"):
        nearest_code_words(UNIT_CODES, 40)
