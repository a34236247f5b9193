# SPDX-License-Identifier: Apache-2.0
import functools
import itertools
from collections import Counter

import pytest

from genaccel.sampling import costs
from genaccel.sampling.turns import costs_in_turn, round_order, seconds_in_turn, speedup


class Clock:
    """A clock of both kinds that only moves when it is told to; the processor works half of the time."""

    def __init__(self) -> None:
        self.now = 0.0

    def perf_counter(self) -> float:
        return self.now

    def process_time(self) -> float:
        return self.now / 2


@pytest.mark.parametrize("count", [1, 2, 3, 5])
def test_every_side_takes_every_place_equally_often(count: int) -> None:
    names = [str(i) for i in range(count)]
    rounds = [round_order(names, index) for index in range(2 * count)]
    assert all(sorted(order) == names for order in rounds)
    for place in range(count):
        assert set(Counter(order[place] for order in rounds).values()) == {2}
    for a, b in itertools.combinations(names, 2):
        assert sum(order.index(a) < order.index(b) for order in rounds) == count


def test_sides_take_turns_and_medians_are_of_the_rounds(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    monkeypatch.setattr(costs, "time", clock)
    called: list[str] = []
    durations = {"a": iter([9, 1, 8, 3]), "b": iter([9, 4, 2, 6])}

    def side(name: str) -> None:
        called.append(name)
        clock.now += next(durations[name])

    sides = {name: functools.partial(side, name) for name in "ab"}
    assert seconds_in_turn(sides, 3) == {"a": 3, "b": 4}
    assert "".join(called) == "ab" + "ab" + "ba" + "ba"  # the first ones are not timed
    durations.update(a=iter([2, 6]), b=iter([1, 1]))
    found = costs_in_turn(sides, rounds=2)
    assert [(cost.wall, cost.cpu) for cost in found["a"]] == [(2, 1), (6, 3)]
    assert [cost.seconds for cost in found["b"]] == [0.5, 0.5]


def test_a_speedup_is_the_median_over_the_rounds() -> None:
    assert speedup([2.0, 9.0, 4.0], [1.0, 1.0, 4.0]) == 2.0
    assert speedup([None, 9.0], [1.0, 3.0]) == 3.0
    assert speedup([None], [None]) is None
