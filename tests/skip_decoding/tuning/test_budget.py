# SPDX-License-Identifier: Apache-2.0
"""The setting that a budget finds has been shown to stay within it, by the target's own likelihood."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

pytest.importorskip("transformers")

from genaccel.skip_decoding.decoding import decode
from genaccel.skip_decoding.drafts.drafters import ModelDrafter
from genaccel.skip_decoding.options import DecodingOptions, SkipRule
from genaccel.skip_decoding.sampling import SamplingRule
from genaccel.skip_decoding.tuning import budget, measurements
from genaccel.skip_decoding.tuning.budget import (
    Setting,
    Tuned,
    negative_log_likelihood,
    tune,
    upper_bound,
)
from genaccel.skip_decoding.verifying.acceptance import Relaxation, nearest_code_words
from tests.skip_decoding.tiny_models import VOCABULARY, draft_of, tiny_llama

CODES = torch.nn.functional.normalize(
    torch.randn(VOCABULARY, 4, generator=torch.Generator().manual_seed(0)), dim=1
)
RELAXATION = Relaxation(neighbours=nearest_code_words(CODES, 20), count=12, delta=0.1)
RULE = SamplingRule(guidance_scale=2.0, top_k=20)


@pytest.fixture(scope="module")
def target() -> Any:
    return tiny_llama()


def prompts_of(count: int) -> tuple[Tensor, Tensor]:
    prompts = torch.randint(
        1, VOCABULARY, (count, 4), generator=torch.Generator().manual_seed(count)
    )
    is_token = torch.ones_like(prompts, dtype=torch.bool)
    is_token[0, :2] = False
    return prompts, is_token


@pytest.mark.parametrize("window", [3, 64])
@pytest.mark.parametrize("scale", [1.0, 2.0])
def test_the_likelihood_is_that_of_one_forward_over_each_sequence(
    target: Any, scale: float, window: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(budget, "_WINDOW", window)
    rule = SamplingRule(guidance_scale=scale, top_k=2, temperature=0.7, allowed=(0, 30))
    prompts, is_token = prompts_of(3)
    negative = torch.tensor([[5, 7, 2]]).expand(3, -1)
    generator = torch.Generator().manual_seed(2)
    tokens, lengths = torch.randint(30, (3, 10), generator=generator), torch.tensor([10, 4, 1])
    found = negative_log_likelihood(
        target, prompts, is_token, tokens, lengths, rule=rule, negative_prompts=negative
    )
    for number in range(3):
        own = tokens[number, : lengths[number]]
        with torch.inference_mode():
            logits, free = (
                target(torch.cat((prompt, own))[None]).logits[0, len(prompt) - 1 : -1, :30]
                for prompt in (prompts[number][is_token[number]], negative[number])
            )
        weights = (free + scale * (logits - free)) / 0.7
        expected = -weights.log_softmax(-1).gather(1, own[:, None]).mean()
        assert float(found[number]) == pytest.approx(float(expected), abs=1e-9)


def test_the_bound_is_students() -> None:
    # Quantiles of one-sided tables.
    for degrees, confidence, expected in (
        (1, 0.95, 6.314),
        (2, 0.95, 2.920),
        (3, 0.95, 2.353),
        (7, 0.95, 1.895),
        (7, 0.99, 2.998),
        (30, 0.99, 2.457),
    ):
        assert budget._quantile(confidence, degrees) == pytest.approx(expected, rel=0.006)
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(4000, 8, generator=generator) + 1.0
    covered = sum(upper_bound(row) >= 1.0 for row in values) / len(values)
    assert covered == pytest.approx(0.95, abs=0.011)  # three standard errors


def tuned(target: Any, **values: Any) -> Tuned:
    prompts, is_token = prompts_of(2)
    options = DecodingOptions(seed=2, relaxation=RELAXATION, skip=SkipRule())
    arguments: dict[str, Any] = {"options": options, "sequences": 6, **values}
    return tune(
        target,
        ModelDrafter(draft_of(target)),
        prompts,
        is_token,
        rule=RULE,
        max_new_tokens=16,
        negative_prompts=prompts[:, -1:],
        **arguments,
    )


def test_a_wide_budget_is_used_and_a_narrow_one_is_kept(
    target: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]

    def decoded(*args: Any, options: DecodingOptions, **values: Any) -> Any:
        now[0] += 1.0 if options.is_exact else 0.5
        return decode(*args, options=options, **values)

    monkeypatch.setattr(budget, "decode", decoded)
    monkeypatch.setattr(budget, "clock_of", lambda device: lambda: now[0])
    wide = tuned(target, max_nll_gap=50.0)
    assert wide.setting != Setting()
    assert not wide.options.is_exact
    assert wide.options.seed == 2
    assert wide.nll_gap <= wide.nll_gap_bound <= 50.0
    none = tuned(target, max_nll_gap=0.0)
    assert none.options.is_exact
    assert (none.nll_gap, none.speedup) == (0.0, 1.0)


def test_what_is_not_asked_for_is_not_relaxed(target: Any) -> None:
    alone = tuned(target, max_nll_gap=50.0, options=DecodingOptions(seed=2, relaxation=RELAXATION))
    assert alone.options.skip is None
    alone = tuned(
        target,
        max_nll_gap=50.0,
        options=DecodingOptions(
            skip=SkipRule(interval=None, threshold=0.7, unit_codes=CODES.double())
        ),
    )
    assert alone.options.relaxation is None
    assert alone.setting.interval is None
    exact = tuned(target, max_nll_gap=50.0, options=DecodingOptions())
    assert exact.options.is_exact


def test_the_bound_decides_and_not_the_mean(target: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    gaps = {
        None: torch.zeros(6),
        0.05: torch.tensor([0.0, 0.1] * 3),
        0.1: torch.tensor([-0.9, 1.1] * 3),
    }
    now = [0.0]
    seen: list[DecodingOptions] = []

    def decoded(*args: Any, options: DecodingOptions, **values: Any) -> Any:
        seen.append(options)
        now[0] += 1.0 if options.is_exact else 0.5
        return decode(*args, options=options, **values)

    def likelihood(*args: Any, **values: Any) -> Tensor:
        relaxation = seen[-1].relaxation
        return gaps[None if relaxation is None else relaxation.delta].double()

    monkeypatch.setattr(budget, "decode", decoded)
    monkeypatch.setattr(budget, "negative_log_likelihood", likelihood)
    monkeypatch.setattr(budget, "clock_of", lambda device: lambda: now[0])
    options = DecodingOptions(relaxation=RELAXATION)
    # Delta 0.1 costs 0.1 nats in the mean, but that is not certain enough, so that laxer ones are not even tried.
    found = tuned(target, options=options, max_nll_gap=0.2)
    assert found.setting == Setting(delta=0.05)
    assert found.nll_gap == pytest.approx(0.05)
    assert 0.05 < found.nll_gap_bound <= 0.2
    assert found.speedup == pytest.approx(2.0)
    assert 0.2 not in [o.relaxation.delta for o in seen if o.relaxation]


def test_the_share_of_unverified_tokens_is_capped(target: Any) -> None:
    options = DecodingOptions(skip=SkipRule())
    free = tuned(target, options=options)
    capped = tuned(target, options=options, max_unverified=0.2)
    assert capped.unverified_fraction <= 0.2
    assert free.unverified_fraction >= capped.unverified_fraction
    assert capped.options.skip is None or capped.options.skip.max_unverified == 0.2
    assert tuned(target, options=options, max_unverified=0.0).unverified_fraction == 0


def test_it_is_tuned_once(target: Any, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = tuned(target, max_nll_gap=50.0)

    def measured_again(*args: Any, **values: Any) -> Any:
        raise AssertionError("measured again")

    monkeypatch.setattr(budget, "decode", measured_again)
    measurements.forget()
    again = tuned(target, max_nll_gap=50.0)
    assert (again.setting, again.nll_gap_bound) == (first.setting, first.nll_gap_bound)
    with pytest.raises(AssertionError, match="measured again"):
        tuned(target, max_nll_gap=0.3)
    (file,) = cache.iterdir()
    content = json.loads(file.read_text())
    content["measured"]["delta"] = "much"
    file.write_text(json.dumps(content))
    measurements.forget()
    with pytest.raises(AssertionError, match="measured again"):
        tuned(target, max_nll_gap=50.0)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"max_nll_gap": -0.1}, "max_nll_gap must be at least 0"),
        ({"max_unverified": float("nan")}, "max_unverified must be at least 0"),
        ({"sequences": 3}, "at least 4 sequences"),
        ({"options": DecodingOptions(ensemble_weight=0.5)}, "ensemble_weight has a bound"),
    ],
)
def test_a_budget_that_cannot_be_is_refused(
    target: Any, values: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        tuned(target, **values)
