# SPDX-License-Identifier: Apache-2.0
"""Tokens of drafts that are drawn by noise of their own are distributed as the target's, three of them jointly."""

from typing import Any

import pytest
import torch
from torch import Tensor

pytest.importorskip("transformers")

from genaccel.skip_decoding.decoding import decode
from genaccel.skip_decoding.drafts.draft_tree import TreeShape
from genaccel.skip_decoding.drafts.drafters import JacobiDrafter, ModelDrafter
from genaccel.skip_decoding.drafts.drafting import Draft
from genaccel.skip_decoding.options import DecodingOptions
from genaccel.skip_decoding.sampling import SamplingRule
from tests.skip_decoding.tiny_models import tiny_llama

VOCABULARY = 8
RULE = SamplingRule(temperature=0.8, top_k=6)
SEQUENCES = 12_000
LENGTH = 4


@pytest.fixture(scope="module")
def target() -> Any:
    return tiny_llama(layers=1, vocabulary=VOCABULARY)


@pytest.fixture(scope="module")
def drafting_model() -> Any:
    return tiny_llama(layers=1, seed=3, vocabulary=VOCABULARY)


@torch.inference_mode()
def distributions(model: Any, length: int) -> tuple[Tensor, Tensor]:
    """All sequences, ``[V^length, length]``, and the probabilities of what comes after each of their tokens, the prompt first."""
    sequences = torch.cartesian_prod(*[torch.arange(VOCABULARY)] * length).view(-1, length)
    prompts = torch.ones(len(sequences), 1, dtype=torch.long)
    logits = model(torch.cat((prompts, sequences[:, :-1]), 1)).logits
    return sequences, RULE.log_weights(logits).softmax(-1)


def joint(probabilities: Tensor, sequences: Tensor) -> Tensor:
    """Probabilities of all sequences, ``[V^length]``."""
    return probabilities.gather(2, sequences[..., None])[..., 0].prod(1)


def p_value(counts: Tensor, expected: Tensor) -> float:
    """Of the chi-square test; cells that expect less than ten are one."""
    is_small = expected < 10
    counts = torch.cat((counts[~is_small], counts[is_small].sum()[None]))
    expected = torch.cat((expected[~is_small], expected[is_small].sum()[None]))
    statistic = ((counts - expected) ** 2 / expected.clamp(min=1e-9)).sum()
    freedom = torch.tensor((len(counts) - 1) / 2, dtype=torch.float64)
    return float(torch.special.gammaincc(freedom, statistic / 2))


def last_three(
    target: Any, drafter: Any, options: DecodingOptions, length: int = LENGTH
) -> tuple[Tensor, float]:
    """How often each triple of tokens was drawn behind the first one, and guesses accepted a round."""
    prompts = torch.ones(SEQUENCES, 1, dtype=torch.long)
    found = decode(
        target, prompts, rule=RULE, max_new_tokens=length, drafter=drafter, options=options
    )
    code = torch.zeros(SEQUENCES, dtype=torch.long)
    for column in range(1, length):
        code = code * VOCABULARY + found.tokens[:, column]
    counts = torch.bincount(code, minlength=VOCABULARY ** (length - 1)).double()
    return counts, found.report.mean_acceptance_length - 1


class _Misled(ModelDrafter):
    """Draws from one distribution and tells another."""

    def guess(self, history: Tensor, lengths: Tensor, depth: int) -> Draft:
        draft = super().guess(history, lengths, depth)
        assert draft.probabilities is not None
        wrong = draft.probabilities.roll(1, 2) * 0.2 + draft.probabilities * 0.8
        return draft._replace(probabilities=wrong)


@pytest.mark.parametrize(
    "widths",
    [(1, 1, 1), TreeShape((0, 0, 1, 1, 2, 3))],
    ids=["chain", "tree"],
)
def test_three_tokens_are_distributed_as_the_targets(
    target: Any, drafting_model: Any, widths: Any
) -> None:
    sequences, probabilities = distributions(target, LENGTH)
    expected = joint(probabilities, sequences).view(VOCABULARY, -1).sum(0) * SEQUENCES
    options = DecodingOptions(guessing="drawn", seed=1)
    counts, accepted = last_three(target, ModelDrafter(drafting_model, widths=widths), options)
    assert accepted > 0.3
    assert p_value(counts, expected) > 0.001


def test_a_drafter_that_tells_the_wrong_distribution_is_found_out(
    target: Any, drafting_model: Any
) -> None:
    sequences, probabilities = distributions(target, LENGTH)
    expected = joint(probabilities, sequences).view(VOCABULARY, -1).sum(0) * SEQUENCES
    options = DecodingOptions(guessing="drawn", seed=1)
    counts, _ = last_three(target, _Misled(drafting_model, widths=(1, 1, 1)), options)
    assert p_value(counts, expected) < 1e-6


@pytest.mark.parametrize("guessing", ["coupled", "drawn"])
def test_an_ensemble_draws_from_the_mixture(
    target: Any, drafting_model: Any, guessing: Any
) -> None:
    sequences, of_target = distributions(target, 2)
    of_draft = distributions(drafting_model, 2)[1]
    weight = 0.6
    mixed = of_target.clone()
    # The first token comes without a guess.
    mixed[:, 1] = weight * of_target[:, 1] + (1 - weight) * of_draft[:, 1]
    expected = joint(mixed, sequences).view(VOCABULARY, -1).sum(0) * SEQUENCES
    plain = joint(of_target, sequences).view(VOCABULARY, -1).sum(0) * SEQUENCES
    options = DecodingOptions(guessing=guessing, seed=1, ensemble_weight=weight)
    drafter = ModelDrafter(drafting_model, widths=(1,))
    prompts = torch.ones(SEQUENCES, 1, dtype=torch.long)
    found = decode(target, prompts, rule=RULE, max_new_tokens=3, drafter=drafter, options=options)
    counts = torch.bincount(found.tokens[:, 1], minlength=VOCABULARY).double()
    assert p_value(counts, expected) > 0.001
    assert p_value(counts, plain) < 1e-6


def test_greedy_decoding_of_an_ensemble_takes_its_likeliest_token(
    target: Any, drafting_model: Any
) -> None:
    rule = SamplingRule(temperature=0)
    prompts = torch.tensor([[1], [5]])
    drafter = ModelDrafter(drafting_model, widths=(1,))
    weight = 0.3
    options = DecodingOptions(ensemble_weight=weight)
    found = decode(
        target, prompts, rule=rule, max_new_tokens=3, drafter=drafter, options=options
    ).tokens
    with torch.inference_mode():
        sequences = torch.cat((prompts, found[:, :1]), 1)
        parts = [model(sequences).logits[:, -1].softmax(-1) for model in (target, drafting_model)]
    mixed = weight * parts[0] + (1 - weight) * parts[1]
    assert torch.equal(found[:, 1], mixed.argmax(-1))
    assert not torch.equal(found[:, 1], parts[0].argmax(-1))


def test_what_an_ensemble_needs_is_said(target: Any) -> None:
    options = DecodingOptions(ensemble_weight=0.5)
    prompts = torch.ones(1, 1, dtype=torch.long)
    with pytest.raises(ValueError, match="needs a drafter that draws from a distribution"):
        decode(
            target, prompts, rule=RULE, max_new_tokens=4, drafter=JacobiDrafter(2), options=options
        )
    with pytest.raises(ValueError, match="ensemble_weight must be above 0 and below 1"):
        DecodingOptions(ensemble_weight=1.0)
    with pytest.raises(ValueError, match="not the likeliest"):
        DecodingOptions(ensemble_weight=0.5, guessing="likeliest")
    with pytest.raises(ValueError, match="guessing must be"):
        DecodingOptions(guessing="often")  # type: ignore[arg-type]
