# SPDX-License-Identifier: Apache-2.0
"""Inputs at the edge: each gives the right tokens, or one sentence."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from genaccel.skip_decoding.decoding import decode
from genaccel.skip_decoding.drafts.drafters import JacobiDrafter, ModelDrafter
from genaccel.skip_decoding.drafts.drafting import Drafter
from genaccel.skip_decoding.options import DecodingOptions, SkipRule
from genaccel.skip_decoding.sampling import SamplingRule
from tests.skip_decoding.tiny_models import DRAFTERS, draft_of, prompts_of, tiny_llama


class _StopError(Exception):
    pass


def edge_case_rows() -> list[dict[str, Any]]:
    """What became of each."""
    cases: dict[str, Callable[[], str]] = {
        "a drafter of another vocabulary": _other_vocabulary,
        "logits that are not numbers": _not_numbers,
        "a prompt of one token": lambda: _as_plain(torch.tensor([[7]]), 20),
        "the limit inside a tree": _limit_inside_a_tree,
        "cancelled, then a clean call": _cancelled,
        "no prompts": _no_prompts,
    }
    rows = []
    for name, run in cases.items():
        try:
            outcome = run()
        except Exception as error:
            outcome = f"wrong: {type(error).__name__}: {error}"
        rows.append({"case": name, "outcome": outcome, "ok": not outcome.startswith("wrong")})
    return rows


def _tokens(
    target: Any, prompts: Tensor, count: int, drafter: Drafter | None, **others: Any
) -> Tensor:
    options = DecodingOptions(seed=1, skip=others.pop("skip", None))
    rule = SamplingRule()
    return decode(
        target, prompts, rule=rule, max_new_tokens=count, drafter=drafter, options=options, **others
    ).tokens


def _as_plain(prompts: Tensor, count: int) -> str:
    target = tiny_llama()
    plain = _tokens(target, prompts, count, None)
    for name, make in DRAFTERS.items():
        if not torch.equal(_tokens(target, prompts, count, make(target)), plain):
            return f"wrong: {name} draws other tokens than plain decoding"
    return f"the tokens of plain decoding, with each of {len(DRAFTERS)} drafters"


def _sentence(run: Callable[[], object], words: str) -> str:
    try:
        run()
    except ValueError as error:
        text = str(error)
        return text if words in text and "\n" not in text else f"wrong: {text}"
    return "wrong: no error"


def _other_vocabulary() -> str:
    target, prompts = tiny_llama(), prompts_of(2)[0]
    small = ModelDrafter(tiny_llama(layers=1, vocabulary=8))
    return _sentence(lambda: _tokens(target, prompts, 4, small), "8 tokens")


def _not_numbers() -> str:
    target, prompts = tiny_llama(), prompts_of(2)[0]
    target.lm_head.weight.data[3] = torch.nan
    return _sentence(lambda: _tokens(target, prompts, 4, JacobiDrafter(3)), "not finite")


def _limit_inside_a_tree() -> str:
    outcome = ""
    for limit in (1, 2, 3, 5):
        outcome = _as_plain(torch.tensor([[7, 9]]), limit)
        if outcome.startswith("wrong"):
            return outcome
    # A skipped round must not run over it either.
    target = tiny_llama()
    for limit in range(8, 14):
        found = _tokens(
            target,
            torch.tensor([[7, 9]]),
            limit,
            ModelDrafter(draft_of(target)),
            skip=SkipRule(),
        )
        if found.shape != (1, limit):
            return f"wrong: {found.shape[1]} tokens of {limit}"
    return outcome


def _cancelled() -> str:
    target, (prompts, _) = tiny_llama(), prompts_of(2)
    drafter = ModelDrafter(draft_of(target))

    def stop(done: int, total: int) -> None:
        if done > 10:
            raise _StopError

    try:
        _tokens(target, prompts, 30, drafter, on_tokens=stop)
    except _StopError:
        again = _tokens(target, prompts, 30, drafter)
        same = torch.equal(again, _tokens(target, prompts, 30, None))
        return "the tokens of plain decoding" if same else "wrong: other tokens after it"
    return "wrong: it went on"


def _no_prompts() -> str:
    target = tiny_llama()
    found = _tokens(target, torch.zeros((0, 3), dtype=torch.long), 5, JacobiDrafter(3))
    return "no tokens" if found.shape[0] == 0 else "wrong: tokens"
