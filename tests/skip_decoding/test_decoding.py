# SPDX-License-Identifier: Apache-2.0
"""Speculative decoding draws what decoding one by one draws, and that is what the model's distribution says."""

from typing import Any

import pytest
import torch
from torch import Tensor

pytest.importorskip("transformers")

from genaccel.skip_decoding.decoding import decode
from genaccel.skip_decoding.drafts.draft_tree import TreeShape, accepted_path
from genaccel.skip_decoding.drafts.drafters import JacobiDrafter, ModelDrafter
from genaccel.skip_decoding.drafts.drafting import Drafter
from genaccel.skip_decoding.memory.cached_rows import CachedRows
from genaccel.skip_decoding.options import DecodingOptions
from genaccel.skip_decoding.sampling import SamplingRule, draw
from tests.skip_decoding.tiny_models import DRAFTERS, VOCABULARY, draft_of, prompts_of, tiny_llama

RULES = {
    "all": SamplingRule(),
    "top k": SamplingRule(top_k=10),
    "top p": SamplingRule(top_p=0.8),
    "greedy": SamplingRule(temperature=0),
    "guided": SamplingRule(guidance_scale=3.0),
    "guided top k": SamplingRule(guidance_scale=3.0, top_k=10, temperature=0.9),
    "guided greedy": SamplingRule(guidance_scale=3.0, temperature=0),
}


@pytest.fixture(scope="module")
def target() -> Any:
    return tiny_llama()


def one_by_one(
    model: Any,
    prompt: Tensor,
    negative: Tensor,
    rule: SamplingRule,
    seed: int,
    number: int,
    steps: int,
) -> list[int]:
    """The specification: no cache, no batch, no padding; the whole sequence is read for each token."""
    tokens: list[int] = []
    for step in range(steps):
        drawn = torch.tensor(tokens, dtype=torch.long)
        with torch.inference_mode():
            logits = model(torch.cat((prompt, drawn))[None]).logits[0, -1]
            if rule.is_guided:
                free = model(torch.cat((negative, drawn))[None]).logits[0, -1]
                logits = free + rule.guidance_scale * (logits - free)
        place = torch.tensor([number]), torch.tensor([step])
        tokens.append(int(draw(rule.log_weights(logits[None]), seed, *place)))
    return tokens


@pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
def test_plain_decoding_is_the_specification(target: Any, rule: SamplingRule) -> None:
    prompts, is_token = prompts_of(3)
    negative = torch.tensor([[5, 7]]).expand(3, -1)
    found = decode(
        target,
        prompts,
        is_token,
        rule=rule,
        max_new_tokens=10,
        options=DecodingOptions(seed=3),
        negative_prompts=negative,
    )
    for number in range(3):
        prompt = prompts[number][is_token[number]]
        expected = one_by_one(target, prompt, negative[number], rule, 3, number, 10)
        assert found.tokens[number].tolist() == expected


# Sequences of a batch, and tokens of each.
BATCHES = {1: 8, 3: 8, 8: 12, 16: 16}


def test_enough_tokens_are_compared() -> None:
    tokens = sum(count * steps for count, steps in BATCHES.items())
    assert len(RULES) * len(DRAFTERS) * tokens >= 20_000


@pytest.mark.parametrize("count", sorted(BATCHES))
@pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
def test_no_drafter_changes_a_token(target: Any, rule: SamplingRule, count: int) -> None:
    prompts, is_token = prompts_of(count)
    steps = BATCHES[count]
    negative, negative_is_token = prompts_of(count, 9)

    def run(drafter: Drafter | None) -> tuple[Tensor, int]:
        found = decode(
            target,
            prompts,
            is_token,
            rule=rule,
            max_new_tokens=steps,
            options=DecodingOptions(seed=11),
            drafter=drafter,
            negative_prompts=negative,
            negative_is_token=negative_is_token,
        )
        assert found.lengths.tolist() == [steps] * count
        return found.tokens, found.report.target_forwards

    plain, forwards = run(None)
    assert forwards == steps
    forwards_of = {}
    for name in DRAFTERS:
        tokens, forwards_of[name] = run(DRAFTERS[name](target))
        assert torch.equal(tokens, plain), name
    assert max(forwards_of.values()) <= steps
    # The guided likeliest token is one that these drafters hardly ever guess.
    assert min(forwards_of.values()) < steps or (rule.is_guided and rule.temperature == 0)


def test_a_sequence_is_the_same_in_every_batch(target: Any) -> None:
    prompts, is_token = prompts_of(3)
    rule = SamplingRule()
    both = decode(
        target,
        prompts,
        is_token,
        rule=rule,
        max_new_tokens=12,
        options=DecodingOptions(seed=5),
    )
    alone = decode(
        target,
        prompts[2:],
        is_token[2:],
        rule=rule,
        max_new_tokens=12,
        options=DecodingOptions(seed=5),
        sequence_numbers=torch.tensor([2]),
        drafter=JacobiDrafter(3),
    )
    assert torch.equal(alone.tokens[0], both.tokens[2])
    other = decode(
        target,
        prompts[2:],
        is_token[2:],
        rule=rule,
        max_new_tokens=12,
        options=DecodingOptions(seed=6),
    )
    assert not torch.equal(other.tokens[0], both.tokens[2])


@pytest.mark.parametrize("name", sorted(DRAFTERS))
def test_sequences_end_each_at_its_own_end(target: Any, name: str) -> None:
    prompts, is_token = prompts_of(8)
    rule, ends = SamplingRule(), (3, 4, 5)
    free = decode(
        target,
        prompts,
        is_token,
        rule=rule,
        max_new_tokens=40,
        options=DecodingOptions(seed=2),
    )
    found = decode(
        target,
        prompts,
        is_token,
        rule=rule,
        max_new_tokens=40,
        options=DecodingOptions(seed=2, end_tokens=ends, pad_token=VOCABULARY),
        drafter=DRAFTERS[name](target),
    )
    lengths = []
    for row, tokens in zip(found.tokens.tolist(), free.tokens.tolist(), strict=True):
        end = next((i for i, token in enumerate(tokens) if token in ends), len(tokens) - 1)
        lengths.append(end + 1)
        assert row[: end + 1] == tokens[: end + 1]
        assert set(row[end + 1 :]) <= {VOCABULARY}
    assert found.lengths.tolist() == lengths
    assert len(set(lengths)) > 3
    assert found.tokens.shape[1] == max(lengths)
    assert found.report.generated_tokens == sum(lengths)


@pytest.mark.parametrize("limit", [1, 2, 3, 5])
@pytest.mark.parametrize("name", sorted(DRAFTERS))
def test_the_limit_may_lie_inside_a_tree(target: Any, name: str, limit: int) -> None:
    prompts = torch.tensor([[7]])
    plain = decode(
        target,
        prompts,
        rule=SamplingRule(),
        max_new_tokens=limit,
        options=DecodingOptions(seed=1),
    )
    found = decode(
        target,
        prompts,
        rule=SamplingRule(),
        max_new_tokens=limit,
        options=DecodingOptions(seed=1),
        drafter=DRAFTERS[name](target),
    )
    assert torch.equal(found.tokens, plain.tokens)
    assert found.tokens.shape == (1, limit)


def test_the_cache_holds_what_one_forward_over_the_sequence_gives(target: Any) -> None:
    prompts, is_token = prompts_of(2)
    shape = TreeShape((0, 0, 1, 2, 2))
    generator = torch.Generator().manual_seed(0)
    rows = CachedRows(target, with_features=True)
    with torch.inference_mode():
        rows.prefill(prompts, is_token)
        kept = [prompts[n][is_token[n]].tolist() for n in range(2)]
        for path, counts in (
            ([[0, 2, 5], [0, 1, 3]], [3, 2]),
            ([[0, 1, -1], [0, 2, 4]], [2, 3]),
            ([[0, -1, -1], [0, -1, -1]], [1, 1]),
        ):
            tokens = torch.randint(1, VOCABULARY, (2, shape.num_nodes), generator=generator)
            output = rows.read(tokens, shape)
            for n in range(2):
                for node in range(shape.num_nodes):
                    seen = shape.ancestor_mask()[node].nonzero().flatten()
                    sequence = torch.tensor(kept[n] + tokens[n][seen].tolist())
                    expected = target(sequence[None], output_hidden_states=True)
                    torch.testing.assert_close(
                        output.logits[n, node], expected.logits[0, -1], atol=1e-9, rtol=0
                    )
                    assert output.features is not None
                    torch.testing.assert_close(
                        output.features[n, node],
                        expected.hidden_states[-1][0, -1],
                        atol=1e-9,
                        rtol=0,
                    )
                kept[n] += tokens[n][torch.tensor(path[n][: counts[n]])].tolist()
            rows.keep(torch.tensor(path), torch.tensor(counts))
        assert (rows.ends - rows.starts).tolist() == [len(sequence) for sequence in kept]


def test_a_tree_is_followed_to_where_the_draws_leave_it() -> None:
    shape = TreeShape((0, 0, 1, 1, 2, 3))
    assert shape.depths == (0, 1, 1, 2, 2, 2, 3)
    assert shape.ranks == (0, 0, 1, 0, 1, 0, 0)
    tokens = torch.tensor([[0, 10, 11, 12, 13, 14, 15]] * 4)
    drawn = torch.full((4, 7), 99)
    drawn[0, 0], drawn[0, 1], drawn[0, 3] = 10, 12, 15
    drawn[1, 0], drawn[1, 1] = 11, 12  # 12 is no child of 11's node
    drawn[3, 0], drawn[3, 2] = 11, 14
    path, counts = accepted_path(shape, tokens, drawn)
    assert path.tolist() == [[0, 1, 3, 6], [0, 2, -1, -1], [0, -1, -1, -1], [0, 2, 5, -1]]
    assert counts.tolist() == [4, 2, 1, 3]


def test_a_cut_tree_keeps_its_upper_part() -> None:
    shape = TreeShape.of_widths((2, 3))
    assert shape.num_nodes == 9
    assert shape.cut(1) == TreeShape.of_widths((2,))
    assert shape.cut(0).num_nodes == 1
    with pytest.raises(ValueError, match="the parent of node 1 must be one of the nodes before it"):
        TreeShape((1,))


def test_the_report_counts(target: Any) -> None:
    prompts, is_token = prompts_of(3)
    report = decode(
        target,
        prompts,
        is_token,
        rule=SamplingRule(),
        max_new_tokens=30,
        drafter=ModelDrafter(draft_of(target)),
    ).report
    # The first token of each comes from the prompt, the others from rounds, but for a last one without guesses.
    assert report.generated_tokens == 90
    assert 87 - 3 <= report.accepted_tokens + report.rounds <= 87
    assert sum(report.acceptance_histogram) == report.rounds
    counted = sum(n * count for n, count in enumerate(report.acceptance_histogram))
    assert counted == report.accepted_tokens
    assert report.mean_acceptance_length > 1.2
    assert 0 < report.draft_acceptance_rate < 1
    assert report.target_seconds > 0
    assert report.overhead_seconds > 0


def test_cancelling_leaves_nothing_behind(target: Any) -> None:
    prompts, is_token = prompts_of(2)
    drafter = ModelDrafter(draft_of(target))
    rule = SamplingRule()

    def stop(done: int, total: int) -> None:
        if done > 10:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        decode(
            target, prompts, is_token, rule=rule, max_new_tokens=30, drafter=drafter, on_tokens=stop
        )
    again = decode(target, prompts, is_token, rule=rule, max_new_tokens=30, drafter=drafter)
    plain = decode(target, prompts, is_token, rule=rule, max_new_tokens=30)
    assert torch.equal(again.tokens, plain.tokens)


def test_what_cannot_be_decoded_is_said(target: Any) -> None:
    prompts, is_token = prompts_of(2)
    rule = SamplingRule()
    empty = decode(target, prompts[:0], rule=rule, max_new_tokens=5)
    assert empty.tokens.shape == (0, 0)
    with pytest.raises(ValueError, match="max_new_tokens must be at least 1, got 0"):
        decode(target, prompts, rule=rule, max_new_tokens=0)
    with pytest.raises(ValueError, match="padded on the left"):
        decode(target, prompts, is_token.flip(1), rule=rule, max_new_tokens=2)
    with pytest.raises(ValueError, match="with L at least 1"):
        decode(target, prompts[:, :0], rule=rule, max_new_tokens=2)
    with pytest.raises(ValueError, match="needs negative_prompts"):
        decode(target, prompts, rule=SamplingRule(guidance_scale=2), max_new_tokens=2)
    with pytest.raises(ValueError, match="2 prompts and 1 negative_prompts"):
        decode(
            target,
            prompts,
            rule=SamplingRule(guidance_scale=2),
            max_new_tokens=2,
            negative_prompts=prompts[:1],
        )
    small = ModelDrafter(tiny_llama(layers=1, vocabulary=8))
    with pytest.raises(ValueError, match="the drafter knows 8 tokens"):
        decode(target, prompts, rule=rule, max_new_tokens=2, drafter=small)
    wide = ModelDrafter(draft_of(target), widths=(VOCABULARY + 1,))
    with pytest.raises(ValueError, match="41 guesses after one token needs as many tokens"):
        decode(target, prompts, rule=rule, max_new_tokens=4, drafter=wide)
    broken = tiny_llama()
    broken.lm_head.weight.data[3] = torch.nan
    with pytest.raises(ValueError, match="logits are not finite"):
        decode(broken, prompts, rule=rule, max_new_tokens=2)


def test_the_tokens_may_be_written_to(target: Any) -> None:
    found = decode(target, prompts_of(1)[0], rule=SamplingRule(), max_new_tokens=2)
    found.tokens[:, 0] += 1
    found.lengths.sub_(1)


def test_a_prompt_takes_logits_of_its_last_token_alone() -> None:
    """Those of a long prompt over a large vocabulary would take more memory than all else."""
    target, rows = tiny_llama(), []
    target.lm_head.register_forward_hook(lambda *values: rows.append(values[2].shape[1]))
    drafter = DRAFTERS["features, chain"](target)
    decode(target, prompts_of(2)[0], rule=SamplingRule(), max_new_tokens=1, drafter=drafter)
    assert rows[0] == 1


def test_a_model_that_forgets_is_refused() -> None:
    from transformers import MistralConfig, MistralForCausalLM

    config: Any = MistralConfig(
        vocab_size=16,
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=1,
        num_key_value_heads=1,
        sliding_window=4,
    )
    with pytest.raises(TypeError, match="sliding window"):
        CachedRows(MistralForCausalLM(config))


def test_greedy_decoding_with_guidance_is_transformers_own_and_its_assisted_one_is_not(
    target: Any,
) -> None:
    """If the last line fails, transformers has mended it, and docs/skip_decoding.md says too much."""
    prompts, negative = torch.tensor([[7, 9, 3]]), torch.tensor([[5]])
    settings = {
        "max_new_tokens": 24,
        "do_sample": False,
        "guidance_scale": 3.0,
        "negative_prompt_ids": negative,
        "attention_mask": torch.ones_like(prompts),
    }
    theirs = target.generate(prompts, **settings)[:, prompts.shape[1] :]
    ours = decode(
        target,
        prompts,
        rule=SamplingRule(temperature=0, guidance_scale=3.0),
        max_new_tokens=24,
        negative_prompts=negative,
        drafter=ModelDrafter(draft_of(target), widths=(2, 2)),
    ).tokens
    assert torch.equal(ours, theirs)
    assisted = target.generate(prompts, **settings, assistant_model=draft_of(target))
    assert not torch.equal(assisted[:, prompts.shape[1] :], theirs)
