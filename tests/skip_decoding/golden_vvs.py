# SPDX-License-Identifier: Apache-2.0
"""What the authors' own code of VVS and LANTERN gave, and what ours gives for the same inputs."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from genaccel.skip_decoding.drafts.draft_tree import TreeShape
from genaccel.skip_decoding.drafts.feature_ring import FeatureRing
from genaccel.skip_decoding.sampling import SamplingRule
from genaccel.skip_decoding.verifying.acceptance import (
    Relaxation,
    accept_by_rejection,
    accept_greedily,
    nearest_code_words,
)
from genaccel.skip_decoding.verifying.skipping import (
    decaying_weights,
    path_similarity,
    skips_by_similarity,
    skips_uniformly,
    unverified_length,
)

_LAST_FEATURES = (1, 4, 6, 9)

FOLDER = Path(__file__).parents[1] / "golden/vvs_lantern"
NUMBERS: dict[str, Any] = json.loads((FOLDER / "scalars.json").read_text())


@dataclass(frozen=True, slots=True)
class Compared:
    """One number, or one tensor, of ours beside theirs.

    Attributes:
        name: What it is.
        found: Ours.
        expected: Theirs.
        tolerance: Largest absolute difference.
    """

    name: str
    found: Any
    expected: Any
    tolerance: float = 0.0

    @property
    def agrees(self) -> bool:
        """Whether ours is theirs."""
        if isinstance(self.expected, Tensor):
            if self.found.shape != self.expected.shape:
                return False
            difference = (self.found.double() - self.expected.double()).abs().max()
            return float(difference) <= self.tolerance
        if isinstance(self.expected, float):
            return abs(self.found - self.expected) <= self.tolerance
        return bool(self.found == self.expected)


@lru_cache(maxsize=1)
def stored() -> dict[str, Tensor]:
    """The tensors of the fixture; not to be written to."""
    return load_file(FOLDER / "vvs_lantern.safetensors")


def tree_of(number: int) -> tuple[TreeShape, Tensor]:
    """Shape and tokens of a tree that is stored as the table of its paths."""
    nodes, candidates = stored()[f"tree{number}.retrieve"], stored()[f"tree{number}.candidates"]
    count = int(nodes.max()) + 1
    parents, tokens = [0] * count, torch.zeros(count, dtype=torch.long)
    for row, row_tokens in zip(nodes.tolist(), candidates.tolist(), strict=True):
        for depth, (node, token) in enumerate(zip(row, row_tokens, strict=True)):
            if node >= 0:
                tokens[node] = token
                parents[node] = row[depth - 1] if depth else 0
    return TreeShape(tuple(parents[1:])), tokens


def row_of(number: int, path: tuple[int, ...]) -> int:
    """The first path of the table that begins with these nodes."""
    rows = stored()[f"tree{number}.retrieve"].tolist()
    return next(i for i, row in enumerate(rows) if tuple(row[: len(path)]) == path)


def relaxation_of(case: dict[str, Any]) -> Relaxation | None:
    """The relaxation of a case, if it has one."""
    if not case["lantern"]:
        return None
    return Relaxation(
        neighbours=stored()["neighbours"], count=case["k"], delta=case["delta"], is_original=True
    )


def _accept(number: int) -> Iterator[Compared]:
    case = NUMBERS["accept"][number]
    logits = stored()[f"tree{case['tree']}.node_logits"].clone()
    weights = SamplingRule(top_k=case["top_k"]).log_weights(logits)
    yield from _accepted(case, f"accept{number}", weights, None)


def _accept_with_draft_probability(number: int) -> Iterator[Compared]:
    case = NUMBERS["accept_with_draft_probability"][number]
    weights = stored()[f"tree{case['tree']}.node_logits"]
    drafted = stored()[f"tree{case['tree']}.draft_probs"]
    yield from _accepted(case, f"draftq{number}", weights, drafted)


def _accepted(
    case: dict[str, Any], name: str, weights: Tensor, drafted: Tensor | None
) -> Iterator[Compared]:
    shape, tokens = tree_of(case["tree"])
    given = stored()[f"{name}.uniforms"].double()
    uniforms = torch.full((1, shape.num_nodes), torch.nan, dtype=torch.float64)
    uniforms[0, : len(given)] = given
    nodes, residual, _ = accept_by_rejection(
        shape,
        tokens[None],
        weights[None],
        uniforms,
        relaxation=relaxation_of(case),
        draft_probabilities=None if drafted is None else drafted[None],
    )
    path = tuple(node for node in nodes[0].tolist() if node >= 0)
    # Of each node that is reached the siblings up to it, and all children of the last.
    looked_at = sum(shape.ranks[node] + 1 for node in path[1:]) + shape.parents.count(path[-1])
    yield Compared("accepted", len(path) - 1, case["accepted"])
    yield Compared("path", row_of(case["tree"], path), case["best_path"])
    yield Compared("uniforms", looked_at, len(given))
    yield Compared("residual", residual[0], stored()[f"{name}.residual"], 1e-6)


def _greedy(number: int) -> Iterator[Compared]:
    case = NUMBERS["greedy"][number]
    shape, tokens = tree_of(case["tree"])
    path = accept_greedily(
        shape,
        tokens,
        stored()[f"tree{case['tree']}.node_logits_greedy"],
        relaxation=relaxation_of(case),
    )
    yield Compared("accepted", len(path) - 1, case["accepted"])
    yield Compared("path", row_of(case["tree"], path), case["best_path"])


def _similarity_of(name: str, stride: int, weights: list[float]) -> float:
    codes = torch.nn.functional.normalize(stored()["codebook"].double(), dim=1)
    return float(path_similarity(_paths_of(name)[None, ::stride, 1:], codes, weights=weights))


def _paths_of(name: str) -> Tensor:
    if not name.startswith("ragged"):
        return stored()[f"tree{name}.candidates"]
    candidates = stored()["ragged.candidates"]
    return candidates if name == "ragged" else candidates[:1]


def _similarity(number: int) -> Iterator[Compared]:
    case = NUMBERS["similarity"][number]
    table = (
        stored()["ragged.candidates"]
        if str(case["tree"]).startswith("ragged")
        else _paths_of(str(case["tree"]))
    )
    depth = int((table[:: case["stride"], 1:] >= 0).sum(1).max())
    weights = {
        "exp_decay": decaying_weights(depth, case["decay"]),
        "linear_decay": [float(depth - level) for level in range(depth)],
        "uniform": [1.0] * depth,
    }[case["mode"]]
    found = _similarity_of(str(case["tree"]), case["stride"], weights)
    yield Compared("similarity", found, float(case["s_bar"]), 1e-6)


def _decide(number: int) -> Iterator[Compared]:
    case = NUMBERS["decide"][number]
    if case["policy"] == "uniform":
        found = skips_uniformly(case["cur_step"], case["skip_interval"], case["new_token"])
    else:
        found = skips_by_similarity(
            _similarity_of(str(case["tree"]), 2, decaying_weights(5)),
            case["sim_threshold"],
            has_just_skipped=case["last_step_skip"],
            num_tokens=case["new_token"],
        )
    yield Compared("skip", found, case["skip"])


def _skip_commit(number: int) -> Iterator[Compared]:
    case = NUMBERS["skip_commit"][number]
    lengths = (stored()[f"tree{case['tree']}.candidates"] >= 0).sum(1) - 1
    yield Compared("gamma", unverified_length(lengths, case["path"]), case["gamma"])


def _neighbours(number: int) -> Iterator[Compared]:
    found = nearest_code_words(stored()["codebook"], 127)
    yield Compared("neighbours", found, stored()["neighbours"])


def _guidance_and_filters(number: int) -> Iterator[Compared]:
    combined = SamplingRule(guidance_scale=7.5).combine(stored()["cfg.logits"])
    yield Compared("guidance", combined, stored()["cfg.out_scale7.5"], 1e-5)
    for name, rule in (
        ("topk0_topp0.9", SamplingRule(top_p=0.9)),
        ("topk10_topp1.0", SamplingRule(top_k=10)),
        ("topk20_topp0.8", SamplingRule(top_k=20, top_p=0.8)),
    ):
        kept = rule.log_weights(stored()["filter.logits"]) > -torch.inf
        yield Compared(name, kept, stored()[f"filter.keep_{name}"])


def _features(number: int) -> Iterator[Compared]:
    cache, count = stored()["features.cache"], _LAST_FEATURES[number]
    counts = torch.full((len(cache),), count)
    ring = FeatureRing(cache, torch.full_like(counts, cache.shape[1]), cache.shape[1])
    yield Compared("features", ring.last(counts, count), stored()[f"features.last{count}"])


# Fields of the fixture: what compares one case, and the number of cases.
FIELDS: dict[str, tuple[Callable[[int], Iterator[Compared]], int]] = {
    **{
        name: (compare, len(NUMBERS[name]))
        for name, compare in {
            "accept": _accept,
            "accept_with_draft_probability": _accept_with_draft_probability,
            "greedy": _greedy,
            "similarity": _similarity,
            "decide": _decide,
            "skip_commit": _skip_commit,
        }.items()
    },
    "neighbours": (_neighbours, 1),
    "guidance and filters": (_guidance_and_filters, 1),
    "features": (_features, len(_LAST_FEATURES)),
}
