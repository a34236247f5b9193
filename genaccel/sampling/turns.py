# SPDX-License-Identifier: Apache-2.0
"""Sides that take turns, so that whatever slows the machine down slows all of them."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence

import torch

from genaccel.sampling.costs import Cost, cost_of_call, median_cost


def round_order(names: Sequence[str], index: int) -> list[str]:
    """Order of the sides in a round: each takes each place, before and after each other side, equally often."""
    start = index // 2 % len(names)
    order = [*names[start:], *names[:start]]
    return order[::-1] if index % 2 else order


def costs_in_turn(
    sides: Mapping[str, Callable[[], object]],
    *,
    rounds: int,
    device: torch.device | str = "cpu",
) -> dict[str, list[Cost]]:
    """Cost of each side in each round; the order changes from round to round.

    Args:
        sides: Functions by name. None is warmed up here.
        rounds: Calls of each.
        device: Device whose clock is taken.
    """
    place = torch.device(device)
    costs: dict[str, list[Cost]] = {name: [] for name in sides}
    for index in range(rounds):
        for name in round_order(list(sides), index):
            costs[name].append(cost_of_call(sides[name], place))
    return costs


def seconds_in_turn(
    sides: Mapping[str, Callable[[], object]],
    rounds: int,
    *,
    device: torch.device | str = "cpu",
) -> dict[str, float]:
    """Median seconds of each side on the clock, after one call of each that is not timed."""
    for run in sides.values():
        run()
    costs = costs_in_turn(sides, rounds=rounds, device=device)
    return {name: median_cost(values).wall for name, values in costs.items()}


def speedup(plain: Sequence[float | None], own: Sequence[float | None]) -> float | None:
    """Median over the rounds of one side's seconds over another's; None where none were measured.

    Both times of a quotient are of one round: what slowed it down slowed both.
    """
    ratios = [p / o for p, o in zip(plain, own, strict=True) if p is not None and o]
    return statistics.median(ratios) if ratios else None
