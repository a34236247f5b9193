# SPDX-License-Identifier: Apache-2.0
"""Automatic drafting chooses what pays, gives up what does not before it has cost 3 %, and never changes a token."""

import functools
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

pytest.importorskip("transformers")

from genaccel.skip_decoding.decoding import decode
from genaccel.skip_decoding.drafts.draft_tree import TreeShape
from genaccel.skip_decoding.drafts.drafters import JacobiDrafter, ModelDrafter
from genaccel.skip_decoding.drafts.drafting import AdjustableDrafter, Draft, Drafter, Noise, Round
from genaccel.skip_decoding.drafts.feature_drafter import (
    FeatureDrafter,
    FeatureDrafterNetwork,
    FeatureDrafterParams,
)
from genaccel.skip_decoding.options import DecodingOptions, SkipRule
from genaccel.skip_decoding.sampling import SamplingRule
from genaccel.skip_decoding.tuning import auto, measurements
from genaccel.skip_decoding.tuning.auto import (
    MAX_NODES,
    AcceptanceStatistics,
    AutoDrafting,
    GuardedDrafter,
    best_widths,
    candidate_widths,
    choose_widths,
    expected_tokens,
)
from genaccel.skip_decoding.tuning.cost_curve import CostCurve, RoundCosts
from tests.skip_decoding.tiny_models import VOCABULARY, draft_of, tiny_llama

FLAT = RoundCosts(verify=CostCurve(rows=(1, 32), seconds=(1.0, 1.05)))
STEEP = RoundCosts(verify=CostCurve(rows=(1, 2), seconds=(1.0, 2.0)))
RULE = SamplingRule(guidance_scale=3.0)


@pytest.fixture(scope="module")
def target() -> Any:
    return tiny_llama()


def features(target: Any) -> FeatureDrafter:
    torch.manual_seed(7)
    network = FeatureDrafterNetwork(FeatureDrafterParams.for_target(target.config))
    return FeatureDrafter(network.double().eval(), target)


DRAFTERS: dict[str, Callable[[Any], Drafter]] = {
    "jacobi": lambda target: JacobiDrafter(3, row_length=4),
    "model": lambda target: ModelDrafter(draft_of(target)),
    "features": features,
}


def seen(
    rate: float, *, depth: int = 4, ranks: int = 1, trials: float = 1e4
) -> AcceptanceStatistics:
    """Guesses of every depth are right so often; those of the next ranks half as often each."""
    hits = [[trials * rate * 0.5**rank for rank in range(ranks)] for _ in range(depth)]
    return AcceptanceStatistics(hits, [[trials] * ranks for _ in range(depth)])


def test_statistics_count_by_depth_and_rank() -> None:
    counted = AcceptanceStatistics()
    shape = TreeShape((0, 0, 1, 1, 2, 2))  # widths 2, 2
    counted.add(shape, [[0, 2, 5], [0, 1, -1], [0, -1, -1]])
    assert counted.trials == [[3.0, 3.0], [2.0, 2.0]]
    assert counted.hits == [[1.0, 1.0], [1.0, 0.0]]
    counted.add(TreeShape.chain(3), [[0, 1, 2, 3], [0, 1, 2, -1]])
    assert counted.trials == [[5.0, 3.0], [4.0, 2.0], [2.0]]
    assert counted.hits == [[3.0, 1.0], [3.0, 0.0], [1.0]]
    counted.add(TreeShape(()), [[0]])
    assert counted.num_trials == 16.0
    again = AcceptanceStatistics.from_dict(counted.to_dict())
    again.merge(counted)
    assert again.trials == [[10.0, 6.0], [8.0, 4.0], [4.0]]


def test_old_habits_fade() -> None:
    known, new = seen(0.9, depth=1, trials=8000.0), seen(0.1, depth=1, trials=8000.0)
    known.merge(new)
    assert known.trials[0][0] == 8192.0
    for _ in range(4):
        known.merge(new)
    assert known.rates()[0][0] < 0.15


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"hits": [[1.0]], "trials": [[]]},
        {"hits": [[2.0]], "trials": [[1.0]]},
        {"hits": [[0.0]], "trials": [[float("inf")]]},
        {"hits": 3, "trials": 3},
        {"hits": [["x"]], "trials": [[1.0]]},
    ],
)
def test_statistics_that_cannot_be_are_refused(values: dict[str, Any]) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - whatever it says, they count as none
        AcceptanceStatistics.from_dict(values)


def test_what_was_not_seen_is_a_little_less_than_what_was() -> None:
    rates = seen(0.8, depth=2).rates()
    assert rates[0][0] == pytest.approx(0.8, abs=0.01)
    assert 0.7 < rates[2][0] < rates[1][0]
    assert all(sum(ranks) <= 1 for ranks in rates)
    assert expected_tokens([[0.5, 0.25], [0.5, 0.25]], (2, 1)) == 1 + 0.75 + 0.375


def test_candidates_are_chains_and_trees_within_bounds() -> None:
    chains, trees = candidate_widths(trees=False), candidate_widths(trees=True)
    assert chains == [(1,) * length for length in range(1, 9)]
    assert set(chains) < set(trees)
    assert (3, 2, 1) in trees
    assert len(set(trees)) == len(trees)
    assert max(TreeShape.of_widths(widths).num_nodes for widths in trees) <= MAX_NODES + 1


def test_the_choice_follows_costs_and_acceptance() -> None:
    assert best_widths(STEEP, seen(0.5), trees=True) == (None, pytest.approx(0.77, abs=0.03))
    widths, gain = best_widths(FLAT, seen(0.9), trees=False)
    assert widths == (1,) * 8
    assert gain > 4
    short, _ = best_widths(FLAT, seen(0.9), trees=False, max_depth=2)
    assert short == (1, 1)
    wide, _ = best_widths(FLAT, seen(0.4, ranks=3), trees=True)
    assert wide is not None
    assert wide[0] > 1
    dear = RoundCosts(verify=FLAT.verify, draft_first=0.5, draft_step=3.0)
    assert best_widths(dear, seen(0.9), trees=False)[0] == (1,)
    assert best_widths(FLAT, seen(0.02), trees=False)[0] is None
    trees_alone, _ = best_widths(FLAT, seen(0.9), trees=True, chains=False)
    assert trees_alone is not None
    assert trees_alone[0] > 1
    assert best_widths(FLAT, seen(0.9), trees=False, chains=False) == (None, 1.0)
    assert best_widths(FLAT, seen(0.9), trees=False, max_depth=0) == (None, 1.0)


def run(
    target: Any,
    drafter: Drafter | None,
    *,
    count: int = 3,
    length: int = 40,
    options: DecodingOptions = DecodingOptions(seed=5),  # noqa: B008 - frozen
    rule: SamplingRule = RULE,
) -> tuple[Tensor, Any]:
    """Decode with what auto makes of a drafter."""
    prompts = torch.randint(1, VOCABULARY, (count, 5), generator=torch.Generator().manual_seed(1))
    drafting = AutoDrafting(
        target, drafter, sequences=count, rule=rule, options=options, max_new_tokens=length
    )
    decoded = decode(
        target,
        prompts,
        rule=rule,
        max_new_tokens=length,
        drafter=drafting.drafter,
        options=options,
        negative_prompts=prompts[:, -2:],
    )
    drafting.finish(decoded.report)
    return decoded.tokens, decoded.report


@pytest.mark.parametrize("costs", [FLAT, STEEP], ids=["cheap rows", "dear rows"])
@pytest.mark.parametrize("kind", sorted(DRAFTERS))
@pytest.mark.parametrize("clock", ["still", "honest", "erratic"])
def test_no_choice_and_no_stop_changes_a_token(
    target: Any, kind: str, costs: RoundCosts, clock: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(auto, "round_costs", lambda *args, **values: costs)
    generator = torch.Generator().manual_seed(3)
    ticks = [0.0]

    def erratic() -> float:
        ticks[0] += float(torch.rand((), generator=generator)) ** 4
        return ticks[0]

    if clock != "honest":
        found = erratic if clock == "erratic" else lambda: 0.0
        monkeypatch.setattr(auto, "clock_of", lambda device: found)
    plain, _ = run(target, None)
    for _ in range(3):  # each knows more than the one before
        tokens, report = run(target, DRAFTERS[kind](target))
        assert torch.equal(tokens, plain)
    if costs is STEEP:
        assert report.choice.widths is None
        assert report.rounds == 0
        assert "promise" in report.choice.reason


@pytest.mark.parametrize("kind", sorted(DRAFTERS))
def test_a_round_without_guesses_does_not_put_a_drafter_out_of_step(
    target: Any, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its later guesses are as good as if all rounds had had some."""
    prompts = torch.randint(1, VOCABULARY, (4, 5), generator=torch.Generator().manual_seed(1))
    lengths = []
    for is_guarded in (False, True):
        drafter = DRAFTERS[kind](target)
        if is_guarded:
            drafter = GuardedDrafter(drafter, max_new_tokens=120, clock=lambda: 0.0)
            drafter._left = 0
        report = decode(
            target, prompts, rule=SamplingRule(), max_new_tokens=120, drafter=drafter
        ).report
        lengths.append(report.mean_acceptance_length)
    assert lengths[1] == pytest.approx(lengths[0], rel=0.1)


class Simulated:
    """A drafter of a decoding that takes no time but what its clock says."""

    needs_features = False

    def __init__(self, rights: list[int], *, plain: float, drafting: float, rows: float) -> None:
        self.now, self._rights, self._turn = 0.0, rights, 0
        self._plain, self._draft, self._rows = plain, drafting, rows

    def begin(
        self, prompts: Tensor, is_token: Tensor, noise: Noise, features: Tensor | None
    ) -> None:
        pass

    def guess(self, history: Tensor, lengths: Tensor, depth: int) -> Draft:
        count = min(depth, 4)
        self.now += self._draft
        root = history.gather(1, lengths[:, None] - 1)
        return Draft(TreeShape.chain(count), torch.cat((root, root.new_zeros(len(root), count)), 1))

    def learn(self, round_: Round) -> None:
        pass

    def select(self, sequences: Tensor, rows: Tensor) -> None:
        pass

    def decode(self, limit: int) -> tuple[float, GuardedDrafter]:
        """Draw so many tokens under a guard: the time that it took, over that without guesses."""
        guard = GuardedDrafter(self, max_new_tokens=limit, clock=lambda: self.now)
        empty = torch.zeros(1, 1, dtype=torch.long)
        guard.begin(empty, empty, Noise(RULE, 0, torch.zeros(1, dtype=torch.long)), None)
        begin, length, is_drafting = self.now, 1, True
        while length < limit:
            depth = limit - length - 1
            guessed = None
            if is_drafting and depth > 0:
                history = torch.zeros(1, length, dtype=torch.long)
                guessed = guard.guess(history, torch.tensor([length]), depth)
                is_drafting = guessed is not None
            count = 1
            self.now += self._plain
            if guessed is not None:
                shape, tokens = guessed.shape, guessed.tokens
                if shape.num_nodes > 1:
                    count += min(self._rights[self._turn % len(self._rights)], shape.max_depth)
                    self._turn += 1
                    self.now += self._rows
                path = torch.full((1, shape.max_depth + 1), -1)
                path[0, :count] = torch.arange(count)
                round_ = Round(
                    shape=shape,
                    tokens=tokens,
                    drawn=tokens,
                    path=path,
                    counts=torch.tensor([count]),
                    num_rows=torch.tensor([count]),
                )
                guard.learn(round_)
            length += count
        return (self.now - begin) / (self._plain * (limit - 1)), guard


@pytest.mark.parametrize("limit", [64, 256, 1024])
@pytest.mark.parametrize("rows", [0.3, 0.8, 1.2])
@pytest.mark.parametrize("drafting", [0.0, 0.15])
def test_useless_guesses_never_cost_more_than_3_percent(
    limit: int, rows: float, drafting: float
) -> None:
    ratio, guard = Simulated([0], plain=1.0, drafting=drafting, rows=rows).decode(limit)
    assert ratio < 1.03
    assert guard.stopped_after is not None
    assert guard.stop_reason is not None
    assert guard.stopped_after < limit // 2


def test_guesses_that_pay_are_not_given_up() -> None:
    ratio, guard = Simulated([0, 3, 4, 1, 0, 4], plain=1.0, drafting=0.2, rows=0.5).decode(256)
    assert guard.stopped_after is None
    assert ratio < 0.7
    assert guard.statistics.rates()[0][0] == pytest.approx(4 / 6, abs=0.05)


def test_guesses_that_stop_paying_are_given_up() -> None:
    simulated = Simulated([4] * 10 + [0] * 400, plain=1.0, drafting=0.2, rows=0.8)
    ratio, guard = simulated.decode(256)
    assert guard.stopped_after is not None
    assert ratio < 1.0


def test_a_machine_that_becomes_slower_is_not_taken_for_bad_guesses() -> None:
    class Slower(Simulated):
        def guess(self, history: Tensor, lengths: Tensor, depth: int) -> Draft:
            if int(lengths.min()) > 60:
                self._plain, self._draft, self._rows = 4.0, 0.8, 2.0
            return super().guess(history, lengths, depth)

    _, guard = Slower([2, 3], plain=1.0, drafting=0.2, rows=0.5).decode(256)
    assert guard.stopped_after is None


def test_the_target_gives_no_features_once_guessing_is_given_up(
    target: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[bool] = []
    forward = target.forward

    @functools.wraps(forward)  # whose arguments are looked at
    def recorded(*args: Any, **values: Any) -> Any:
        asked.append(values["output_hidden_states"])
        return forward(*args, **values)

    ticks = iter(range(10**6))
    drafter = GuardedDrafter(
        features(target), max_new_tokens=60, clock=lambda: float(next(ticks)) ** 2
    )
    monkeypatch.setattr(target, "forward", recorded)
    prompts = torch.tensor([[3, 4]])
    report = decode(target, prompts, rule=SamplingRule(), max_new_tokens=60, drafter=drafter).report
    assert drafter.stopped_after is not None
    assert asked[0]
    assert asked[-1] is False
    assert report.generated_tokens == 60


class Useless(JacobiDrafter):
    """Guesses the padding."""

    def guess(self, history: Tensor, lengths: Tensor, depth: int) -> Draft:
        draft = super().guess(history, lengths, depth)
        draft.tokens[:, 1:] = 0
        return draft

    def with_widths(self, widths: tuple[int, ...]) -> JacobiDrafter:
        return Useless(len(widths))


def test_it_learns_from_decoding_to_decoding(
    target: Any, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cheap = RoundCosts(verify=CostCurve(rows=(1, 8), seconds=(1.0, 1.4)))
    monkeypatch.setattr(auto, "round_costs", lambda *args, **values: cheap)
    monkeypatch.setattr(auto, "clock_of", lambda device: lambda: 0.0)
    useless = Useless(4)
    _, report = run(target, useless, length=100)
    assert report.choice.widths is not None
    assert "nothing known" in report.choice.reason
    measurements.forget()  # the next process
    run(target, useless, length=100)
    _, report = run(target, useless, length=100)
    assert report.choice.widths is None
    assert "as former decodings went" in report.choice.reason
    # What another drafter, or this one in another mode, is worth is another matter.
    assert run(target, ModelDrafter(draft_of(target)))[1].choice.widths is not None
    assert run(target, useless, rule=SamplingRule(top_k=3, guidance_scale=3.0))[1].rounds > 0
    for file in cache.iterdir():
        file.write_text("{")
    measurements.forget()
    assert run(target, useless)[1].choice.widths is not None


def test_skipped_rounds_tell_nothing_of_acceptance(
    target: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(auto, "round_costs", lambda *args, **values: FLAT)
    monkeypatch.setattr(auto, "clock_of", lambda device: lambda: 0.0)
    options = DecodingOptions(seed=5, skip=SkipRule())
    kept: list[dict[str, Any]] = []
    monkeypatch.setattr(auto, "keep", lambda kind, key, values, **rest: kept.append(values))
    _, report = run(target, ModelDrafter(draft_of(target)), options=options)
    assert report.unverified_tokens > 0
    assert kept[0]["trials"][0][0] == report.rounds


@pytest.mark.parametrize("ends", [False, True])
@pytest.mark.parametrize("kind", sorted(DRAFTERS))
def test_unverified_rounds_that_are_taken_back_leave_the_tokens_as_they_are(
    target: Any, kind: str, ends: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where rounds without guesses, or the end of guessing, come between."""
    monkeypatch.setattr(auto, "round_costs", lambda *args, **values: FLAT)
    ticks = iter(range(10**6))
    monkeypatch.setattr(
        auto, "clock_of", lambda device: lambda: float(next(ticks)) ** 1.5 if ends else 0.0
    )
    plain, _ = run(target, None)
    options = DecodingOptions(seed=5, skip=SkipRule(rollback_below=1.0))
    for _ in range(2):
        tokens, report = run(target, DRAFTERS[kind](target), options=options)
        assert torch.equal(tokens, plain)
    assert (report.choice.stopped_after is None) != ends
    assert ends or report.rolled_back_tokens > 0


@pytest.mark.parametrize("guessing", ["coupled", "drawn", "likeliest"])
@pytest.mark.parametrize("path", ["uniform", "confidence"])
def test_every_mode_can_be_chosen_for(
    target: Any, guessing: Any, path: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """Nothing is patched: rounds are measured, guessed for, skipped and given up."""
    options = DecodingOptions(guessing=guessing, skip=SkipRule(path=path))
    _, report = run(target, ModelDrafter(draft_of(target)), options=options)
    assert report.generated_tokens == 120
    assert report.choice.reason.startswith("with nothing known yet")
    assert not caplog.records


def test_what_goes_wrong_leaves_the_drafter_as_it_is(
    target: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*args: Any, **values: Any) -> Any:
        raise OSError("no clock")

    plain, _ = run(target, None)
    monkeypatch.setattr(auto, "round_costs", broken)
    monkeypatch.setattr(auto, "keep", broken)
    with caplog.at_level(logging.WARNING):
        tokens, report = run(target, ModelDrafter(draft_of(target)))
    assert torch.equal(tokens, plain)
    assert report.rounds > 0
    assert "no clock" in str(report.choice)
    assert len(caplog.records) == 2


def test_a_drafter_without_widths_is_guarded_as_it_is(target: Any) -> None:
    drafter = Simulated([0], plain=1.0, drafting=0.0, rows=0.0)
    assert not isinstance(drafter, AdjustableDrafter)
    tokens, report = run(target, drafter)
    assert torch.equal(tokens, run(target, None)[0])
    assert "takes no widths" in report.choice.reason


@pytest.mark.parametrize("kind", sorted(DRAFTERS))
def test_widths_can_be_given(target: Any, kind: str) -> None:
    drafter = DRAFTERS[kind](target)
    assert isinstance(drafter, AdjustableDrafter)
    chosen = drafter.with_widths((1, 1))
    assert type(chosen) is type(drafter)
    prompts = torch.tensor([[3, 4]])
    report = decode(target, prompts, rule=SamplingRule(), max_new_tokens=30, drafter=chosen).report
    assert len(report.acceptance_histogram) <= 3
    assert report.drafted_tokens <= 2 * report.rounds
    assert (report.draft_cpu_seconds > 0) == (kind != "jacobi")
    if not drafter.guesses_trees:
        with pytest.raises(ValueError, match="guesses chains"):
            drafter.with_widths((2, 1))


def test_widths_alone_can_be_asked_for(target: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(auto, "round_costs", lambda *args, **values: FLAT)
    found = choose_widths(target, JacobiDrafter(2), sequences=1, rule=RULE, max_new_tokens=5)
    assert found == (1, 1, 1)  # two of five tokens need no guess
    monkeypatch.setattr(auto, "round_costs", lambda *args, **values: STEEP)
    found = choose_widths(target, JacobiDrafter(2), sequences=1, rule=RULE, max_new_tokens=50)
    assert found is None
