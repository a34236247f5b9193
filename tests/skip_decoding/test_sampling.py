# SPDX-License-Identifier: Apache-2.0
"""Keyed noise is noise, and the rule is that of transformers' warpers."""

from typing import Any

import pytest
import torch

from genaccel.skip_decoding.sampling import SamplingRule, draw, keyed_uniform


def test_keyed_numbers_are_uniform_and_independent() -> None:
    sequences = torch.arange(100)[:, None].expand(-1, 100)
    positions = torch.arange(100)[None].expand(100, -1)
    uniform = keyed_uniform(1234, sequences, positions, 8)
    assert uniform.shape == (100, 100, 8)
    assert uniform.min() > 0
    assert uniform.max() < 1
    counts = torch.histc(uniform, bins=50, min=0, max=1)
    chi_square = float(((counts - 1600) ** 2 / 1600).sum())
    assert 20 < chi_square < 90  # 49 degrees of freedom
    flat = uniform.flatten(0, 1)
    for other in (
        flat.roll(1, 0),
        flat.roll(1, 1),
        keyed_uniform(1235, sequences, positions, 8).flatten(0, 1),
    ):
        correlation = float(torch.corrcoef(torch.stack((flat.flatten(), other.flatten())))[0, 1])
        assert abs(correlation) < 0.015  # five standard errors


@pytest.mark.parametrize("seed", [0, -1, 2**63, -(2**63), 2**64 - 1])
def test_any_seed_is_taken(seed: int) -> None:
    place = torch.tensor([0])
    assert 0 < float(keyed_uniform(seed, place, place, 1)) < 1


def test_draws_follow_the_probabilities() -> None:
    probabilities = torch.tensor([0.5, 0.3, 0.15, 0.05, 0.0], dtype=torch.float64)
    count = 20_000
    weights = probabilities.log().expand(count, -1)
    drawn = draw(weights, 3, torch.zeros(count, dtype=torch.long), torch.arange(count))
    counts = torch.bincount(drawn, minlength=5)
    assert counts[4] == 0
    expected = probabilities[:4] * count
    assert (
        float(((counts[:4] - expected) ** 2 / expected).sum()) < 16.3
    )  # 3 degrees of freedom, p 0.001


@pytest.mark.parametrize(
    ("top_k", "top_p", "temperature"), [(0, 1.0, 0.7), (5, 1.0, 1.0), (0, 0.6, 1.0), (9, 0.7, 1.3)]
)
def test_the_filters_are_those_of_transformers(
    top_k: int, top_p: float, temperature: float
) -> None:
    generation: Any = pytest.importorskip("transformers").generation
    logits = 3 * torch.randn(
        50, 30, generator=torch.Generator().manual_seed(2), dtype=torch.float64
    )
    expected = generation.TemperatureLogitsWarper(temperature)(None, logits)
    if top_k:
        expected = generation.TopKLogitsWarper(top_k)(None, expected)
    if top_p < 1:
        expected = generation.TopPLogitsWarper(top_p)(None, expected)
    rule = SamplingRule(top_k=top_k, top_p=top_p, temperature=temperature)
    torch.testing.assert_close(rule.log_weights(logits), expected)


def test_only_what_is_allowed_is_drawn() -> None:
    logits = torch.zeros(1000, 6)
    logits[:, 5] = 50.0
    places = torch.arange(1000)
    for temperature in (0.0, 1.0):
        rule = SamplingRule(allowed=(1, 4), temperature=temperature)
        drawn = draw(rule.log_weights(logits), 0, places, places)
        assert set(drawn.tolist()) <= {1, 2, 3}
    with pytest.raises(ValueError, match="none of the 6 tokens is allowed"):
        SamplingRule(allowed=(6, 9)).log_weights(logits)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"temperature": -1.0}, "temperature must be at least 0"),
        ({"temperature": float("nan")}, "temperature must be at least 0"),
        ({"top_k": -1}, "top_k must be at least 0"),
        ({"top_p": 0.0}, "top_p must be in"),
        ({"guidance_scale": 0.5}, "guidance_scale must be at least 1"),
        ({"allowed": (3, 3)}, "allowed must be a range"),
    ],
)
def test_a_rule_out_of_range_is_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SamplingRule(**values)
