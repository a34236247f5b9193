# SPDX-License-Identifier: Apache-2.0
"""What ``bench/vvs.py`` measures on photographs and digits: counts, likelihood, time and distances, JSON-ready."""

from __future__ import annotations

import importlib
import importlib.util
import statistics
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from bench._decoding.ablations import MODES as ABLATED
from bench._decoding.generator import (
    AUTO,
    EXACT,
    LANTERN,
    PLAIN,
    VVS,
    Generator,
    Mode,
    automatic_drafting,
)
from bench._decoding.likelihood import Likelihood, gap, likelihood
from bench._decoding.quality import digit_classifier, features_of, load_mobilenet_v2, middle
from bench._decoding.sample_sets import SampleSets
from genaccel.eval._sets.kernel import polynomial_mmd
from genaccel.sampling.costs import Cost, median_cost
from genaccel.sampling.turns import costs_in_turn, speedup
from genaccel.skip_decoding.report import DecodingReport

# Pictures of a batch.
COLUMNS = 16
# Of seeds that decide nothing but a threshold.
_OTHER_SEED = 5000
_BISECTIONS = 7
# Chunks of 50 of a set that distances are taken of.
SET = range(20)
SECOND_SET = range(20, 40)
DIGIT_CHUNKS = range(20)


def count_of(generator: Generator, mode: Mode, *, batches: int, columns: int) -> dict[str, Any]:
    """Forwards and likelihood of pictures that are decoded with a mode, batch by batch.

    Args:
        generator: What draws and judges.
        mode: How.
        batches: Their number.
        columns: Pictures of each.
    """
    forwards, cpu, tokens = [], [], []
    total = DecodingReport()
    judged = Likelihood([], [])
    for batch in range(batches):
        labels = generator.labels(batch * columns, columns)
        drawn = generator.draw(mode, labels, batch)
        report = drawn.report
        forwards.append(report.target_forwards)
        cpu.append(report.total_seconds)
        for name in ("rounds", "accepted_tokens", "unverified_tokens", "generated_tokens"):
            setattr(total, name, getattr(total, name) + getattr(report, name))
        judged += likelihood(generator, drawn.tokens, labels)
        tokens += drawn.tokens.tolist()
    return {
        "forwards": statistics.fmean(forwards),
        "tokens_per_forward": generator.num_tokens / statistics.fmean(forwards),
        "mean_acceptance_length": total.mean_acceptance_length,
        "unverified_fraction": total.unverified_fraction,
        "negative": judged.negative,
        "excess": judged.excess,
        "tokens": tokens,
    }


def count_rows(counts: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    """The table of what :func:`count_of` found by mode, plain decoding among them."""
    plain = counts[PLAIN.name]
    rows = []
    for name, found in counts.items():
        nats = gap(found["negative"], plain["negative"])
        excess = gap(found["excess"], [0.0] * len(found["excess"]))
        rows.append(
            {
                "mode": name,
                "pictures": len(found["negative"]),
                "forwards_a_picture": found["forwards"],
                "tokens_per_forward": found["tokens_per_forward"],
                "tokens_a_round": found["mean_acceptance_length"],
                "unverified": found["unverified_fraction"],
                "as_plain": sum(
                    a == b for a, b in zip(found["tokens"], plain["tokens"], strict=True)
                ),
                "gap_nats": nats.mean,
                "gap_error": nats.standard_error,
                "over_entropy": excess.mean,
                "over_entropy_error": excess.standard_error,
            }
        )
    return rows


def equal_share_threshold(generator: Generator, uniform: Mode, dynamic: Mode) -> dict[str, float]:
    """The similarity from which the dynamic rule leaves as many tokens unverified as the uniform one, on other seeds."""
    labels = generator.labels(0, COLUMNS)

    def share(mode: Mode) -> float:
        return generator.draw(mode, labels, _OTHER_SEED).report.unverified_fraction

    wanted = share(uniform)
    low, high = -0.2, 1.0
    best, nearest = low, float("inf")
    for _ in range(_BISECTIONS):
        middle_ = (low + high) / 2
        found = share(dynamic.with_skip(dynamic.name, threshold=middle_))
        if abs(found - wanted) < nearest:
            best, nearest = middle_, abs(found - wanted)
        low, high = (middle_, high) if found > wanted else (low, middle_)
    return {"threshold": best, "uniform_share": wanted, "difference": nearest}


def identical_pictures(sets: SampleSets) -> dict[str, int]:
    """How many of the first 100 pictures of exact decoding are those of plain decoding."""
    chunks = range(100 // sets.chunk)
    plain, exact = sets.tokens(PLAIN, chunks), sets.tokens(EXACT, chunks)
    return {"pictures": len(plain), "same": int((plain == exact).all(1).sum())}


def timed_modes() -> list[Mode]:
    """Sides of the comparison of CPU time."""
    return [PLAIN, EXACT, LANTERN, VVS, *([AUTO] if automatic_drafting() is not None else [])]


def times(generator: Generator, *, columns: int, rounds: int) -> list[dict[str, Any]]:
    """CPU time of each mode in turn with the others, after a call of each that is not timed.

    Args:
        generator: What draws.
        columns: Pictures of a batch.
        rounds: Calls of each.
    """
    reports: dict[str, list[DecodingReport]] = {}

    def draw(mode: Mode) -> None:
        drawn = generator.draw(mode, generator.labels(0, columns), 7 + len(reports[mode.name]))
        reports[mode.name].append(drawn.report)

    modes = {mode.name: mode for mode in timed_modes()}
    for mode in modes.values():
        # What it measures of this machine and keeps is of its first calls.
        for _ in range(2 if mode is AUTO else 1):
            generator.draw(mode, generator.labels(0, columns), 6)
        reports[mode.name] = []
    costs = costs_in_turn(
        {name: partial(draw, mode) for name, mode in modes.items()}, rounds=rounds
    )
    plain = _seconds(costs[PLAIN.name])
    return [
        {
            "mode": name,
            "columns": columns,
            "cpu_seconds": median_cost(costs[name]).seconds,
            "speedup": speedup(plain, _seconds(costs[name])),
            "wall_speedup": speedup(
                [cost.wall for cost in costs[PLAIN.name]], [cost.wall for cost in costs[name]]
            ),
            "drafter": statistics.median(map(_drafting, reports[name])),
            "overhead": statistics.median(map(_overhead, reports[name])),
            "note": str(getattr(reports[name][-1], "choice", None) or ""),
        }
        for name in modes
    ]


def _seconds(costs: Sequence[Cost]) -> list[float]:
    return [cost.seconds for cost in costs]


def _overhead(report: Any) -> float:
    """Share of the time in neither model's forwards; of CPU time where the report knows it."""
    if getattr(report, "total_cpu_seconds", 0.0) > 0:
        return report.overhead_cpu_seconds / report.total_cpu_seconds
    return report.overhead_seconds / report.total_seconds


def _drafting(report: Any) -> float:
    if getattr(report, "total_cpu_seconds", 0.0) > 0:
        return report.draft_cpu_seconds / report.total_cpu_seconds
    return report.draft_seconds / report.total_seconds


def replayed() -> dict[str, Any]:
    """A large model of random weights with this one's acceptance; empty where that is not measured."""
    if importlib.util.find_spec("bench._decoding.replay") is None:
        return {}
    module: Any = importlib.import_module("bench._decoding.replay")
    return asdict(module.replay(module.recorded_acceptance()))


def ablated(generator: Generator, *, batches: int) -> dict[str, dict[str, float]]:
    """Speed and likelihood of the modes of the ablations, of ``batches * COLUMNS`` pictures.

    Those whose paths differ in length are decoded one by one, and half as many: a batch commits the shortest path's number.
    """
    found = {}
    for name, mode in ABLATED.items():
        columns = 1 if mode.parents else COLUMNS
        number = batches * COLUMNS // 2 if mode.parents else batches
        one = count_of(generator, mode, batches=number, columns=columns)
        excess = gap(one["excess"], [0.0] * len(one["excess"]))
        found[name] = {
            "tokens_per_forward": one["tokens_per_forward"],
            "unverified": one["unverified_fraction"],
            "excess": excess.mean,
            "excess_error": excess.standard_error,
        }
    return found


def set_likelihood(sets: SampleSets, mode: Mode, chunks: range) -> dict[str, list[float]]:
    """Of the pictures of a set."""
    tokens = sets.tokens(mode, chunks)
    judged = likelihood(sets.generator, tokens, sets.labels(len(tokens)))
    return {"negative": judged.negative, "excess": judged.excess}


def kernel_distances(sets: SampleSets, modes: Sequence[Mode]) -> dict[str, float]:
    """KID's distance of features of MobileNetV2 of each mode's set from plain decoding's, and ``floor``, that of two plain sets.

    The estimate is unbiased, so that of two plain sets it is a draw around 0, of either sign: the floor is how large it is in
    the root mean square over splits of all plain pictures into two sets. ``plain_to_plain`` is that of the first and the second.
    """
    extractor = load_mobilenet_v2()

    def features(mode: Mode, chunks: range) -> NDArray[np.float64]:
        tokens = sets.tokens(mode, chunks)
        return features_of(extractor, sets.pictures(tokens)).astype(np.float64)

    first, second = features(PLAIN, SET), features(PLAIN, SECOND_SET)
    found = {
        "plain_to_plain": polynomial_mmd(first, second),
        "floor": floor_of_splits(np.concatenate((first, second))),
    }
    for mode in modes:
        found[mode.name] = polynomial_mmd(first, features(mode, SET))
    return found


def floor_of_splits(features: NDArray[np.float64], *, splits: int = 20) -> float:
    """Root mean square of the distance of two random halves of ``[N, D]``."""
    random, half = np.random.default_rng(0), len(features) // 2
    orders = [random.permutation(len(features)) for _ in range(splits)]
    values = [polynomial_mmd(features[o[:half]], features[o[half : 2 * half]]) for o in orders]
    return float(np.sqrt(np.mean(np.square(values))))


def digit_accuracies(
    sets: SampleSets, modes: Sequence[Mode], *, data: Path, work: Path
) -> dict[str, Any]:
    """Share of drawn digits that a classifier takes for what they should be, by mode, and its own on MNIST's test set."""
    classifier, own = digit_classifier(data, work / "digit-classifier.safetensors")
    found: dict[str, Any] = {"classifier": own}
    for mode in modes:
        tokens = sets.tokens(mode, DIGIT_CHUNKS)
        grey = torch.cat([middle(pictures) for pictures in sets.pictures(tokens)])
        labels = torch.tensor(sets.labels(len(tokens)))
        found[mode.name] = classifier.share_right(grey, labels)
        found["pictures"] = len(tokens)
    return found


def accuracy_drop(plain: float, other: float, count: int) -> float:
    """How many standard errors of their difference an accuracy lies below plain decoding's; negative if above.

    Args:
        plain: Share that is right.
        other: The same of another mode.
        count: Pictures of each.
    """
    variance = (plain * (1 - plain) + other * (1 - other)) / count
    return (plain - other) / max(variance, 1e-12) ** 0.5
