# SPDX-License-Identifier: Apache-2.0
"""Which guesses pay: none, a chain, or a tree.

Before a decoding the widths are chosen that promise the most tokens for their cost: how often guesses of this drafter are
right is known from former decodings, what a round costs is measured. While it runs, rounds are timed against rounds without
guesses, and where guessing falls behind it is given up for the rest of the call.

Nothing here decides which tokens are drawn, so nothing here may fail a decoding: whatever goes wrong, the drafter is used as it
is, or not at all.
"""

from __future__ import annotations

import itertools
import logging
import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from genaccel.skip_decoding.drafts.draft_tree import TreeShape
from genaccel.skip_decoding.drafts.drafting import (
    AdjustableDrafter,
    Draft,
    Drafter,
    Noise,
    Round,
    TimedDrafter,
)
from genaccel.skip_decoding.options import DecodingOptions
from genaccel.skip_decoding.report import DecodingReport, DraftingChoice, ModelTime
from genaccel.skip_decoding.sampling import SamplingRule
from genaccel.skip_decoding.tuning.cost_curve import RoundCosts, clock_of, drafter_key, round_costs
from genaccel.skip_decoding.tuning.measurements import content_digest, keep, recall

_logger = logging.getLogger(__name__)

MAX_DEPTH, MAX_WIDTH, MAX_NODES = 8, 4, 48
# Guesses that a prior counts as, and how many are remembered: an old drafter's habits fade.
_PRIOR_TRIALS, _MOST_TRIALS = 24.0, 8192.0
# Of the guesses that are known, how many new ones are worth a file.
_NEWS = 0.05
# Before anything is known: the likeliest guess is right that often, the next rank and depth that much less.
_PRIOR_RATE, _NEXT_RANK, _NEXT_DEPTH = 0.6, 0.3, 0.97
# Less than this is not worth its variance.
_LEAST_GAIN = 1.05
# Of a plain decoding's cost, what guesses may lose.
_MOST_LOSS = 0.02
# So many times that may be lost of what was won before.
_MOST_CREDIT = 3
_REFERENCE_ROUNDS = 2
_RECENT_ROUNDS = 6
# Tokens that a sequence has still to come for its rounds to be measured again.
_LONG_REST = 32


class AcceptanceStatistics:
    """How often the guess of each depth and rank was what was drawn, given that its parent was.

    Args:
        hits: ``hits[depth - 1][rank]``.
        trials: Of as many guesses.

    Raises:
        ValueError: If these are no counts.
    """

    def __init__(
        self, hits: list[list[float]] | None = None, trials: list[list[float]] | None = None
    ) -> None:
        self.hits, self.trials = hits or [], trials or []
        if [len(ranks) for ranks in self.hits] != [len(ranks) for ranks in self.trials]:
            raise ValueError("there must be a trial for each hit")
        if len(self.hits) > 4 * MAX_DEPTH or any(len(ranks) > 1024 for ranks in self.hits):
            raise ValueError("there are more depths or ranks than any tree has")
        for hit, trial in zip(
            itertools.chain(*self.hits), itertools.chain(*self.trials), strict=True
        ):
            if not 0 <= hit <= trial < math.inf:
                raise ValueError(f"hits must be from 0 to their trials, got {hit} of {trial}")

    def add(self, shape: TreeShape, paths: list[list[int]]) -> None:
        """Count a verified round: of each sequence the nodes that were reached, -1 behind the last."""
        children: dict[int, int] = {}
        for parent in shape.parents:
            children[parent] = children.get(parent, 0) + 1
        for path in paths:
            for depth, node in enumerate(path):
                width = children.get(node, 0) if node >= 0 else 0
                if not width:
                    break
                self._make_room(depth, width)
                for rank in range(width):
                    self.trials[depth][rank] += 1
                following = path[depth + 1] if depth + 1 < len(path) else -1
                if following >= 0:
                    self.hits[depth][shape.ranks[following]] += 1

    def merge(self, other: AcceptanceStatistics) -> None:
        """Add what another has counted; beyond some thousand trials the older fade."""
        for depth, ranks in enumerate(other.trials):
            self._make_room(depth, len(ranks))
            for rank, trials in enumerate(ranks):
                total = self.trials[depth][rank] + trials
                fade = min(1.0, _MOST_TRIALS / total) if total else 1.0
                self.trials[depth][rank] = total * fade
                self.hits[depth][rank] = (self.hits[depth][rank] + other.hits[depth][rank]) * fade

    def _make_room(self, depth: int, width: int) -> None:
        for counts in (self.hits, self.trials):
            while len(counts) <= depth:
                counts.append([])
            counts[depth] += [0.0] * (width - len(counts[depth]))

    @property
    def num_trials(self) -> float:
        """Guesses that were counted."""
        return sum(itertools.chain(*self.trials))

    def rates(self) -> list[list[float]]:
        """How probable it is that the guess of each depth and rank is drawn once its parent was, ``[depth][rank]``.

        What has rarely been seen is taken to be a little less than at the depth or rank before it.
        """
        rates: list[list[float]] = []
        for depth in range(MAX_DEPTH):
            rates.append([])
            for rank in range(MAX_WIDTH):
                if rank:
                    # No more than what the ranks before it leave.
                    left = max(1 - sum(rates[depth]), 0.0)
                    prior = min(_NEXT_RANK * rates[depth][-1], left)
                else:
                    prior = _NEXT_DEPTH * rates[depth - 1][0] if depth else _PRIOR_RATE
                is_seen = depth < len(self.trials) and rank < len(self.trials[depth])
                hits = self.hits[depth][rank] if is_seen else 0.0
                trials = self.trials[depth][rank] if is_seen else 0.0
                rates[depth].append((hits + _PRIOR_TRIALS * prior) / (trials + _PRIOR_TRIALS))
        return rates

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready form."""
        return {"hits": self.hits, "trials": self.trials}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> AcceptanceStatistics:
        """Of :meth:`to_dict`.

        Raises:
            ValueError: If a value is missing or cannot be.
        """
        try:
            return cls(
                *([[float(n) for n in ranks] for ranks in values[k]] for k in ("hits", "trials"))
            )
        except (LookupError, TypeError) as error:
            raise ValueError(f"the statistics are not complete: {error}") from error


def expected_tokens(rates: list[list[float]], widths: tuple[int, ...]) -> float:
    """Tokens of a round with a tree of these widths.

    Guesses below one of a lower rank are taken to be as good as those below the first.

    Example:
        >>> expected_tokens([[0.5, 0.25], [0.5, 0.25]], (2, 1))
        2.125
    """
    total = reached = 1.0
    for depth, width in enumerate(widths):
        reached *= min(1.0, sum(rates[depth][:width]))
        total += reached
    return total


def candidate_widths(*, trees: bool) -> list[tuple[int, ...]]:
    """Chains, and trees that do not widen downwards, the smaller first."""
    found = []
    for depth in range(1, MAX_DEPTH + 1):
        for widths in itertools.combinations_with_replacement(range(MAX_WIDTH, 0, -1), depth):
            nodes = sum(math.prod(widths[:level]) for level in range(1, depth + 1))
            if nodes <= MAX_NODES and (trees or widths[0] == 1):
                found.append((nodes, widths))
    return [widths for _, widths in sorted(found)]


def best_widths(
    costs: RoundCosts,
    statistics: AcceptanceStatistics,
    *,
    trees: bool,
    chains: bool = True,
    max_depth: int = MAX_DEPTH,
) -> tuple[tuple[int, ...] | None, float]:
    """The widths that promise the most tokens for their cost, and how many times those of decoding without guesses.

    Returns:
        None and the best promise, if no widths promise 5 % more than no guesses.
    """
    plain, rates = costs.verify.at(1), statistics.rates()
    promises = {
        widths: expected_tokens(rates, widths) * plain / costs.drafting(widths)
        for widths in candidate_widths(trees=trees)
        if len(widths) <= max_depth and (chains or widths[0] > 1)
    }
    if not promises:
        return None, 1.0
    best = max(promises, key=lambda widths: promises[widths])
    return (best if promises[best] >= _LEAST_GAIN else None), promises[best]


class AutoDrafting:
    """The choice for a decoding.

    Args:
        model: The target.
        drafter: Whose widths are chosen, if it takes any; without one there are no guesses.
        sequences: That are decoded together.
        rule: By which tokens are drawn.
        options: Of the decoding.
        max_new_tokens: Of a sequence.

    Attributes:
        drafter: To decode with; None for no guesses.
        choice: Widths and why.

    Example:
        >>> drafting = AutoDrafting(  # doctest: +SKIP
        ...     model, drafter, sequences=4, rule=rule, options=options, max_new_tokens=256
        ... )
        >>> decoded = decode(  # doctest: +SKIP
        ...     model, prompts, rule=rule, options=options, max_new_tokens=256, drafter=drafting.drafter
        ... )
        >>> drafting.finish(decoded.report)  # doctest: +SKIP
    """

    def __init__(
        self,
        model: Any,
        drafter: Drafter | None,
        *,
        sequences: int,
        rule: SamplingRule,
        options: DecodingOptions = DecodingOptions(),  # noqa: B008 - frozen
        max_new_tokens: int,
    ) -> None:
        self.drafter: GuardedDrafter | None = None
        self._key: dict[str, Any] | None = None
        if drafter is None or sequences < 1:
            self.choice = DraftingChoice(
                widths=None, expected_speedup=1.0, reason="there is no drafter"
            )
            return
        clock = clock_of(torch.device("cpu"))
        try:
            clock = clock_of(next(model.parameters()).device)
            self._key = _statistics_key(model, drafter, rule, options)
            self.choice, chosen = _chosen(
                model, drafter, self._key, sequences, rule, options, max_new_tokens
            )
        except Exception as error:  # what is decoded does not depend on it
            _logger.warning(
                "the drafter is used as it is, for no widths could be chosen: %s", error
            )
            chosen = drafter
            self.choice = DraftingChoice(
                widths=None,
                expected_speedup=1.0,
                reason=f"as given, for nothing was measured: {error}",
            )
        if chosen is not None:
            self.drafter = GuardedDrafter(chosen, max_new_tokens=max_new_tokens, clock=clock)

    def finish(self, report: DecodingReport) -> None:
        """Tell the report what was chosen, and remember which guesses were right."""
        report.choice = self.choice
        if self.drafter is None:
            return
        report.choice = replace(
            self.choice,
            stopped_after=self.drafter.stopped_after,
            stop_reason=self.drafter.stop_reason,
        )
        if self._key is None:
            return
        try:
            known, new = _statistics(self._key), self.drafter.statistics
            # A file for each picture would cost more than it tells.
            is_news = new.num_trials > _NEWS * known.num_trials
            known.merge(new)
            keep("acceptance", self._key, known.to_dict(), on_disk=is_news)
        except Exception as error:  # the tokens are drawn already
            _logger.warning("which guesses were right is not remembered: %s", error)


def choose_widths(
    model: Any,
    drafter: Drafter,
    *,
    sequences: int,
    rule: SamplingRule,
    options: DecodingOptions = DecodingOptions(),  # noqa: B008 - frozen
    max_new_tokens: int,
) -> tuple[int, ...] | None:
    """The widths alone that :class:`AutoDrafting` chooses; None for no guesses, or a drafter that takes no widths."""
    return AutoDrafting(
        model,
        drafter,
        sequences=sequences,
        rule=rule,
        options=options,
        max_new_tokens=max_new_tokens,
    ).choice.widths


def _chosen(
    model: Any,
    drafter: Drafter,
    key: Mapping[str, Any],
    sequences: int,
    rule: SamplingRule,
    options: DecodingOptions,
    max_new_tokens: int,
) -> tuple[DraftingChoice, Drafter | None]:
    if not isinstance(drafter, AdjustableDrafter):
        reason = "the drafter's own, which takes no widths"
        return DraftingChoice(widths=None, expected_speedup=1.0, reason=reason), drafter
    costs = round_costs(model, drafter, sequences=sequences, rule=rule, options=options)
    statistics = _statistics(key)
    widths, gain = best_widths(
        costs,
        statistics,
        trees=drafter.guesses_trees,
        # The paths of a chain are one: there is nothing to compare.
        chains=options.skip is None or options.skip.threshold is None,
        max_depth=min(MAX_DEPTH, max(max_new_tokens - 2, 0)),
    )
    known = "as former decodings went" if statistics.trials else "with nothing known yet"
    if widths is None:
        reason = f"{known}, guesses promise {gain:.2f} times the tokens for their cost"
        return DraftingChoice(widths=None, expected_speedup=1.0, reason=reason), None
    reason = f"{known}, it promises {gain:.2f} times the speed"
    choice = DraftingChoice(widths=widths, expected_speedup=gain, reason=reason)
    return choice, drafter.with_widths(widths)


def _statistics_key(
    model: Any, drafter: Drafter, rule: SamplingRule, options: DecodingOptions
) -> dict[str, Any]:
    relaxation = options.relaxation
    return {
        "target": content_digest(model),
        "drafter": drafter_key(drafter),
        "guessing": [options.guessing, options.ensemble_weight],
        "relaxation": None if relaxation is None else [relaxation.delta, relaxation.count],
        "is_skipping": options.skip is not None,
        "rule": [rule.temperature, rule.top_k, rule.top_p, rule.guidance_scale],
    }


def _statistics(key: Mapping[str, Any]) -> AcceptanceStatistics:
    try:
        return AcceptanceStatistics.from_dict(
            recall("acceptance", key) or {"hits": [], "trials": []}
        )
    except ValueError:
        return AcceptanceStatistics()


class GuardedDrafter:
    """Guesses as another drafter as long as that pays.

    The first rounds have no guesses: what they take, the drafter's part subtracted, is what a token costs without. Each
    round that costs more than its tokens would have cost so is a loss, and guessing ends before losses could exceed 2 %
    of the whole decoding, unless the last rounds have won. Before it does, the cost of a token is measured again, for the
    machine may have become slower.

    Args:
        drafter: The other one.
        max_new_tokens: Of a sequence.
        clock: In seconds.

    Attributes:
        statistics: Which guesses were right.
        stopped_after: Tokens of the shortest sequence when guessing was given up, or None.
        stop_reason: Why, or None.
    """

    def __init__(
        self, drafter: Drafter, *, max_new_tokens: int, clock: Callable[[], float]
    ) -> None:
        self._drafter, self._clock = drafter, clock
        self.needs_features = drafter.needs_features
        self._most_loss = _MOST_LOSS * max_new_tokens
        self.statistics = AcceptanceStatistics()
        self.stopped_after: int | None = None
        self.stop_reason: str | None = None

    @property
    def model_time(self) -> ModelTime:
        """Of the other's model."""
        return self._drafter.model_time if isinstance(self._drafter, TimedDrafter) else ModelTime()

    def begin(
        self, prompts: Tensor, is_token: Tensor, noise: Noise, features: Tensor | None
    ) -> None:
        """Start a decoding."""
        self._drafter.begin(prompts, is_token, noise, features)
        self.statistics = AcceptanceStatistics()
        self.stopped_after = self.stop_reason = None
        self._left, self._has_asked_again = _REFERENCE_ROUNDS, False
        self._sequences = len(noise.numbers)
        self._reference: list[float] = []  # seconds of rounds without guesses
        self._settled = 0.0  # loss, in tokens' costs, up to the last measurement of these
        self._rounds: list[tuple[float, float]] = []  # seconds and tokens of rounds since
        self._is_reference: bool | None = None  # the round that is under way; None before the first
        self._begin = self._drafting = 0.0
        self._tokens: float | None = None  # of the round that is under way

    def guess(self, history: Tensor, lengths: Tensor, depth: int) -> Draft | None:
        """What the other one guesses, nothing in a round that is timed, and None when it does not pay."""
        now = self._clock()
        self._end_round(now)
        if self._is_to_stop():
            self.stopped_after = int(lengths.min())
            self.stop_reason = f"given up after {self.stopped_after} tokens: rounds cost more than their tokens would without guesses"
            return None
        if 2 * len(lengths) <= self._sequences and depth >= _LONG_REST:
            # Fewer sequences make cheaper rounds; the next ones tell how cheap.
            self._settled = self._loss()
            self._rounds, self._reference = [], []
            self._left, self._sequences = _REFERENCE_ROUNDS, len(lengths)
        self._is_reference = self._left > 0
        self._begin, self._tokens = self._clock(), None
        guessed = self._drafter.guess(history, lengths, 0 if self._is_reference else depth)
        self._drafting = self._clock() - self._begin
        return guessed

    def learn(self, round_: Round) -> None:
        """Let the other one see it, and count."""
        begin = self._clock()
        self._drafter.learn(round_)
        self._drafting += self._clock() - begin
        taken_back = round_.taken_back
        tokens = round_.counts if taken_back is None else round_.counts - taken_back
        self._tokens = float(tokens.double().mean())
        # Neither guesses that are not verified nor a tree behind tokens that are no more say anything.
        if round_.shape.num_nodes > 1 and round_.num_rows is not None:
            path = round_.path if taken_back is None else round_.path[taken_back == 0]
            self.statistics.add(round_.shape, path.tolist())

    def select(self, sequences: Tensor, rows: Tensor) -> None:
        """Go on with some sequences."""
        self._drafter.select(sequences, rows)

    def _end_round(self, now: float) -> None:
        if self._is_reference is None or self._tokens is None:
            return
        seconds = now - self._begin
        if self._is_reference:
            self._reference.append(seconds - self._drafting)
            self._left -= 1
            if self._plain() > 0:
                self._settled += self._drafting / self._plain()
        else:
            self._rounds.append((seconds, self._tokens))

    def _plain(self) -> float:
        """Seconds of a round without guesses; 0 if none was timed, or the clock is too coarse."""
        return min(self._reference[-_REFERENCE_ROUNDS:], default=0.0)

    def _losses(self) -> list[float]:
        plain = self._plain()
        return [seconds / plain - tokens for seconds, tokens in self._rounds] if plain > 0 else []

    def _loss(self) -> float:
        """Of all rounds, in tokens' costs; what former ones have won counts to some extent."""
        loss = self._settled
        for lost in self._losses():
            loss = max(loss + lost, -_MOST_CREDIT * self._most_loss)
        return loss

    def _is_to_stop(self) -> bool:
        losses, loss = self._losses(), self._loss()
        if self._left or not losses or sum(losses[-_RECENT_ROUNDS:]) <= 0:
            return False
        # One more round without a right guess loses all that it costs beyond a token.
        worst = self._rounds[-1][0] / self._plain() - 1
        if loss + worst <= self._most_loss:
            return False
        if not self._has_asked_again and loss <= self._most_loss:
            self._has_asked_again = True
            self._left = _REFERENCE_ROUNDS
            return False
        return True
