# SPDX-License-Identifier: Apache-2.0
"""``model.generate(custom_generate=speculative_generate)``: what transformers alone generates, in fewer forwards."""

import logging
from typing import Any

import pytest
import torch

pytest.importorskip("transformers")

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
from tiny_models import VOCABULARY, draft_of, tiny_llama
from transformers import (
    LogitsProcessor,
    LogitsProcessorList,
    MaxLengthCriteria,
    StaticCache,
    StoppingCriteria,
    StoppingCriteriaList,
)

from genaccel.skip_decoding import GenerationReport, SkipDecodingConfig, speculative_generate

PROMPTS = torch.tensor([[0, 0, 7, 9, 3], [5, 6, 7, 8, 9], [0, 0, 0, 0, 11]])
MASK = torch.tensor([[0, 0, 1, 1, 1], [1, 1, 1, 1, 1], [0, 0, 0, 0, 1]])
NEGATIVE = torch.tensor([[0, 5], [6, 7], [0, 1]])
NEGATIVE_MASK = torch.tensor([[0, 1], [1, 1], [0, 1]])
GUIDED = {
    "guidance_scale": 3.0,
    "negative_prompt_ids": NEGATIVE,
    "negative_prompt_attention_mask": NEGATIVE_MASK,
}


@pytest.fixture(scope="module")
def target() -> Any:
    return tiny_llama()


def speculative(target: Any, *args: Any, tree: Any = (2, 2), **kwargs: Any) -> tuple[Any, Any]:
    """What is generated, and the report."""
    reports: list[GenerationReport] = []
    config = kwargs.pop("config", None)
    if config is None:
        config = SkipDecodingConfig(drafter=draft_of(target), tree=tree)
    found = target.generate(
        *args,
        custom_generate=speculative_generate,
        skip_decoding=config,
        on_report=reports.append,
        **kwargs,
    )
    return found, reports[0]


def call(**others: Any) -> dict[str, Any]:
    return {"inputs": PROMPTS, "attention_mask": MASK, "max_new_tokens": 20, "do_sample": False} | (
        others
    )


CALLS = {
    "allowed_by_prefix": {
        "prefix_allowed_tokens_fn": lambda number, ids: [number, int(ids.sum()) % 7, 20, 30]
    },
    "bad_words": {"bad_words_ids": [[3], [20, 21]]},
    "end_and_pad": {"eos_token_id": [3, 21, 30, 34], "pad_token_id": 1},
    "forced_end": {"forced_eos_token_id": 3, "eos_token_id": 3, "pad_token_id": 1},
    "guided": GUIDED,
    "guided_by_last_token": {"guidance_scale": 2.0},
    "guided_of_one": {"guidance_scale": 2.0, "negative_prompt_ids": torch.tensor([[4]] * 3)},
    "guided_with_penalty": {**GUIDED, "repetition_penalty": 1.7},
    "max_length": {"max_new_tokens": None, "max_length": 12},
    "min_new_tokens": {"eos_token_id": list(range(20)), "pad_token_id": 1, "min_new_tokens": 9},
    "no_repeat": {"no_repeat_ngram_size": 2},
    "one_token": {"max_new_tokens": 1},
    "penalty": {"repetition_penalty": 1.5},
    "plain": {},
    "suppressed": {"suppress_tokens": [1, 2, 3, 20], "begin_suppress_tokens": [5, 30]},
}


@pytest.mark.parametrize("name", sorted(CALLS))
def test_greedy_tokens_are_transformers_own(target: Any, name: str) -> None:
    settings = call(**CALLS[name])
    theirs = target.generate(**settings)
    ours, report = speculative(target, **settings)
    assert torch.equal(ours, theirs)
    assert report.decoding is not None, report
    if name in ("guided", "plain"):
        assert report.decoding.mean_acceptance_length > 1
        assert "tokens in" in str(report)


@pytest.mark.parametrize("name", sorted(CALLS))
def test_greedy_tokens_of_a_jacobi_drafter_are_too(target: Any, name: str) -> None:
    settings = call(**CALLS[name])
    ours, _ = speculative(target, config=SkipDecodingConfig(), **settings)
    assert torch.equal(ours, target.generate(**settings))


@pytest.mark.parametrize("tree", ["auto", 7, (3, 2, 2)])
@pytest.mark.parametrize("name", ["guided", "plain"])
def test_a_static_cache_that_is_asked_for_has_room_for_trees(
    target: Any, name: str, tree: Any
) -> None:
    settings = call(**CALLS[name])
    plain = target.generate(**settings)
    seen = set()
    hook = target.register_forward_pre_hook(
        lambda module, args, kwargs: seen.add(type(kwargs.get("cache"))), with_kwargs=True
    )
    ours, report = speculative(target, tree=tree, cache_implementation="static", **settings)
    hook.remove()
    assert torch.equal(ours, plain)
    assert report.decoding is not None, report
    assert StaticCache in seen


SAMPLED = {"do_sample": True, "temperature": 1.3, "top_k": 20, "top_p": 0.9}


@pytest.mark.parametrize("name", ["guided", "plain", "suppressed"])
def test_sampled_tokens_do_not_depend_on_the_drafter(target: Any, name: str) -> None:
    settings = call(**CALLS[name], **SAMPLED)
    found = []
    for drafter in (None, "auto", draft_of(target)):
        torch.manual_seed(3)
        config = SkipDecodingConfig(drafter=drafter)
        found.append(speculative(target, config=config, **settings)[0])
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])
    torch.manual_seed(4)
    assert not torch.equal(speculative(target, **settings)[0], found[0])
    fixed = [
        speculative(target, config=SkipDecodingConfig(seed=9), **settings)[0] for _ in range(2)
    ]
    assert torch.equal(*fixed)


def test_sampled_tokens_follow_the_distribution_of_transformers(target: Any) -> None:
    prompt = torch.tensor([[7, 9, 3]])
    settings = {"max_new_tokens": 1, "num_return_sequences": 4000, **SAMPLED}
    torch.manual_seed(0)
    theirs = target.generate(prompt, **settings)[:, -1].bincount(minlength=VOCABULARY)
    ours, _ = speculative(target, prompt, **settings)
    counts = ours[:, -1].bincount(minlength=VOCABULARY)
    assert not ((theirs > 50) & (counts == 0)).any()
    assert not ((counts > 50) & (theirs == 0)).any()
    assert (counts - theirs).abs().sum() / 4000 < 0.15


def test_sequences_of_one_prompt_differ(target: Any) -> None:
    ours, _ = speculative(target, **call(num_return_sequences=4, **SAMPLED))
    assert ours.shape == (12, 25)
    assert len({tuple(row.tolist()) for row in ours[:4]}) == 4
    assert torch.equal(ours[:4, :5], PROMPTS[:1].expand(4, -1))
    # Negative prompts are of prompts, not of sequences, and each sequence is as it would be alone.
    cold = {**SAMPLED, "top_k": 1}
    guided, _ = speculative(target, **call(num_return_sequences=2, **GUIDED, **cold))
    assert torch.equal(guided[::2], target.generate(**call(**GUIDED)))
    assert torch.equal(guided[::2], guided[1::2])


def test_outputs_have_transformers_names(target: Any) -> None:
    ours, _ = speculative(target, **call(return_dict_in_generate=True))
    assert torch.equal(ours.sequences, target.generate(**call()))
    assert type(ours).__name__ == "GenerateDecoderOnlyOutput"
    ours.sequences[0, 0] = 3  # no inference tensor


class EndsWith(StoppingCriteria):
    """A sequence may stop behind a token."""

    def __init__(self, *tokens: int) -> None:
        self.tokens = torch.tensor(tokens)

    def __call__(self, input_ids: Any, scores: Any, **kwargs: Any) -> Any:
        return torch.isin(input_ids[:, -1], self.tokens)


@pytest.mark.parametrize("ends", [{}, {"eos_token_id": 39, "pad_token_id": 1}], ids=["", "end"])
@pytest.mark.parametrize(
    "criterion",
    [
        EndsWith(3, 12, 20, 21),
        EndsWith(*range(0, 40, 3)),
        EndsWith(),
        MaxLengthCriteria(max_length=11),
    ],
    ids=["some", "many", "none", "length"],
)
def test_stopping_criteria_are_asked_after_each_token(
    target: Any, criterion: Any, ends: Any
) -> None:
    settings = call(stopping_criteria=StoppingCriteriaList([criterion]), **ends)
    assert torch.equal(speculative(target, **settings)[0], target.generate(**settings))


def test_a_processor_of_the_callers_is_applied_if_it_says_so(target: Any, caplog: Any) -> None:
    class Parity(LogitsProcessor):  # type: ignore[misc]
        def __call__(self, input_ids: Any, scores: Any) -> Any:
            scores = scores.clone()
            scores[torch.arange(len(scores)), input_ids[:, -1]] = -float("inf")
            return scores

    settings = call(logits_processor=LogitsProcessorList([Parity()]))
    theirs = target.generate(**settings)
    with caplog.at_level(logging.WARNING, "genaccel"):
        ours, report = speculative(target, **settings)
    assert torch.equal(ours, theirs)
    assert report.decoding is None
    assert "Parity may depend on more" in report.plain_because
    assert [record.message for record in caplog.records] == [
        f"LlamaForCausalLM generates without speculative decoding: {report.plain_because}"
    ]
    ours, report = speculative(target, pure_processors=(Parity,), **settings)
    assert torch.equal(ours, theirs)
    assert report.decoding is not None


PLAIN = {
    "beams": ({"num_beams": 2}, "beam search is asked for"),
    "below_one": ({"guidance_scale": 0.5}, "guidance_scale 0.5 is below 1"),
    "lookup": ({"prompt_lookup_num_tokens": 2}, "assisted generation is asked for"),
    "no_cache": ({"use_cache": False}, "without a cache"),
    "scores": (
        {"output_scores": True, "return_dict_in_generate": True},
        "output_scores is asked for",
    ),
}


@pytest.mark.parametrize("name", sorted(PLAIN))
def test_what_cannot_be_is_generated_plainly(target: Any, name: str) -> None:
    others, reason = PLAIN[name]
    settings = call(inputs=PROMPTS[1:2], attention_mask=MASK[1:2], **others)
    ours, report = speculative(target, **settings)
    theirs = target.generate(**settings)
    if name == "scores":
        assert len(ours.scores) == 20
        ours, theirs = ours.sequences, theirs.sequences
    assert torch.equal(ours, theirs)
    assert reason in report.plain_because
    assert report.decoding is None
    assert str(report) == f"generated plainly: {report.plain_because}"


def test_prompts_padded_elsewhere_and_passed_caches_are_plain(target: Any) -> None:
    from transformers import DynamicCache

    for others, reason in (
        ({"attention_mask": MASK.flip(1)}, "not padded on the left"),
        ({"cache": DynamicCache(config=target.config)}, "a cache is passed"),
        ({"position_ids": torch.arange(5).expand(3, -1) + 3}, "position_ids are passed"),
    ):
        settings = call(**others)
        ours, report = speculative(target, **settings)
        assert reason in report.plain_because
        assert ours.shape == (3, 25)


def test_a_model_with_a_sliding_window_generates_plainly() -> None:
    from transformers import MistralConfig, MistralForCausalLM

    config: Any = MistralConfig(
        vocab_size=VOCABULARY,
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=1,
        num_key_value_heads=1,
        sliding_window=4,
        pad_token_id=0,
    )
    model = MistralForCausalLM(config).eval()
    ours, report = speculative(model, config=SkipDecodingConfig(), **call())
    assert "sliding window" in report.plain_because
    assert torch.equal(ours, model.generate(**call()))


def test_a_forward_that_refuses_trees_falls_back_to_the_plain_tokens(
    target: Any, monkeypatch: Any
) -> None:
    settings = call(**SAMPLED)
    torch.manual_seed(5)
    theirs = target.generate(**settings)
    forward = target.forward

    def refusing(*args: Any, **kwargs: Any) -> Any:
        if kwargs.get("attention_mask") is not None and kwargs["attention_mask"].ndim == 4:
            raise RuntimeError("two dimensions only")
        return forward(*args, **kwargs)

    refusing.__signature__ = __import__("inspect").signature(forward)  # type: ignore[attr-defined]
    monkeypatch.setattr(target, "forward", refusing)
    torch.manual_seed(5)
    ours, report = speculative(target, config=SkipDecodingConfig(), **settings)
    assert "RuntimeError: two dimensions only" in report.plain_because
    assert torch.equal(ours, theirs)


def test_limits_and_lacks_are_right_or_one_sentence(target: Any) -> None:
    one = torch.tensor([[7]])
    for length in (1, 2, 3, 5):
        settings = {"max_new_tokens": length, "do_sample": False}
        ours, _ = speculative(target, one, tree=(2, 1, 1), **settings)
        assert torch.equal(ours, target.generate(one, **settings))
    empty, _ = speculative(target, PROMPTS[:0], max_new_tokens=3, do_sample=False)
    assert empty.shape[0] == 0
    other = SkipDecodingConfig(drafter=tiny_llama(layers=1, vocabulary=8))
    with pytest.raises(ValueError, match="the drafter has 8 tokens and the model 40"):
        speculative(target, config=other, **call())
    broken = tiny_llama()
    broken.lm_head.weight.data[3] = torch.nan
    with pytest.raises(ValueError, match="logits are not finite"):
        speculative(broken, **call())


def test_cancelled_calls_leave_nothing_behind(target: Any) -> None:
    class Cancels(StoppingCriteria):
        def __call__(self, input_ids: Any, scores: Any, **kwargs: Any) -> Any:
            if input_ids.shape[1] > 9:
                raise KeyboardInterrupt
            return torch.zeros(len(input_ids), dtype=torch.bool)

    with pytest.raises(KeyboardInterrupt):
        speculative(target, **call(stopping_criteria=StoppingCriteriaList([Cancels()])))
    assert torch.equal(speculative(target, **call())[0], target.generate(**call()))
