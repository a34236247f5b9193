# SPDX-License-Identifier: Apache-2.0
"""Many sequences are judged as one is, and relaxed acceptance moves no more probability than its bound."""

import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from genaccel.skip_decoding.acceptance import (
    Relaxation,
    accept_by_rejection,
    accept_in_batch,
    nearest_code_words,
)
from genaccel.skip_decoding.draft_tree import TreeShape

SIZE = 12
CODES = torch.randn(SIZE, 3, generator=torch.Generator().manual_seed(5))
NEIGHBOURS = nearest_code_words(CODES, 8)

RELAXATIONS: dict[str, Relaxation | None] = {
    "exact": None,
    "0.2": Relaxation(neighbours=NEIGHBOURS, count=6, delta=0.2),
    "0.2, all neighbours": Relaxation(neighbours=NEIGHBOURS, count=8, delta=0.2),
    "1.5": Relaxation(neighbours=NEIGHBOURS, count=6, delta=1.5),
    "as the authors": Relaxation(neighbours=NEIGHBOURS, count=6, delta=0.2, is_original=True),
}


def weights_of(generator: torch.Generator, *shape: int) -> Tensor:
    """Log-weights, a third of them filtered out."""
    weights = 2 * torch.randn(*shape, generator=generator, dtype=torch.float64)
    is_out = torch.rand(*shape, generator=generator) < 0.33
    is_out[..., 0] = False
    return weights.masked_fill(is_out, -torch.inf)


def drawn_tree(shape: TreeShape, guesses: Tensor, generator: torch.Generator) -> Tensor:
    """Siblings drawn without replacement, ``[S, N]``, from ``guesses``, ``[S, N, V]``; where none is left, any other."""
    tokens = torch.zeros(guesses.shape[:2], dtype=torch.long)
    for row, node in itertools.product(range(len(guesses)), range(shape.num_nodes)):
        children = [n for n, parent in enumerate(shape.parents, 1) if parent == node]
        if children:
            chances = guesses[row, node] + 1e-12
            tokens[row, children] = torch.multinomial(chances, len(children), generator=generator)
    return tokens


@pytest.mark.parametrize("has_draft", [False, True], ids=["likeliest", "drawn"])
@pytest.mark.parametrize("relaxation", RELAXATIONS.values(), ids=RELAXATIONS)
@pytest.mark.parametrize(
    "shape",
    [TreeShape.chain(3), TreeShape((0, 0, 0)), TreeShape((0, 0, 1, 1, 2, 3))],
    ids=["chain", "siblings", "tree"],
)
def test_a_batch_is_judged_as_each_of_it(
    shape: TreeShape, relaxation: Relaxation | None, has_draft: bool
) -> None:
    generator = torch.Generator().manual_seed(0)
    count = 40
    weights = weights_of(generator, count, shape.num_nodes, SIZE)
    guessed = weights_of(generator, count, shape.num_nodes, SIZE).softmax(-1)
    tokens = drawn_tree(shape, guessed, generator)
    uniforms = torch.rand(count, shape.num_nodes, generator=generator, dtype=torch.float64)
    draft = guessed if has_draft else None
    path, residual, substituted = accept_in_batch(
        shape, tokens, weights, uniforms, relaxation=relaxation, draft_probabilities=draft
    )
    lengths = set()
    for row in range(count):
        expected = accept_by_rejection(
            shape,
            tokens[row],
            weights[row],
            iter(uniforms[row].tolist()),
            relaxation=relaxation,
            draft_probabilities=None if draft is None else draft[row],
        )
        assert [node for node in path[row].tolist() if node >= 0] == list(expected.path)
        torch.testing.assert_close(residual[row], expected.residual, atol=1e-12, rtol=0)
        assert int(substituted[row]) == expected.num_substituted
        lengths.add(len(expected.path))
    assert len(lengths) > 1
    if relaxation is None:
        assert int(substituted.sum()) == 0
    elif relaxation.delta < 1:
        assert int(substituted.sum()) > 0


def next_token(
    num_siblings: int,
    tokens: Tensor,
    target: Tensor,
    relaxation: Relaxation | None,
    draft: Tensor | None = None,
) -> Tensor:
    """Distribution of the token after the root, ``[S, V]``, by enumeration: each sibling is accepted or not.

    Args:
        num_siblings: Guesses.
        tokens: These, ``[S, siblings]``.
        target: Probabilities, ``[V]``.
        relaxation: What they may borrow.
        draft: Of the drafter, ``[V]``.
    """
    shape, count = TreeShape((0,) * num_siblings), len(tokens)
    all_tokens = torch.cat((torch.zeros(count, 1, dtype=torch.long), tokens), 1)
    weights = target.log().expand(count, shape.num_nodes, -1)
    drafts = None if draft is None else draft.expand(count, 1, -1)

    def judged(uniforms: Tensor) -> tuple[Tensor, Tensor]:
        path, residual, _ = accept_in_batch(
            shape,
            all_tokens,
            weights,
            uniforms,
            relaxation=relaxation,
            draft_probabilities=drafts,
        )
        return path[:, 1], residual

    # A uniform number of 2 rejects what can be; what is accepted below a number then has it as its probability.
    rejecting = torch.full((count, shape.num_nodes), 2.0, dtype=torch.float64)
    total = torch.zeros(count, len(target), dtype=torch.float64)
    reach = torch.ones(count, dtype=torch.float64)
    for sibling in range(num_siblings):
        low, high = torch.zeros_like(reach), torch.ones_like(reach)
        for _ in range(32):
            middle = (low + high) / 2
            uniforms = rejecting.clone()
            uniforms[:, sibling] = middle
            is_accepted = judged(uniforms)[0] == sibling + 1
            low = torch.where(is_accepted, middle, low)
            high = torch.where(is_accepted, high, middle)
        total.scatter_add_(1, tokens[:, sibling, None], (reach * low)[:, None])
        reach = reach * (1 - low)
    return total + reach[:, None] * judged(rejecting)[1]


def ordered_draws(draft: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """All ways to draw tokens without replacement, ``[S, count]``, and how probable they are, ``[S]``."""
    tokens = torch.tensor(list(itertools.permutations(range(len(draft)), count)))
    chance = torch.ones(len(tokens), dtype=torch.float64)
    left = torch.ones_like(chance)
    for number in range(count):
        own = draft[tokens[:, number]]
        chance, left = chance * own / left, left - own
    return tokens, chance


def distance(found: Tensor, expected: Tensor) -> float:
    assert float(found.sum()) == pytest.approx(1)
    return float((found - expected).abs().sum()) / 2


Case = Callable[[int, Tensor, Tensor, Relaxation | None], Tensor]


def of_fixed_guesses(siblings: int, target: Tensor, draft: Tensor, relaxation: Any) -> Tensor:
    tokens = draft.topk(siblings).indices[None]
    return next_token(siblings, tokens, target, relaxation)[0]


def of_drawn_guesses(siblings: int, target: Tensor, draft: Tensor, relaxation: Any) -> Tensor:
    tokens, chance = ordered_draws(draft, siblings)
    return chance @ next_token(siblings, tokens, target, relaxation, draft)


@pytest.mark.parametrize("case", [of_fixed_guesses, of_drawn_guesses], ids=["likeliest", "drawn"])
@pytest.mark.parametrize("siblings", [1, 2, 3])
def test_what_is_drawn_is_no_farther_from_the_target_than_the_bound(
    siblings: int, case: Case
) -> None:
    farthest = dict.fromkeys((0.0, 0.1, 0.3), 0.0)
    for seed in range(2 if case is of_drawn_guesses else 4):
        generator = torch.Generator().manual_seed(seed)
        size = 6
        target, draft = (
            (1.5 * torch.randn(size, generator=generator, dtype=torch.float64)).softmax(0)
            for _ in range(2)
        )
        neighbours = nearest_code_words(torch.randn(size, 2, generator=generator), 4)
        assert distance(case(siblings, target, draft, None), target) < 1e-8
        for delta in farthest:
            relaxation = Relaxation(neighbours=neighbours, count=4, delta=delta)
            moved = distance(case(siblings, target, draft, relaxation), target)
            assert moved <= delta + 1e-8
            farthest[delta] = max(farthest[delta], moved)
    assert farthest[0.3] > 0.3 * 0.3
    assert farthest[0.0] < 1e-8


def test_the_authors_rule_goes_beyond_the_bound() -> None:
    """Each sibling borrows anew, and what was rejected takes code words along that lent nothing."""
    farthest = 0.0
    for seed in range(5):
        generator = torch.Generator().manual_seed(seed)
        target, draft = (
            torch.randn(SIZE, generator=generator, dtype=torch.float64).softmax(0) for _ in range(2)
        )
        relaxation = Relaxation(neighbours=NEIGHBOURS, count=6, delta=0.1, is_original=True)
        farthest = max(farthest, distance(of_fixed_guesses(3, target, draft, relaxation), target))
    assert farthest > 0.2


def test_who_lends_is_told() -> None:
    relaxation = Relaxation(neighbours=NEIGHBOURS, count=4, delta=0.3)
    probabilities = torch.full((SIZE,), 0.1, dtype=torch.float64)
    tokens = torch.arange(SIZE)
    # Three code words of 0.1 fit into 0.3, or two where the sums are rounded up.
    number = relaxation.borrowed(probabilities.expand(SIZE, -1), tokens)[1]
    for token, lender in itertools.product(range(SIZE), range(SIZE)):
        found = relaxation.lends(probabilities, torch.tensor(token), torch.tensor(lender))
        assert bool(found) == (lender in NEIGHBOURS[token, : int(number[token])].tolist())
    assert set(number.tolist()) <= {2, 3}
