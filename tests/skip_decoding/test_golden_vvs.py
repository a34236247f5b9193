# SPDX-License-Identifier: Apache-2.0
"""Acceptance and skipping equal what the authors' own code of VVS and LANTERN does."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from genaccel.skip_decoding.acceptance import (
    Relaxation,
    accept_by_rejection,
    accept_greedily,
    nearest_code_words,
)
from genaccel.skip_decoding.draft_tree import TreeShape
from genaccel.skip_decoding.sampling import SamplingRule
from genaccel.skip_decoding.skipping import (
    decaying_weights,
    path_similarity,
    skips_by_similarity,
    skips_uniformly,
    unverified_length,
)

pytestmark = pytest.mark.golden

FOLDER = Path(__file__).parents[1] / "golden/vvs_lantern"
NUMBERS: dict[str, Any] = json.loads((FOLDER / "scalars.json").read_text())


@pytest.fixture(scope="module")
def stored() -> dict[str, Tensor]:
    return load_file(FOLDER / "vvs_lantern.safetensors")


def tree_of(stored: dict[str, Tensor], number: int) -> tuple[TreeShape, Tensor]:
    """Shape and tokens of a tree that is stored as the table of its paths."""
    nodes, candidates = stored[f"tree{number}.retrieve"], stored[f"tree{number}.candidates"]
    count = int(nodes.max()) + 1
    parents, tokens = [0] * count, torch.zeros(count, dtype=torch.long)
    for row, row_tokens in zip(nodes.tolist(), candidates.tolist(), strict=True):
        for depth, (node, token) in enumerate(zip(row, row_tokens, strict=True)):
            if node >= 0:
                tokens[node] = token
                parents[node] = row[depth - 1] if depth else 0
    return TreeShape(tuple(parents[1:])), tokens


def row_of(stored: dict[str, Tensor], number: int, path: tuple[int, ...]) -> int:
    """The first path of the table that begins with these nodes."""
    rows = stored[f"tree{number}.retrieve"].tolist()
    return next(i for i, row in enumerate(rows) if tuple(row[: len(path)]) == path)


def relaxation_of(case: dict[str, Any], stored: dict[str, Tensor]) -> Relaxation | None:
    if not case["lantern"]:
        return None
    return Relaxation(
        neighbours=stored["neighbours"], count=case["k"], delta=case["delta"], is_original=True
    )


@pytest.mark.parametrize("number", range(len(NUMBERS["accept"])))
def test_acceptance_of_deterministic_guesses(stored: dict[str, Tensor], number: int) -> None:
    case = NUMBERS["accept"][number]
    shape, tokens = tree_of(stored, case["tree"])
    logits = stored[f"tree{case['tree']}.node_logits"].clone()
    uniforms = iter(stored[f"accept{number}.uniforms"].tolist())
    found = accept_by_rejection(
        shape,
        tokens,
        SamplingRule(top_k=case["top_k"]).log_weights(logits),
        uniforms,
        relaxation=relaxation_of(case, stored),
    )
    assert len(found.path) - 1 == case["accepted"]
    assert row_of(stored, case["tree"], found.path) == case["best_path"]
    assert list(uniforms) == []  # all that the authors' code drew were drawn
    torch.testing.assert_close(
        found.residual, stored[f"accept{number}.residual"], atol=1e-6, rtol=0
    )


@pytest.mark.parametrize("number", range(len(NUMBERS["accept_with_draft_probability"])))
def test_acceptance_of_drawn_guesses(stored: dict[str, Tensor], number: int) -> None:
    case = NUMBERS["accept_with_draft_probability"][number]
    shape, tokens = tree_of(stored, case["tree"])
    uniforms = iter(stored[f"draftq{number}.uniforms"].tolist())
    found = accept_by_rejection(
        shape,
        tokens,
        stored[f"tree{case['tree']}.node_logits"],
        uniforms,
        relaxation=relaxation_of(case, stored),
        draft_probabilities=stored[f"tree{case['tree']}.draft_probs"],
    )
    assert len(found.path) - 1 == case["accepted"]
    assert row_of(stored, case["tree"], found.path) == case["best_path"]
    assert list(uniforms) == []
    torch.testing.assert_close(
        found.residual, stored[f"draftq{number}.residual"], atol=1e-6, rtol=0
    )


@pytest.mark.parametrize("number", range(len(NUMBERS["greedy"])))
def test_greedy_acceptance(stored: dict[str, Tensor], number: int) -> None:
    case = NUMBERS["greedy"][number]
    shape, tokens = tree_of(stored, case["tree"])
    path = accept_greedily(
        shape,
        tokens,
        stored[f"tree{case['tree']}.node_logits_greedy"],
        relaxation=relaxation_of(case, stored),
    )
    assert len(path) - 1 == case["accepted"]
    assert row_of(stored, case["tree"], path) == case["best_path"]


def test_neighbours(stored: dict[str, Tensor]) -> None:
    assert torch.equal(nearest_code_words(stored["codebook"], 127), stored["neighbours"])


def similarity_of(stored: dict[str, Tensor], name: str, stride: int, weights: list[float]) -> float:
    if name.startswith("ragged"):
        candidates = stored["ragged.candidates"]
        candidates = candidates[:1] if name != "ragged" else candidates
    else:
        candidates = stored[f"tree{name}.candidates"]
    codes = torch.nn.functional.normalize(stored["codebook"].double(), dim=1)
    return path_similarity(candidates[::stride, 1:], codes, weights=weights)


@pytest.mark.parametrize("number", range(len(NUMBERS["similarity"])))
def test_similarity(stored: dict[str, Tensor], number: int) -> None:
    case = NUMBERS["similarity"][number]
    name = str(case["tree"])
    table = (
        stored["ragged.candidates"]
        if name.startswith("ragged")
        else stored[f"tree{name}.candidates"]
    )
    depth = int((table[:: case["stride"], 1:] >= 0).sum(1).max())
    weights = {
        "exp_decay": decaying_weights(depth, case["decay"]),
        "linear_decay": [float(depth - level) for level in range(depth)],
        "uniform": [1.0] * depth,
    }[case["mode"]]
    found = similarity_of(stored, name, case["stride"], weights)
    assert found == pytest.approx(case["s_bar"], abs=1e-6)


@pytest.mark.parametrize("number", range(len(NUMBERS["decide"])))
def test_the_decision_to_skip(stored: dict[str, Tensor], number: int) -> None:
    case = NUMBERS["decide"][number]
    if case["policy"] == "uniform":
        found = skips_uniformly(case["cur_step"], case["skip_interval"], case["new_token"])
    else:
        found = skips_by_similarity(
            similarity_of(stored, str(case["tree"]), 2, decaying_weights(5)),
            case["sim_threshold"],
            has_just_skipped=case["last_step_skip"],
            num_tokens=case["new_token"],
        )
    assert found == case["skip"]


@pytest.mark.parametrize("number", range(len(NUMBERS["skip_commit"])))
def test_what_a_skip_commits(stored: dict[str, Tensor], number: int) -> None:
    case = NUMBERS["skip_commit"][number]
    lengths = (stored[f"tree{case['tree']}.candidates"] >= 0).sum(1) - 1
    assert unverified_length(lengths, case["path"]) == case["gamma"]


def test_guidance_and_filters(stored: dict[str, Tensor]) -> None:
    combined = SamplingRule(guidance_scale=7.5).combine(stored["cfg.logits"])
    torch.testing.assert_close(combined, stored["cfg.out_scale7.5"], atol=1e-5, rtol=0)
    logits = stored["filter.logits"]
    for name, rule in (
        ("topk0_topp0.9", SamplingRule(top_p=0.9)),
        ("topk10_topp1.0", SamplingRule(top_k=10)),
        ("topk20_topp0.8", SamplingRule(top_k=20, top_p=0.8)),
    ):
        kept = rule.log_weights(logits) > -torch.inf
        assert torch.equal(kept, stored[f"filter.keep_{name}"]), name
