# SPDX-License-Identifier: Apache-2.0
"""Relaxed acceptance stays within its bound, and skipped verifications leave the target's memory whole."""

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor

pytest.importorskip("transformers")

from genaccel.skip_decoding.decoding import _Decoding, decode
from genaccel.skip_decoding.drafts.draft_tree import TreeShape
from genaccel.skip_decoding.drafts.drafters import JacobiDrafter, ModelDrafter
from genaccel.skip_decoding.drafts.drafting import Draft, Drafter
from genaccel.skip_decoding.drafts.feature_drafter import (
    FeatureDrafter,
    FeatureDrafterNetwork,
    FeatureDrafterParams,
)
from genaccel.skip_decoding.memory.cached_rows import CachedRows
from genaccel.skip_decoding.options import DecodingOptions, SkipRule
from genaccel.skip_decoding.report import DecodingReport
from genaccel.skip_decoding.sampling import SamplingRule
from genaccel.skip_decoding.verifying.acceptance import Relaxation, nearest_code_words
from tests.skip_decoding.tiny_models import VOCABULARY, draft_of, tiny_llama

UNIT_CODES = torch.nn.functional.normalize(
    torch.randn(VOCABULARY, 4, generator=torch.Generator().manual_seed(5)), dim=1
)


@pytest.fixture(scope="module")
def target() -> Any:
    return tiny_llama()


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


@pytest.mark.parametrize("guessing", ["coupled", "drawn", "likeliest"])
def test_relaxation_accepts_more(target: Any, guessing: Any) -> None:
    prompts = torch.randint(1, VOCABULARY, (16, 3), generator=torch.Generator().manual_seed(0))
    neighbours = nearest_code_words(UNIT_CODES, 20)
    reports = []
    for delta in (0.0, 0.3):
        options = DecodingOptions(
            relaxation=Relaxation(neighbours=neighbours, count=12, delta=delta), guessing=guessing
        )
        found = decode(
            target,
            prompts,
            rule=SamplingRule(),
            max_new_tokens=40,
            options=options,
            drafter=ModelDrafter(tiny_llama(layers=1, seed=9), widths=(2, 2)),
        )
        assert found.lengths.tolist() == [40] * 16
        reports.append(found.report)
    assert reports[1].accepted_tokens > 1.1 * reports[0].accepted_tokens
    assert reports[0].substituted_tokens == 0
    assert 0 < reports[1].substituted_tokens <= reports[1].accepted_tokens
    assert reports[1].substituted_fraction == reports[1].substituted_tokens / 640


def test_what_stands_behind_an_end_is_not_counted(target: Any) -> None:
    prompts = torch.randint(1, VOCABULARY, (16, 3), generator=torch.Generator().manual_seed(0))
    report = decode(
        target,
        prompts,
        rule=SamplingRule(),
        max_new_tokens=20,
        options=DecodingOptions(
            relaxation=Relaxation(
                neighbours=nearest_code_words(UNIT_CODES, 20), count=20, delta=1.0
            ),
            guessing="coupled",
            end_tokens=tuple(range(20)),
        ),
        drafter=ModelDrafter(tiny_llama(layers=1, seed=9), widths=(3, 3)),
    ).report
    assert 0 < report.substituted_tokens <= report.accepted_tokens


def test_what_a_guess_stands_for_is_what_the_target_drew(target: Any) -> None:
    """With coupled guesses a token that differs from plain decoding's, the rest before it alike, is a code word near it."""
    prompts = torch.randint(1, VOCABULARY, (32, 3), generator=torch.Generator().manual_seed(0))
    relaxation = Relaxation(neighbours=nearest_code_words(UNIT_CODES, 12), count=12, delta=0.3)
    tokens = [
        decode(
            target,
            prompts,
            rule=SamplingRule(),
            max_new_tokens=20,
            options=DecodingOptions(relaxation=relaxed, guessing="coupled"),
            drafter=ModelDrafter(tiny_llama(layers=1, seed=9), widths=(2, 2)),
        ).tokens
        for relaxed in (None, relaxation)
    ]
    differs = tokens[0] != tokens[1]
    sequences = differs.any(1).nonzero().flatten()
    assert len(sequences) > 8
    first = differs[sequences].int().argmax(1)
    drawn, taken = (t[sequences, first] for t in tokens)
    assert bool((relaxation.neighbours[taken] == drawn[:, None]).any(1).all())


@pytest.mark.parametrize("guidance_scale", [1.0, 3.0])
@pytest.mark.parametrize(
    "skip",
    [
        SkipRule(),
        SkipRule(interval=3),
        SkipRule(interval=None, threshold=0.1, unit_codes=UNIT_CODES),
        SkipRule(rollback_below=0.05, max_unverified=0.6),
    ],
    ids=["every second", "every third", "alike", "taken back"],
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
                            found, expected = (
                                getattr(layer, name)[at, :, : whole.shape[1]]
                                for layer, at in ((ours, row), (theirs, 0))
                            )
                            torch.testing.assert_close(found, expected, atol=1e-10, rtol=0)
    # One path alone is like no other, so a chain is never skipped for its likeness.
    assert any(skips) == (skip.threshold is None or kind == "tree")
    assert not any(a and b for a, b in itertools.pairwise(skips))
    assert report.rounds + sum(skips) * 2 >= len(skips)
    assert report.unverified_tokens <= skip.max_unverified * 80
    assert (report.unverified_tokens > 0) == any(skips)
    assert (report.rolled_back_tokens > 0) == (skip.rollback_below > 0)
    assert int(decoding.unverified.sum()) == report.unverified_tokens
    assert decoding.lengths.tolist() == [40, 40]


DRAFTERS = {
    "jacobi": lambda target: JacobiDrafter(4),
    "model": lambda target: ModelDrafter(draft_of(target), widths=(2, 2)),
    "poor model": lambda target: ModelDrafter(tiny_llama(layers=1, seed=9), widths=(1, 1, 1)),
    "features": lambda target: FeatureDrafter(feature_network(target), target, widths=(2, 1, 1)),
    "old features": lambda target: FeatureDrafter(
        feature_network(target), target, staleness=(0, 1)
    ),
}


def feature_network(target: Any) -> FeatureDrafterNetwork:
    torch.manual_seed(7)
    return FeatureDrafterNetwork(FeatureDrafterParams.for_target(target.config)).double().eval()


@pytest.mark.parametrize("guidance_scale", [1.0, 3.0])
@pytest.mark.parametrize("name", sorted(DRAFTERS))
def test_where_all_that_is_not_certain_is_taken_back_nothing_differs(
    target: Any, name: str, guidance_scale: float
) -> None:
    count, steps, deepest = 5, 40, 4
    prompts = torch.randint(1, VOCABULARY, (count, 6), generator=torch.Generator().manual_seed(1))
    is_token = torch.ones_like(prompts, dtype=torch.bool)
    for number in range(count):
        is_token[number, :number] = False
    told: list[int] = []

    def run(drafter: Drafter | None, skip: SkipRule | None, ends: tuple[int, ...]) -> Any:
        told.clear()
        return decode(
            target,
            prompts,
            is_token,
            rule=SamplingRule(guidance_scale=guidance_scale),
            max_new_tokens=steps,
            drafter=drafter,
            options=DecodingOptions(seed=5, end_tokens=ends, pad_token=VOCABULARY, skip=skip),
            negative_prompts=prompts[:, -1:],
            on_tokens=lambda done, total: told.append(done),
        )

    plain = run(None, None, ()).tokens
    taken_back = 0
    for ends in ((), (3, 4, 5)):
        found = run(DRAFTERS[name](target), SkipRule(rollback_below=1.0), ends)
        taken_back += found.report.rolled_back_tokens
        assert told == sorted(told)
        for tokens, expected, length in zip(
            found.tokens, plain, found.lengths.tolist(), strict=True
        ):
            # What an unverified round ended a sequence with, nothing came behind to judge.
            judged = max(0, length - deepest)
            assert torch.equal(tokens[:judged], expected[:judged])
            assert set(tokens[length:].tolist()) <= {VOCABULARY}
            assert VOCABULARY not in tokens[:length].tolist()
    assert taken_back > 20


@pytest.mark.parametrize("guidance_scale", [1.0, 3.0])
@pytest.mark.parametrize("rollback_below", [0.0, 0.05])
def test_a_drafters_memory_is_whole_after_a_skip(
    target: Any, rollback_below: float, guidance_scale: float
) -> None:
    """Of a small model, and of a feature drafter, which reads with the right features what it had read with old ones."""
    prompts = torch.randint(1, VOCABULARY, (2, 5), generator=torch.Generator().manual_seed(1))
    rule = SamplingRule(guidance_scale=guidance_scale)
    rows = prompts.repeat(2 if rule.is_guided else 1, 1)
    model = draft_of(target)
    of_model, of_features = (
        ModelDrafter(model, widths=(2, 1, 1)),
        FeatureDrafter(feature_network(target), target, widths=(1, 1, 1)),
    )
    for drafter in (of_model, of_features):
        options = DecodingOptions(skip=SkipRule(rollback_below=rollback_below), seed=4)
        report = DecodingReport()
        decoding = _Decoding(target, rule, drafter, options, torch.arange(2), 40, report)
        with torch.inference_mode():
            decoding.begin(rows, torch.ones_like(rows, dtype=torch.bool))
            while len(decoding.active) == 2 and int(decoding.lengths.max()) < 36:
                decoding.round()
                if decoding.num_pending:
                    continue
                for row in range(len(rows)):
                    tokens = decoding.result[row % 2, : decoding.lengths[row % 2] - 1]
                    whole = torch.cat((rows[row], tokens))[None]
                    count = int(drafter._rows.ends[row])
                    if drafter is of_model:
                        assert count == whole.shape[1]
                        fresh = CachedRows(model)
                        fresh.prefill(whole, torch.ones_like(whole, dtype=torch.bool))
                    else:
                        # Each row has a feature and the token after it; the last ones are still to be read.
                        assert count + int(of_features._counts[row % 2]) == whole.shape[1]
                        hidden = target(whole, output_hidden_states=True).hidden_states[-1]
                        fresh = CachedRows(of_features._model, with_features=True)
                        following = whole[:, 1 : count + 1]
                        is_token = torch.ones_like(following, dtype=torch.bool)
                        fresh.prefill(following, is_token, features=hidden[:, :count])
                    for ours, theirs in zip(
                        drafter._rows._cache.layers, fresh._cache.layers, strict=True
                    ):
                        torch.testing.assert_close(
                            ours.keys[row, :, :count], theirs.keys[0, :, :count], atol=1e-9, rtol=0
                        )
        assert report.unverified_tokens > 0
        assert (report.rolled_back_tokens > 0) == (rollback_below > 0)


@pytest.mark.parametrize("share", [0.0, 0.1, 0.3])
def test_the_share_of_unverified_tokens_stays_within_its_bound(target: Any, share: float) -> None:
    prompts = torch.randint(1, VOCABULARY, (3, 4), generator=torch.Generator().manual_seed(1))
    found = decode(
        target,
        prompts,
        rule=SamplingRule(),
        max_new_tokens=60,
        options=DecodingOptions(skip=SkipRule(max_unverified=share)),
        drafter=ModelDrafter(draft_of(target), widths=(1, 1, 1)),
    )
    assert found.report.unverified_fraction <= share
    assert found.report.unverified_fraction > 0.7 * share or share == 0


class _Uneven:
    """Guesses a deep path and a shallow one, and says which is likelier."""

    needs_features = False

    def __init__(self, deep: float) -> None:
        self._deep = deep

    def begin(self, *_: Any) -> None:
        pass

    def guess(self, history: Tensor, lengths: Tensor, depth: int) -> Draft:
        tokens = torch.tensor([[0, 1, 2, 3, 4]]).repeat(len(history), 1)
        tokens[:, 0] = history.gather(1, lengths[:, None] - 1)[:, 0]
        chances = torch.tensor([[0.0, self._deep, -1.0, -0.1, -0.1]]).expand(len(history), -1)
        shape = TreeShape((0, 0, 1, 3))
        return Draft(shape.cut(depth), tokens[:, : shape.cut(depth).num_nodes], None, chances)

    def learn(self, round_: Any) -> None:
        pass

    def select(self, *_: Any) -> None:
        pass


@pytest.mark.parametrize(
    ("deep", "truncates", "expected"),
    [(-0.1, True, [1, 3]), (-0.1, False, [1, 3, 4]), (-2.0, True, [2]), (-2.0, False, [2])],
)
def test_the_likeliest_path_is_committed_up_to_the_mean_length(
    target: Any, deep: float, truncates: bool, expected: list[int]
) -> None:
    options = DecodingOptions(skip=SkipRule(path="confidence", truncates=truncates))
    decoding = _Decoding(
        target, SamplingRule(), _Uneven(deep), options, torch.arange(1), 40, DecodingReport()
    )
    prompt = torch.tensor([[7]])
    with torch.inference_mode():
        decoding.begin(prompt, torch.ones_like(prompt, dtype=torch.bool))
        while not decoding.num_pending:
            decoding.round()
    length = int(decoding.lengths)
    assert decoding.result[0, length - len(expected) : length].tolist() == expected
    assert decoding.num_pending == len(expected)


def test_a_path_by_confidence_needs_to_know_it(target: Any) -> None:
    options = DecodingOptions(skip=SkipRule(path="confidence"))
    with pytest.raises(ValueError, match="tells how likely its guesses are"):
        decode(
            target,
            torch.tensor([[7]]),
            rule=SamplingRule(),
            max_new_tokens=30,
            drafter=JacobiDrafter(4),
            options=options,
        )


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
        ({"path": "any"}, "path must be"),
        ({"max_unverified": 1.1}, "max_unverified must be from 0 to 1"),
        ({"rollback_below": -0.1}, "rollback_below must be from 0 to 1"),
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
