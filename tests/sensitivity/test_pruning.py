# SPDX-License-Identifier: Apache-2.0
import itertools
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from genaccel.sensitivity.pruning.pruning import (
    PruningConfig,
    partial_update_error,
    plan_pruning,
    static_token_counts,
)

RATES = (0.05, 0.1, 0.15, 0.2, 0.3, 0.5)
STEPS, LAYERS, MODULES, TOKENS = 12, 3, 2, 256
COMPUTED = np.arange(STEPS) % 4 == 0
FLOPS = np.array([[3.0, 8.0]] * LAYERS)
CAPACITY = float((~COMPUTED).sum() * FLOPS.sum() * 0.5)  # all partial at the largest rate


def _tables(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """E_p and E_c that behave: reuse grows with the age, recomputing helps in proportion."""
    random = np.random.default_rng(seed)
    scale = random.uniform(0.1, 1, (LAYERS, MODULES))
    reuse = random.uniform(0.9, 1.1, (STEPS, 4, LAYERS, MODULES)) * scale
    reuse *= np.arange(1, 5)[:, None, None]
    partial = reuse[:, 0, :, :, None] * (1 - np.array(RATES))
    return partial, reuse


def _plan(budget: float, seed: int = 0, **options: Any):
    partial, reuse = _tables(seed)
    arguments = {
        "rates": RATES,
        "computed": COMPUTED,
        "num_tokens": TOKENS,
        "submodule_flops": FLOPS,
        "recompute_flops": budget,
    }
    return plan_pruning(partial, reuse, **{**arguments, **options})


@given(seed=st.integers(0, 2**32 - 1), share=st.floats(0, 1))
@settings(deadline=None, max_examples=60)
def test_the_budget_is_kept_and_used(seed: int, share: float) -> None:
    budget = share * CAPACITY
    plan = _plan(budget, seed)
    reused = plan.token_counts[~COMPUTED]
    assert plan.recompute_flops == pytest.approx((reused / TOKENS * FLOPS).sum())
    assert plan.recompute_flops <= budget * (1 + 1e-6)
    # What is left would not pay for the dearest step up of one submodule.
    sizes = (0, *static_token_counts(TOKENS, RATES))
    assert budget - plan.recompute_flops <= FLOPS.max() * max(np.diff(sizes)) / TOKENS
    assert set(np.unique(reused)) <= set(sizes)
    assert (plan.token_counts[COMPUTED] == TOKENS).all()


@given(seed=st.integers(0, 2**32 - 1))
@settings(deadline=None, max_examples=20)
def test_a_larger_budget_is_never_worse(seed: int) -> None:
    plans = [_plan(share * CAPACITY, seed) for share in np.linspace(0, 1, 12)]
    for less, more in itertools.pairwise(plans):
        assert more.base_rate >= less.base_rate
        assert more.recompute_flops >= less.recompute_flops - FLOPS.max() * 0.2
    assert plans[-1].expected_error <= plans[0].expected_error
    assert (plans[0].token_counts[~COMPUTED] == 0).all()
    assert (plans[-1].token_counts[~COMPUTED] == 128).all()


def test_the_more_sensitive_recompute_more() -> None:
    partial, reuse = _tables()
    reuse = np.ones_like(reuse)
    reuse[..., 1] = 4.0  # the second submodule of each layer
    partial = np.zeros_like(partial)
    plan = plan_pruning(
        partial,
        reuse,
        rates=RATES,
        computed=COMPUTED,
        num_tokens=TOKENS,
        submodule_flops=FLOPS,
        recompute_flops=0.3 * CAPACITY,
        config=PruningConfig(rate_slope=2.0),
    )
    reused = plan.token_counts[~COMPUTED]
    assert reused[..., 1].mean() > 1.5 * reused[..., 0].mean() > 0
    flat = _plan(0.3 * CAPACITY, config=PruningConfig(rate_slope=0.0)).token_counts[~COMPUTED]
    assert len(np.unique(flat)) <= 3  # one rate, up to the leftover of the budget, or reuse


def test_a_rate_worked_by_hand() -> None:
    # One layer of one submodule. Steps 1, 2 are reused at ages 1, 2; look-ahead errors are those of
    # steps 2, 3 at ages 2, 3: 2 and 6, of mean 4. With slope 0.5, r = base * 1.25 and base * 1.75.
    reuse = np.zeros((4, 3, 1, 1))
    reuse[2, 1], reuse[3, 2] = 2.0, 6.0
    reuse[1, 0], reuse[2, 0] = 1.0, 1.0
    arguments = {
        "rates": (1.0,),
        "computed": [True, False, False, True],
        "num_tokens": 100,
        "submodule_flops": [[100.0]],
        "config": PruningConfig(rates=tuple(r / 100 for r in range(1, 101)), token_multiple=1),
    }
    plan = plan_pruning(np.zeros((4, 1, 1, 1)), reuse, recompute_flops=60.0, **arguments)
    assert plan.base_rate == pytest.approx(0.2, abs=0.005)
    assert plan.token_counts[:, 0, 0].tolist() == [100, 25, 35, 100]
    assert plan.recompute_flops == 60
    # E_p falls in a line from reuse at age 1 to 0 at rate 1.
    assert plan.expected_error == pytest.approx(0.75 + 0.65)


@pytest.mark.parametrize("timing", ["look_ahead", "same_step"])
def test_tokens_are_recomputed_only_where_that_beats_reuse(timing: str) -> None:
    partial, reuse = _tables()
    partial[:] = 1e3  # mixing rows of two steps may be worse than either
    partial[5] = 0.0
    plan = plan_pruning(
        partial,
        reuse,
        rates=RATES,
        computed=COMPUTED,
        num_tokens=TOKENS,
        submodule_flops=FLOPS,
        recompute_flops=CAPACITY,
        config=PruningConfig(timing=timing),
    )
    assert (plan.token_counts[5] > 0).all()
    others = ~COMPUTED & (np.arange(STEPS) != 5)
    assert (plan.token_counts[others] == 0).all()


def test_timing_decides_which_error_counts() -> None:
    reuse = np.full((3, 2, 1, 1), np.nan)
    reuse[1, 0], reuse[2, 0], reuse[2, 1] = 0.1, 0.1, 0.9
    partial = np.full(
        (3, 1, 1, 1), 0.5
    )  # worse than reuse at the same step, better than at the next
    arguments = {
        "rates": (0.5,),
        "computed": [True, False, True],
        "num_tokens": 64,
        "submodule_flops": [[1.0]],
        "recompute_flops": 1.0,
        "config": PruningConfig(rates=(0.5,)),
    }
    ahead = plan_pruning(partial, reuse, **arguments)
    assert ahead.token_counts[:, 0, 0].tolist() == [64, 32, 64]
    arguments["config"] = PruningConfig(rates=(0.5,), timing="same_step")
    partial[:] = 0.1
    assert plan_pruning(partial, reuse, **arguments).token_counts[1, 0, 0] == 0
    partial[:] = 0.09
    assert plan_pruning(partial, reuse, **arguments).token_counts[1, 0, 0] == 32


def test_submodules_may_be_left_out_and_layers_have_their_own_steps() -> None:
    prunable = np.array([[False, True]] * LAYERS)
    plan = _plan(CAPACITY, prunable=prunable)
    assert (plan.token_counts[~COMPUTED][..., 0] == 0).all()
    assert (plan.token_counts[~COMPUTED][..., 1] > 0).all()
    computed = np.repeat(COMPUTED[:, None], LAYERS, axis=1)
    computed[2, 1] = True
    own = _plan(CAPACITY, computed=computed)
    assert (own.token_counts[2, 1] == TOKENS).all()
    assert (own.token_counts[2, [0, 2]] < TOKENS).all()


def test_unmeasured_errors_leave_reuse() -> None:
    partial, reuse = _tables()
    reuse[:, :, 1] = np.nan
    plan = plan_pruning(
        partial,
        reuse,
        rates=RATES,
        computed=COMPUTED,
        num_tokens=TOKENS,
        submodule_flops=FLOPS,
        recompute_flops=CAPACITY,
    )
    assert (plan.token_counts[~COMPUTED][:, 1] == 0).all()
    assert (plan.token_counts[~COMPUTED][:, 0] > 0).all()
    assert np.isfinite(plan.expected_error)


def test_nothing_reused_or_nothing_to_spend() -> None:
    plan = _plan(CAPACITY, computed=np.ones(STEPS, bool))
    assert (plan.token_counts == TOKENS).all()
    assert plan.expected_error == plan.recompute_flops == 0
    assert (_plan(0.0).token_counts[~COMPUTED] == 0).all()


def test_token_counts_are_few_and_fit_the_tiles() -> None:
    assert static_token_counts(256, RATES) == (16, 32, 48, 64, 80, 128)
    assert static_token_counts(320, RATES) == (16, 32, 48, 64, 96, 160)
    assert static_token_counts(20, (0.1, 0.5, 1.0)) == (16, 20)
    assert static_token_counts(10, (0.1, 1.0), 1) == (1, 10)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"recompute_flops": -1.0}, "not be negative"),
        ({"rates": (0.5, 0.1, 0.15, 0.2, 0.3, 0.6)}, "must ascend"),
        ({"rates": (0.5,)}, "pruning_error must be"),
        ({"submodule_flops": np.ones((2, 2))}, "submodule_flops must be"),
        ({"computed": np.zeros(STEPS, bool)}, "first step"),
        ({"computed": np.ones((STEPS, 2), bool)}, "computed must be"),
        ({"computed": np.arange(STEPS) == 0}, "reused at age 11, .* up to 4"),
    ],
)
def test_bad_arguments_are_refused(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        _plan(1.0, **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"timing": "later"}, "timing must be"),
        ({"rate_slope": -0.1}, "rate_slope must be"),
        ({"rates": ()}, "rates must ascend"),
        ({"rates": (0.0, 0.5)}, "rates must ascend"),
        ({"rates": (0.5, 1.5)}, "rates must ascend"),
        ({"token_multiple": 0}, "token_multiple must be"),
    ],
)
def test_bad_options_are_refused(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PruningConfig(**options)


@given(seed=st.integers(0, 2**32 - 1), tokens=st.integers(1, 9), channels=st.integers(1, 5))
@settings(deadline=None, max_examples=40)
def test_prefix_sums_equal_mixed_tensors(seed: int, tokens: int, channels: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    fresh, cached = torch.randn(2, 3, tokens, channels, generator=generator)
    scores = torch.rand(3, tokens, generator=generator)
    counts = range(tokens + 1)
    errors = partial_update_error(fresh, cached, scores, counts)
    assert errors.shape == (3, tokens + 1)
    for count in counts:
        mixed = cached.clone()
        best = scores.topk(count, dim=1).indices[..., None].expand(-1, -1, channels)
        mixed.scatter_(1, best, fresh.gather(1, best))
        cosine = torch.cosine_similarity(mixed.flatten(1).double(), fresh.flatten(1).double())
        torch.testing.assert_close(errors[:, count], 1 - cosine, rtol=0, atol=1e-10)
    assert (errors[:, -1] < 1e-12).all()


def test_prefix_sums_of_zeros_and_bad_shapes() -> None:
    zero, one = torch.zeros(1, 2, 3), torch.ones(1, 2, 3)
    scores = torch.ones(1, 2)
    assert partial_update_error(zero, zero, scores, [0, 1, 2]).tolist() == [[0, 0, 0]]
    assert partial_update_error(one, zero, scores, [0, 2]).tolist() == [[1, 0]]
    assert partial_update_error(zero, one, scores, [0, 2]).tolist() == [[1, 0]]
    with pytest.raises(ValueError, match="must be"):
        partial_update_error(one, one, torch.ones(1, 3), [0])
