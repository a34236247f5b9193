# SPDX-License-Identifier: Apache-2.0
"""Choice of tokens."""

import torch

from op_cases.case import HALF_TO_DOUBLE, OpCase


def _select_tokens_inputs(dtype, batch, tokens, k, groups, levels=10):
    """Few different scores have ties."""
    score = torch.randint(-levels // 2, levels // 2, (batch, tokens)).to(dtype) / 4
    return score, k, groups


def _select_tokens_rival(score, k, groups):
    total = score.view(groups, -1, score.shape[1]).sum(0)
    return total.topk(k, dim=1).indices.sort(dim=1).values.repeat(groups, 1)


def _token_scores_inputs(dtype, batch, tokens, channels, with_reference):
    x = torch.randn(batch, tokens, channels, dtype=dtype)
    return x, x + torch.randn_like(x) / 4 if with_reference else None


def _token_scores_rival(x, reference):
    change = x if reference is None else x - reference
    return change.mean(2, dtype=torch.float32).abs()


CASES = (
    OpCase(
        name="select_tokens",
        make_inputs=_select_tokens_inputs,
        shapes=(
            {"batch": 1, "tokens": 1, "k": 1, "groups": 1},
            {"batch": 0, "tokens": 4, "k": 2, "groups": 2},
            {"batch": 2, "tokens": 4, "k": 0, "groups": 1},
            {"batch": 2, "tokens": 0, "k": 0, "groups": 1},
            {"batch": 3, "tokens": 7, "k": 7, "groups": 1},
            {"batch": 6, "tokens": 257, "k": 100, "groups": 3},
            {"batch": 4, "tokens": 1000, "k": 999, "groups": 2},
            {"batch": 2, "tokens": 8193, "k": 3000, "groups": 2},
        ),
        dtypes=(torch.float32,),
        rival=_select_tokens_rival,
        flops=lambda batch, tokens, **_: batch * tokens,
        bound="other",
        large={"batch": 128, "tokens": 1024, "k": 256, "groups": 2},
        model={"batch": 8, "tokens": 256, "k": 64, "groups": 2},
        tiny={"batch": 4, "tokens": 24, "k": 6, "groups": 2},
        variants={"": {"levels": 2**24}},
        atol=0,
        rtol=0,
    ),
    OpCase(
        name="token_scores",
        make_inputs=_token_scores_inputs,
        shapes=(
            {"batch": 1, "tokens": 1, "channels": 1, "with_reference": 1},
            {"batch": 0, "tokens": 3, "channels": 8, "with_reference": 0},
            {"batch": 2, "tokens": 3, "channels": 5, "with_reference": 0},
            {"batch": 2, "tokens": 9, "channels": 40, "with_reference": 1},
            {"batch": 3, "tokens": 7, "channels": 1155, "with_reference": 0},
            {"batch": 1, "tokens": 65, "channels": 1152, "with_reference": 1},
        ),
        dtypes=HALF_TO_DOUBLE,
        rival=_token_scores_rival,
        flops=lambda batch, tokens, channels, with_reference: (
            batch * tokens * channels * (1 + with_reference)
        ),
        bound="memory",
        large={"batch": 128, "tokens": 1024, "channels": 1152},
        model={"batch": 8, "tokens": 256, "channels": 1152},
        tiny={"batch": 4, "tokens": 24, "channels": 48},
        variants={"mean": {"with_reference": 0}, "drift": {"with_reference": 1}},
        bench_dtype=torch.bfloat16,
        atol=1e-3,
    ),
)
