# SPDX-License-Identifier: Apache-2.0
"""The cache of a model says the same as reading everything anew, in whichever class of transformers it is kept."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

pytest.importorskip("transformers")

from transformers import DynamicCache, StaticCache

from genaccel.skip_decoding.decoding import decode
from genaccel.skip_decoding.drafts.draft_tree import TreeShape
from genaccel.skip_decoding.drafts.drafters import JacobiDrafter, ModelDrafter
from genaccel.skip_decoding.memory.cached_rows import CachedRows
from genaccel.skip_decoding.memory.growing_cache import ROOM
from genaccel.skip_decoding.options import DecodingOptions
from genaccel.skip_decoding.sampling import SamplingRule
from tests.skip_decoding.tiny_models import VOCABULARY, draft_of, tiny_llama

CACHES: dict[str, Callable[[Any], Any]] = {
    "its own": lambda model: None,
    "dynamic": lambda model: DynamicCache(config=model.config),
    "dynamic, layers on demand": lambda model: DynamicCache(),
    "static": lambda model: StaticCache(model.config, max_cache_len=60),
}
every_cache = pytest.mark.parametrize("cache", CACHES.values(), ids=CACHES)


@pytest.fixture(scope="module")
def target() -> Any:
    return tiny_llama()


def prompts_of(count: int, length: int) -> tuple[Tensor, Tensor]:
    prompts = torch.randint(1, VOCABULARY, (count, length))
    is_token = torch.ones_like(prompts, dtype=torch.bool)
    for number in range(count):
        is_token[number, : 2 * number % length] = False
    return prompts, is_token


@every_cache
@torch.inference_mode()
def test_every_row_says_what_a_fresh_forward_says(target: Any, cache: Callable[[Any], Any]) -> None:
    """Trees, of which sequences keep ragged parts: each node's logits are those of its whole path."""
    count, shape = 3, TreeShape.of_widths((2, 2, 1))
    prompts, is_token = prompts_of(count, 5)
    rows = CachedRows(target, cache=cache(target))
    rows.prefill(prompts, is_token)
    kept = [prompts[n][is_token[n]].tolist() for n in range(count)]
    paths = shape.paths()
    for round_number in range(4):
        tokens = torch.randint(1, VOCABULARY, (count, shape.num_nodes))
        # In two parts, as a drafter reads its levels.
        first = rows.read(tokens[:, :3], TreeShape(shape.parents[:2])).logits
        logits = torch.cat((first, rows.read(tokens[:, 3:], shape, after=3).logits), 1)
        for number in range(count):
            for path in paths:
                whole = kept[number] + tokens[number, path].tolist()
                fresh = target(torch.tensor([whole])).logits[0, -len(path) :]
                torch.testing.assert_close(logits[number, path], fresh, atol=1e-10, rtol=0)
        chosen = paths[(torch.arange(count) + round_number) % len(paths)]
        counts = 1 + (torch.arange(count) + round_number) % paths.shape[1]
        rows.keep(torch.where(torch.arange(paths.shape[1]) < counts[:, None], chosen, -1), counts)
        for number in range(count):
            kept[number] += tokens[number, chosen[number, : counts[number]]].tolist()
        rows.read(tokens, shape)
        rows.forget()
        if round_number == 1:
            rows.select(torch.tensor([0, 2]))
            kept, count = [kept[0], kept[2]], 2


@every_cache
@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("widths", [(1, 1, 1), (3, 2)])
@pytest.mark.parametrize("guidance", [1.0, 3.0])
def test_decoding_is_the_same_with_every_cache(
    target: Any, cache: Callable[[Any], Any], count: int, widths: tuple[int, ...], guidance: float
) -> None:
    prompts, is_token = prompts_of(count, 6)
    found = [
        decode(
            target,
            prompts,
            is_token,
            rule=SamplingRule(guidance_scale=guidance),
            max_new_tokens=30,
            drafter=drafter,
            options=DecodingOptions(seed=5, end_tokens=(7,)),
            negative_prompts=torch.ones(count, 1, dtype=torch.long),
            cache=given,
        )
        for drafter, given in (
            (None, None),
            (ModelDrafter(draft_of(target), widths=widths), cache(target)),
        )
    ]
    assert torch.equal(found[0].tokens, found[1].tokens)
    assert found[1].report.target_forwards < found[0].report.target_forwards


@every_cache
@torch.inference_mode()
def test_more_columns_than_there_is_room_for(target: Any, cache: Callable[[Any], Any]) -> None:
    rows = CachedRows(target, cache=cache(target))
    prompts, is_token = prompts_of(2, 50)
    rows.prefill(prompts, is_token)
    shape = TreeShape.chain(10)  # 11 rows
    tokens = torch.ones(2, shape.num_nodes, dtype=torch.long)
    if isinstance(rows._cache, StaticCache):
        with pytest.raises(ValueError, match="static cache has 60 columns, and 61 are needed"):
            rows.read(tokens, shape)
        rows.read(tokens[:, :10], TreeShape.chain(9))
        return
    for _ in range(ROOM // 8):
        rows.read(tokens, shape)
        rows.keep(torch.arange(11).expand(2, -1), torch.tensor([11, 5]))
    own = [*prompts[0].tolist(), *[1] * (11 * (ROOM // 8))]
    fresh = target(torch.tensor([[*own, 1]])).logits[0, -1]
    found = rows.read(tokens[:, :1], TreeShape.chain(0)).logits[0, 0]
    torch.testing.assert_close(found, fresh, atol=1e-9, rtol=0)


def test_what_is_no_cache_of_rows_is_refused(target: Any) -> None:
    used = DynamicCache(config=target.config)
    with torch.inference_mode():
        target(torch.tensor([[1, 2]]), cache=used, use_cache=True)
    with pytest.raises(ValueError, match="rows of another decoding"):
        CachedRows(target, cache=used)
    linear = DynamicCache(config=target.config)
    linear.layers[1] = type("LinearLayer", (type(linear.layers[1]),), {})()
    with pytest.raises(TypeError, match="keeps its memory in DynamicLayer, LinearLayer"):
        CachedRows(target, cache=linear)


def test_a_cache_is_used_again_after_it_was_reset(target: Any) -> None:
    cache = StaticCache(target.config, max_cache_len=40)
    prompts, is_token = prompts_of(2, 4)
    tokens = []
    for _ in range(2):
        drafter = JacobiDrafter(3)
        found = decode(
            target, prompts, is_token, rule=SamplingRule(), max_new_tokens=9, drafter=drafter, cache=cache
        )  # fmt: skip
        tokens.append(found.tokens)
        with torch.inference_mode():
            cache.reset()
    assert torch.equal(*tokens)
