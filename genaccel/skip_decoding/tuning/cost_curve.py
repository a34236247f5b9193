# SPDX-License-Identifier: Apache-2.0
"""What a round of decoding costs here, by the rows that the target model reads in it.

The same rows cost a small model on a CPU much more than a large one on a GPU, and a processor with matrix units less than one
without, so this is measured: in rounds of the decoding itself, so that masks, draws and the cache are in it.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from genaccel.files.untrusted import shown
from genaccel.skip_decoding.decoding import decode
from genaccel.skip_decoding.drafts.draft_tree import TreeShape
from genaccel.skip_decoding.drafts.drafting import AdjustableDrafter, Draft, Drafter, Noise, Round
from genaccel.skip_decoding.options import DecodingOptions
from genaccel.skip_decoding.sampling import SamplingRule
from genaccel.skip_decoding.tuning.measurements import content_digest, keep, machine, recall

ROWS = (1, 2, 4, 8, 16, 32)
# Of the measured sequences before the first round.
_CONTEXT = 32
_PASSES = 6
# Numbers of rows that are tried however long they take, and tried twice.
_FEWEST = 4
_DRAFT_ROUNDS = 4


def clock_of(device: torch.device) -> Callable[[], float]:
    """Seconds that rounds take there: where one thread computes its own time, which other processes hardly change."""
    if device.type == "cpu" and torch.get_num_threads() == 1:
        return time.thread_time
    # A round waits for the device by itself, to know which guesses were drawn.
    return time.perf_counter


@dataclass(frozen=True, kw_only=True, slots=True)
class CostCurve:
    """Seconds by rows.

    Attributes:
        rows: Rising, from 1.
        seconds: For each, above 0.

    Raises:
        ValueError: If they are none of these.
    """

    rows: tuple[int, ...]
    seconds: tuple[float, ...]

    def __post_init__(self) -> None:
        rows, seconds = self.rows, self.seconds
        if not all(type(row) is int for row in rows) or sorted({1, *rows}) != list(rows):
            raise ValueError(f"rows must rise from 1, got {shown(rows)}")
        if len(seconds) != len(rows) or not all(
            type(value) in (int, float) and 0 < value < math.inf for value in seconds
        ):
            raise ValueError(f"seconds must be a number above 0 for each row, got {shown(seconds)}")

    def at(self, rows: int) -> float:
        """Seconds of so many rows, between what was measured and beyond it along straight lines.

        Example:
            >>> CostCurve(rows=(1, 2, 4), seconds=(1.0, 1.5, 2.0)).at(3)
            1.75
        """
        if len(self.rows) == 1:
            return self.seconds[0] * rows
        after = next((n for n, known in enumerate(self.rows) if known >= rows), len(self.rows) - 1)
        low, high = max(after - 1, 0), max(after, 1)
        slope = (self.seconds[high] - self.seconds[low]) / (self.rows[high] - self.rows[low])
        # What falls between two measurements is their noise; more rows never cost less than fewer of the largest.
        return max(self.seconds[low] + max(slope, 0.0) * (rows - self.rows[low]), self.seconds[0])


@dataclass(frozen=True, kw_only=True, slots=True)
class RoundCosts:
    """What rounds cost.

    Attributes:
        verify: A round without its drafter, by rows of a sequence.
        draft_first: Seconds of a drafter's first guess.
        draft_step: Of each further one behind it.
    """

    verify: CostCurve
    draft_first: float = 0.0
    draft_step: float = 0.0

    def __post_init__(self) -> None:
        for value in (self.draft_first, self.draft_step):
            if type(value) not in (int, float) or not 0 <= value < math.inf:
                raise ValueError(f"the drafter's seconds must be at least 0, got {shown(value)}")

    def drafting(self, widths: tuple[int, ...]) -> float:
        """Seconds of a round that guesses a tree of these widths.

        A drafter's step with several rows is taken to cost what the target's costs, in proportion.
        """
        nodes = [math.prod(widths[:depth]) for depth in range(1, len(widths) + 1)]
        one = self.verify.at(1)
        steps = sum(self.verify.at(count) / one for count in nodes[:-1])
        return self.verify.at(1 + sum(nodes)) + self.draft_first + self.draft_step * steps

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready form."""
        return {
            "rows": list(self.verify.rows),
            "seconds": list(self.verify.seconds),
            "draft_first": self.draft_first,
            "draft_step": self.draft_step,
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> RoundCosts:
        """Of :meth:`to_dict`.

        Raises:
            ValueError: If a value is missing or cannot be.
        """
        try:
            verify = CostCurve(rows=tuple(values["rows"]), seconds=tuple(values["seconds"]))
            return cls(
                verify=verify, draft_first=values["draft_first"], draft_step=values["draft_step"]
            )
        except (LookupError, TypeError) as error:
            raise ValueError(f"the costs are not complete: {error}") from error


def round_costs(
    model: Any,
    drafter: Drafter | None = None,
    *,
    sequences: int,
    rule: SamplingRule,
    options: DecodingOptions = DecodingOptions(),  # noqa: B008 - frozen
    seconds: float = 1.0,
) -> RoundCosts:
    """What rounds cost: from the user's cache, or measured and put there.

    Args:
        model: The target.
        drafter: Whose steps are measured, too, if it takes widths.
        sequences: That are decoded together.
        rule: By which they are drawn.
        options: Of them.
        seconds: That a measurement takes about, once all numbers of rows that fit into them were tried.

    Raises:
        Exception: What the decoding of random tokens raises.
    """
    device = next(model.parameters()).device
    options = replace(options, end_tokens=(), skip=None)
    key = {
        "target": content_digest(model),
        "drafter": None if drafter is None else drafter_key(drafter),
        "machine": machine(device),
        "sequences": sequences,
        "is_guided": rule.is_guided,
        "is_filtered": [rule.temperature == 0, rule.top_k > 0, rule.top_p < 1],
        "guessing": options.guessing,
        "is_relaxed": options.relaxation is not None,
    }
    try:
        return RoundCosts.from_dict(recall("costs", key) or {})
    except ValueError:
        pass
    costs = measure_round_costs(
        model, drafter, sequences=sequences, rule=rule, options=options, seconds=seconds
    )
    keep("costs", key, costs.to_dict())
    return costs


def drafter_key(drafter: Drafter) -> str:
    """What tells a drafter from others: its kind, and the contents of its network if it has one."""
    network = drafter.network if isinstance(drafter, AdjustableDrafter) else None
    digest = "" if network is None else f" {content_digest(network)}"
    return f"{type(drafter).__name__}{digest}"


def measure_round_costs(
    model: Any,
    drafter: Drafter | None = None,
    *,
    sequences: int,
    rule: SamplingRule,
    options: DecodingOptions = DecodingOptions(),  # noqa: B008 - frozen
    seconds: float = 1.0,
) -> RoundCosts:
    """Measure anew; see :func:`round_costs`. The least of rounds in turn is taken, for machines are shared."""
    device = next(model.parameters()).device
    clock = clock_of(device)
    vocabulary = int(model.config.vocab_size)
    if rule.allowed is not None:
        vocabulary = min(vocabulary, rule.allowed[1])
    positions = int(getattr(model.config, "max_position_embeddings", 0) or 4 * _CONTEXT)
    context = max(1, min(_CONTEXT, positions // 4))
    generator = torch.Generator().manual_seed(0)
    prompts = torch.randint(vocabulary, (sequences, context), generator=generator).to(device)

    # Guesses that come from no distribution cannot be judged by one.
    judged = replace(options, guessing="coupled", ensemble_weight=None)

    def run(probe: _RowsProbe | _DraftProbe, rounds: int) -> None:
        decode(
            model,
            prompts,
            rule=rule,
            max_new_tokens=rounds * (ROWS[-1] + 1) + 2,
            drafter=probe,
            options=judged if isinstance(probe, _RowsProbe) else options,
            negative_prompts=prompts if rule.is_guided else None,
            on_tokens=probe.after_round,
        )

    verify = _RowsProbe(vocabulary, clock, seconds)
    _until_done(run, verify, _PASSES * len(ROWS))
    curve = CostCurve(rows=tuple(verify.least), seconds=tuple(verify.least.values()))
    if not isinstance(drafter, AdjustableDrafter):
        return RoundCosts(verify=curve)
    first, third = (
        _until_done(run, _DraftProbe(drafter.with_widths((1,) * depth), clock), _DRAFT_ROUNDS)
        for depth in (1, 3)
    )
    return RoundCosts(
        verify=curve,
        draft_first=min(first.seconds),
        draft_step=max(min(third.seconds) - min(first.seconds), 0.0) / 2,
    )


class _Done(Exception):
    """Enough was measured."""


def _until_done(run: Callable[[Any, int], None], probe: Any, rounds: int) -> Any:
    with contextlib.suppress(_Done):
        run(probe, rounds)
    return probe


class _RowsProbe:
    """A drafter that guesses chains of each length in turn; ``least`` has the seconds of the quickest round by its rows."""

    needs_features = False

    def __init__(self, vocabulary: int, clock: Callable[[], float], seconds: float) -> None:
        self._vocabulary, self._clock = vocabulary, clock
        self._seconds, self._spent = seconds, 0.0
        self._rows = list(ROWS)
        self._passes = self._turn = 0
        self.least: dict[int, float] = {}

    def begin(
        self, prompts: Tensor, is_token: Tensor, noise: Noise, features: Tensor | None
    ) -> None:
        pass

    def guess(self, history: Tensor, lengths: Tensor, depth: int) -> Draft:
        count = self._rows[self._turn]
        tokens = torch.arange(count, device=history.device).expand(len(history), -1)
        tokens = (tokens + history[:, :1] + count) % self._vocabulary
        self._begin = self._clock()
        return Draft(TreeShape.chain(count - 1), tokens)

    def learn(self, round_: Round) -> None:
        pass

    def select(self, sequences: Tensor, rows: Tensor) -> None:
        pass

    def after_round(self, done: int, total: int) -> None:
        taken = self._clock() - self._begin
        rows = self._rows[self._turn]
        self.least[rows] = min(taken, self.least.get(rows, math.inf))
        self._turn += 1
        self._spent += taken
        is_late = self._spent > self._seconds
        if is_late and self._passes == 0:
            self._rows = self._rows[: max(self._turn, _FEWEST)]
        if self._turn == len(self._rows):
            self._passes, self._turn = self._passes + 1, 0
            # Once is not enough: the first round of a kind also prepares the following ones.
            if self._passes == _PASSES or (is_late and self._passes > 1):
                raise _Done
            if is_late:
                self._rows = self._rows[:_FEWEST]


class _DraftProbe:
    """A drafter that times another one."""

    def __init__(self, drafter: Drafter, clock: Callable[[], float]) -> None:
        self._drafter, self._clock = drafter, clock
        self.needs_features = drafter.needs_features
        self.seconds: list[float] = []

    def begin(
        self, prompts: Tensor, is_token: Tensor, noise: Noise, features: Tensor | None
    ) -> None:
        self._drafter.begin(prompts, is_token, noise, features)

    def guess(self, history: Tensor, lengths: Tensor, depth: int) -> Draft | None:
        begin = self._clock()
        draft = self._drafter.guess(history, lengths, depth)
        self._taken = self._clock() - begin
        return draft

    def learn(self, round_: Round) -> None:
        begin = self._clock()
        self._drafter.learn(round_)
        self.seconds.append(self._taken + self._clock() - begin)

    def select(self, sequences: Tensor, rows: Tensor) -> None:
        self._drafter.select(sequences, rows)

    def after_round(self, done: int, total: int) -> None:
        if len(self.seconds) >= _DRAFT_ROUNDS:
            raise _Done
