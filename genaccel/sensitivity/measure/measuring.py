# SPDX-License-Identifier: Apache-2.0
"""Adds up what several whole runs measured."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from torch import Tensor

from genaccel.sensitivity.planning.planner import Measurements

if TYPE_CHECKING:
    from genaccel.sensitivity.enable import SensitivityHandle


# Fields of ``Measurements`` that sums are kept of.
PARTS = ("moments", "feed_forwards", "outputs")


class MeasuredRuns:
    """Sums over runs of one model.

    Attributes:
        total: Of all runs so far; None before the first.
        count: Runs that were added.
        problem: Why a run could not be added; None while all could.
    """

    def __init__(self) -> None:
        self.problem: str | None = None
        self.count = 0
        self.total: Measurements | None = None
        self._kept: Mapping[str, Mapping[str, Tensor]] = {}

    def resume(self, sums: Mapping[str, Mapping[str, Tensor]]) -> None:
        """Go on from sums that :meth:`state` gave: the next run is added to them."""
        self._kept = sums

    def take(self, measured: Measurements) -> None:
        """Add a run, or say in ``problem`` why that can't be."""
        self.count += 1
        try:
            if self.total is None:
                total = measured
                for name, sums in self._kept.items():
                    part = _part(total, name)
                    if part is not None:
                        part.add(sums)
                self._kept = {}
                self.total = total
                return
            for name in PARTS:
                mine, theirs = _part(self.total, name), _part(measured, name)
                if mine is not None and theirs is not None:
                    if mine.num_steps != theirs.num_steps:
                        raise ValueError(
                            "all generations must have the same number of steps, "
                            f"got {mine.num_steps} and {theirs.num_steps}"
                        )
                    mine.merge(theirs)
        except ValueError as error:
            self.problem = str(error)

    def state(self) -> dict[str, dict[str, Tensor]]:
        """Copies of all sums, by what they are of."""
        if self.total is None:
            return {}
        parts = {name: _part(self.total, name) for name in PARTS}
        return {name: part.state_dict() for name, part in parts.items() if part is not None}

    def replace(self, sums: Mapping[str, Mapping[str, Tensor]]) -> None:
        """Put other sums in place of those of all runs so far."""
        assert self.total is not None
        for name, state in sums.items():
            part = _part(self.total, name)
            if part is not None:
                part.load_state_dict(state)


def _part(measured: Measurements, name: str) -> Any:
    return getattr(measured, name)


@contextlib.contextmanager
def measuring(handle: SensitivityHandle) -> Iterator[dict[str, MeasuredRuns]]:
    """Compute and measure every run within the ``with``, and make no plan of it.

    Returns:
        The sums of each model, by name.
    """
    runs = {name: MeasuredRuns() for name in handle.models}
    for name, model in handle.models.items():
        model.director.sink = runs[name].take
    try:
        yield runs
    finally:
        for model in handle.models.values():
            model.director.sink = None
