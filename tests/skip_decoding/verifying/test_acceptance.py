# SPDX-License-Identifier: Apache-2.0
"""Guesses are judged by the rule that the reference spells out, and what is relaxed moves no more probability than its bound."""

import itertools
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from genaccel.reference import accept_tree_by_rejection
from genaccel.skip_decoding.drafts.draft_tree import TreeShape
from genaccel.skip_decoding.verifying.acceptance import (
    Relaxation,
    accept_by_rejection,
    nearest_code_words,
)
from tests.skip_decoding.enumeration import of_drawn_guesses, of_fixed_guesses

SIZE = 12
CODES = torch.randn(SIZE, 3, generator=torch.Generator().manual_seed(5))
NEIGHBOURS = nearest_code_words(CODES, 8)

RELAXATIONS: dict[str, Relaxation | None] = {
    "exact": None,
    "0.2": Relaxation(neighbours=NEIGHBOURS, count=6, delta=0.2),
    "0.2, all neighbours": Relaxation(neighbours=NEIGHBOURS, count=8, delta=0.2),
    "1.5": Relaxation(neighbours=NEIGHBOURS, count=6, delta=1.5),
    "as the authors": Relaxation(neighbours=NEIGHBOURS, count=6, delta=0.2, is_original=True),
    "as the authors, all": Relaxation(neighbours=NEIGHBOURS, count=8, delta=0.5, is_original=True),
}


def weights_of(generator: torch.Generator, *shape: int) -> Tensor:
    """Log-weights, a third of them filtered out."""
    weights = 2 * torch.randn(*shape, generator=generator, dtype=torch.float64)
    is_out = torch.rand(*shape, generator=generator) < 0.33
    is_out[..., 0] = False
    return weights.masked_fill(is_out, -torch.inf)


def drawn_tree(shape: TreeShape, guesses: Tensor, generator: torch.Generator) -> Tensor:
    """Siblings drawn without replacement, ``[S, N]``, from ``guesses``, ``[S, M, V]``; where none is left, any other."""
    tokens = torch.zeros(len(guesses), shape.num_nodes, dtype=torch.long)
    for row, node in itertools.product(range(len(guesses)), range(guesses.shape[1])):
        children = [n for n, parent in enumerate(shape.parents, 1) if parent == node]
        if children:
            chances = guesses[row, node] + 1e-12
            tokens[row, children] = torch.multinomial(chances, len(children), generator=generator)
    return tokens


SHAPES = {
    "chain": TreeShape.chain(3),
    "siblings": TreeShape((0, 0, 0)),
    "uneven": TreeShape((0, 0, 1, 1, 2, 3)),
    "one child more each": TreeShape((0, 0, 0, 1, 1, 2, 4, 6, 6)),
    "root": TreeShape(()),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("has_draft", [False, True], ids=["likeliest", "drawn"])
@pytest.mark.parametrize("relaxation", RELAXATIONS.values(), ids=RELAXATIONS)
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_guesses_are_judged_by_the_rule(
    shape: TreeShape, relaxation: Relaxation | None, has_draft: bool, dtype: torch.dtype
) -> None:
    generator = torch.Generator().manual_seed(0)
    count = 60
    inner = 1 + max(shape.parents, default=0)
    weights = weights_of(generator, count, shape.num_nodes, SIZE).to(dtype)
    guessed = weights_of(generator, count, inner, SIZE).softmax(-1).to(dtype)
    tokens = drawn_tree(shape, guessed, generator)
    uniforms = torch.rand(count, shape.num_nodes, generator=generator, dtype=torch.float64)
    draft = guessed if has_draft else None
    path, residual, substituted = accept_by_rejection(
        shape, tokens, weights, uniforms, relaxation=relaxation, draft_probabilities=draft
    )
    expected_path, counts, expected_residual, expected_substituted = accept_tree_by_rejection(
        torch.tensor((0, *shape.parents)),
        tokens,
        weights,
        uniforms,
        None if relaxation is None else relaxation.neighbours,
        draft,
        0 if relaxation is None else relaxation.count,
        0.0 if relaxation is None else relaxation.delta,
        relaxation is not None and relaxation.is_original,
        shape.max_depth,
    )
    assert torch.equal(path, expected_path)
    torch.testing.assert_close(
        residual, expected_residual, atol=1e-12 if dtype == torch.float64 else 1e-5, rtol=0
    )
    assert torch.equal(substituted, expected_substituted)
    if shape.parents:
        assert len(counts.unique()) > 1
    if relaxation is None or not shape.parents:
        assert int(substituted.sum()) == 0
    elif relaxation.delta < 1:
        assert int(substituted.sum()) > 0


def test_a_drafter_may_compute_in_another_format() -> None:
    shape = TreeShape.chain(2)
    generator = torch.Generator().manual_seed(1)
    weights = weights_of(generator, 9, 3, SIZE)
    guessed = weights_of(generator, 9, 2, SIZE).softmax(-1).float()
    tokens = drawn_tree(shape, guessed, generator)
    uniforms = torch.rand(9, 3, generator=generator, dtype=torch.float64)
    found, expected = (
        accept_by_rejection(shape, tokens, weights, uniforms, draft_probabilities=draft)
        for draft in (guessed, guessed.double())
    )
    assert all(map(torch.equal, found, expected))


def distance(found: Tensor, expected: Tensor) -> float:
    assert float(found.sum()) == pytest.approx(1)
    return float((found - expected).abs().sum()) / 2


Case = Callable[[int, Tensor, Tensor, Relaxation | None], Tensor]


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


def test_what_is_no_code_word_borrows_from_none() -> None:
    """A vocabulary has tokens besides: classes, and what ends a picture."""
    codes = torch.nn.functional.one_hot(torch.arange(6), 8).double()
    relaxation = Relaxation(neighbours=nearest_code_words(codes, 3), count=2, delta=0.9)
    probabilities = torch.full((3, 8), 1 / 8)
    lent, number = relaxation.borrowed(probabilities, torch.tensor([0, 6, 7]))
    assert number.tolist() == [2, 0, 0]
    assert lent[1:].tolist() == [0, 0]
    first = int(relaxation.neighbours[0, 0])
    tokens, lenders = torch.tensor([0, 6, 7]), torch.tensor([first, 0, 1])
    assert relaxation.lends(probabilities, tokens, lenders).tolist() == [True, False, False]
