# SPDX-License-Identifier: Apache-2.0
"""Speculative decoding that draws the tokens that decoding one by one draws.

In each round a drafter guesses a tree of tokens, the target model reads all of it in one forward, and from each node's
logits the next token is drawn with the noise of its place (:mod:`genaccel.skip_decoding.sampling`). Where the drawn token is
a guess, the round goes on behind it. A guess x is so accepted with the target's probability p(x), as rejection sampling
of deterministic guesses accepts it (arXiv:2211.17192 with q = 1), and what comes out is what the target alone draws with
this seed, token for token.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from genaccel.skip_decoding.drafts.draft_tree import TreeShape
from genaccel.skip_decoding.drafts.drafting import Draft, Drafter, Noise, Round, TimedDrafter
from genaccel.skip_decoding.generation.steering import Steering
from genaccel.skip_decoding.memory.cached_rows import CachedRows
from genaccel.skip_decoding.options import DecodingOptions
from genaccel.skip_decoding.report import DecodingReport
from genaccel.skip_decoding.sampling import SamplingRule, draw, keyed_uniform
from genaccel.skip_decoding.verifying.skipping import (
    likeliest_path,
    unverified_length,
    unverified_limit,
)
from genaccel.skip_decoding.verifying.verification import draft_seed, verify

ROOT = TreeShape(())


@dataclass(frozen=True, kw_only=True, slots=True)
class Decoded:
    """Tokens and what they cost.

    Attributes:
        tokens: ``[S, T]``; behind its end a sequence has the padding of the options.
        lengths: Tokens of each, its end of sequence counted.
        report: What it cost.
    """

    tokens: Tensor
    lengths: Tensor
    report: DecodingReport


@torch.inference_mode()
def decode(
    model: Any,
    prompts: Tensor,
    is_token: Tensor | None = None,
    *,
    rule: SamplingRule,
    max_new_tokens: int,
    drafter: Drafter | None = None,
    options: DecodingOptions = DecodingOptions(),  # noqa: B008 - frozen
    sequence_numbers: Tensor | None = None,
    negative_prompts: Tensor | None = None,
    negative_is_token: Tensor | None = None,
    on_tokens: Callable[[int, int], object] | None = None,
    steering: Steering | None = None,
    cache: Any = None,
) -> Decoded:
    """Draw tokens after prompts.

    Args:
        model: A decoder-only language model of transformers.
        prompts: ``[S, L]``, padded on the left where they are shorter than the longest.
        is_token: False for padding, bool ``[S, L]``; by default there is none.
        rule: The distribution.
        max_new_tokens: At most, at least 1.
        drafter: Guesses; without one, tokens are drawn one by one.
        options: Seed, ends, and what may differ from the target's own tokens.
        sequence_numbers: ``[S]``; sequences of one prompt with different numbers differ, and a sequence is the same in
            every batch. By default 0, 1, 2, ...
        negative_prompts: Of the unconditional branch, ``[S, K]``; needed if the rule has guidance.
        negative_is_token: False for their padding.
        on_tokens: Called after each round with the tokens of the shortest sequence that goes on, never less than before,
            and their largest number; what it raises ends the decoding.
        steering: What else has a say in the logits, and in where sequences end.
        cache: An empty ``DynamicCache`` or ``StaticCache`` of transformers; by default a new ``DynamicCache``. A static one
            needs a column for each token, and for the rows of a tree.

    Raises:
        ValueError: If shapes, tokens or numbers do not fit, or logits are not finite.
        TypeError: If the model cannot be decoded so.
    """
    prompts, is_token = _checked_prompts(prompts, is_token, "prompts")
    count = len(prompts)
    if max_new_tokens < 1:
        raise ValueError(f"max_new_tokens must be at least 1, got {max_new_tokens}")
    if sequence_numbers is None:
        sequence_numbers = torch.arange(count, device=prompts.device)
    if rule.is_guided:
        if negative_prompts is None:
            raise ValueError(
                f"guidance_scale {rule.guidance_scale:g} needs negative_prompts: what the picture is without a condition"
            )
        negative, negative_mask = _checked_prompts(
            negative_prompts, negative_is_token, "negative_prompts"
        )
        if len(negative) != count:
            raise ValueError(f"there are {count} prompts and {len(negative)} negative_prompts")
        prompts, is_token = _stacked(prompts, is_token, negative, negative_mask)
    begin, cpu_begin = time.perf_counter(), time.process_time()
    report = DecodingReport()
    decoding = _Decoding(
        model,
        rule,
        drafter,
        options,
        sequence_numbers,
        max_new_tokens,
        report,
        steering,
        cache,
    )
    if count:
        decoding.begin(prompts, is_token)
    told = 0
    while len(decoding.active):
        decoding.round()
        if on_tokens is not None and len(decoding.active):
            # What was taken back is not told.
            told = max(told, int(decoding.lengths[decoding.active].min()))
            on_tokens(told, max_new_tokens)
    lengths = decoding.lengths
    report.generated_tokens = int(lengths.sum())
    report.total_seconds = time.perf_counter() - begin
    report.total_cpu_seconds = time.process_time() - cpu_begin
    report.add_models(
        decoding.target.time, drafter.model_time if isinstance(drafter, TimedDrafter) else None
    )
    longest = int(lengths.max()) if count else 0
    with torch.inference_mode(False):  # copies that the caller may write to
        tokens, lengths = decoding.result[:, :longest].clone(), lengths.clone()
    return Decoded(tokens=tokens, lengths=lengths, report=report)


def _checked_prompts(prompts: Tensor, is_token: Tensor | None, name: str) -> tuple[Tensor, Tensor]:
    if prompts.ndim != 2 or prompts.shape[1] < 1:
        raise ValueError(
            f"{name} must have shape [S, L] with L at least 1, got {tuple(prompts.shape)}"
        )
    if is_token is None:
        return prompts, torch.ones_like(prompts, dtype=torch.bool)
    if is_token.shape != prompts.shape:
        raise ValueError(
            f"the mask of {name} must have their shape {tuple(prompts.shape)}, got {tuple(is_token.shape)}"
        )
    is_token = is_token.bool()
    if not bool(is_token[:, -1].all()) or bool((is_token[:, :-1] & ~is_token[:, 1:]).any()):
        raise ValueError(f"{name} must be padded on the left")
    return prompts, is_token


def _stacked(
    first: Tensor, first_mask: Tensor, second: Tensor, second_mask: Tensor
) -> tuple[Tensor, Tensor]:
    """Both, one below the other, the shorter padded on the left."""
    length = max(first.shape[1], second.shape[1])

    def padded(values: Tensor) -> Tensor:
        return torch.nn.functional.pad(values, (length - values.shape[1], 0))

    return (
        torch.cat((padded(first), padded(second))),
        torch.cat((padded(first_mask), padded(second_mask))),
    )


class _Decoding:
    """One call of :func:`decode`: what has been drawn, and the memory of both models.

    ``result`` ``[S, T]`` and ``lengths`` ``[S]`` are of all sequences; ``active`` has the numbers of those that go on.
    """

    def __init__(
        self,
        model: Any,
        rule: SamplingRule,
        drafter: Drafter | None,
        options: DecodingOptions,
        numbers: Tensor,
        limit: int,
        report: DecodingReport,
        steering: Steering | None = None,
        cache: Any = None,
    ) -> None:
        device = numbers.device
        self.steering = steering
        self.rule, self.drafter, self.options, self.report = rule, drafter, options, report
        self.numbers, self.limit = numbers, limit
        self.branches = 2 if rule.is_guided else 1
        self.target = CachedRows(
            model, with_features=drafter is not None and drafter.needs_features, cache=cache
        )
        self.ends = torch.tensor(options.end_tokens, dtype=torch.long, device=device)
        self.result = torch.full(
            (len(numbers), limit), options.pad_token, dtype=torch.long, device=device
        )
        self.lengths = torch.zeros(len(numbers), dtype=torch.long, device=device)
        self.active = torch.arange(len(numbers), device=device)
        self.round_number = 0
        # Tokens before the root that the target has not read: those of a round without verification.
        self.num_pending = 0
        # Tokens of each sequence that no forward has judged, or only one that came too late.
        self.unverified = torch.zeros_like(self.lengths)

    def begin(self, prompts: Tensor, is_token: Tensor) -> None:
        """Read the prompts and draw the first token of each."""
        output = self.target.prefill(prompts, is_token)
        self.report.target_forwards += 1
        if self.drafter is not None:
            options = self.options
            noise = Noise(
                self.rule,
                draft_seed(options),
                self.numbers,
                options.picks,
                tells_probabilities=options.picks == "drawn" or options.ensemble_weight is not None,
                tells_likelihoods=options.skip is not None and options.skip.path == "confidence",
            )
            with self._timed("draft_seconds"):
                self.drafter.begin(prompts, is_token, noise, output.features)
        logits = self.rule.combine(output.logits)
        logits = self._adjusted(logits, ROOT, prompts[: len(self.numbers), -1:], self.lengths)
        weights = self.rule.log_weights(logits[:, 0])
        places = torch.zeros_like(self.numbers)
        self.result[:, 0] = draw(weights, self.options.seed, self.numbers, places)
        self.lengths += 1
        self._drop_ended()

    def round(self) -> None:
        """Draw some tokens of each sequence that goes on."""
        length = self.lengths[self.active]
        # A root that is the last token but one needs no guess behind it, unless tokens before it may be taken back:
        # then the drafter must not miss the round.
        depth = self.limit - int(length.min()) - 1
        if self.num_pending and self.options.skip is not None and self.options.skip.rollback_below:
            depth = max(depth, 1)
        draft = Draft(ROOT, self.result[self.active, length - 1][:, None])
        has_guessed = self.drafter is not None and depth > 0
        if self.drafter is not None and has_guessed:
            with self._timed("draft_seconds"):
                guessed = self.drafter.guess(self.result[self.active], length, depth)
            if guessed is None:
                self.drafter, self.target.with_features, has_guessed = None, False, False
            else:
                draft = guessed
        skipped = self._skip(draft, length) if has_guessed else None
        round_ = self._verify(draft, length) if skipped is None else skipped
        self.round_number += 1
        if self.drafter is not None and has_guessed:
            with self._timed("draft_seconds"):
                self.drafter.learn(round_)
        self._drop_ended()

    def _verify(self, draft: Draft, length: Tensor) -> Round:
        """Read the tree, behind what an unverified round has left, and draw after its nodes."""
        pending, shape = self.num_pending, draft.shape
        before = length[:, None] - 1 - pending + torch.arange(pending, device=length.device)
        rows = torch.cat((self.result[self.active].gather(1, before), draft.tokens), 1)
        output = self.target.read(rows.repeat(self.branches, 1), shape.behind_chain(pending))
        self.report.target_forwards += 1
        logits = self._adjusted(  # [S, P + N, V]
            self.rule.combine(output.logits), shape.behind_chain(pending), rows, length - pending
        )
        verdict = verify(
            draft,
            logits[:, pending:],
            self.rule,
            self.options,
            numbers=self.numbers[self.active],
            lengths=length,
            round_number=self.round_number,
        )
        path, drawn = verdict.path, verdict.drawn
        emitted, reached = drawn.gather(1, path.clamp(min=0)), (path >= 0).sum(1)
        taken_back, begin = None, length
        is_judged = torch.ones_like(length, dtype=torch.bool)
        if pending and self.options.skip is not None and self.options.skip.rollback_below:
            taken_back, instead = self._taken_back(logits[:, :pending], rows, length)
            is_judged, begin = taken_back == 0, length - taken_back
            # The tree hangs behind tokens that are no more: only its root's place counts, for the target's own token.
            path = torch.where(is_judged[:, None], path, -1)
            path[:, 0] = 0
            missing = max(0, pending - emitted.shape[1])
            emitted = torch.nn.functional.pad(emitted, (0, missing))
            emitted[:, 0] = torch.where(is_judged, emitted[:, 0], instead)
            drawn = torch.where(is_judged[:, None], drawn, -1)
            reached = torch.where(is_judged, reached, 1)
            self.report.rolled_back_tokens += int(taken_back.sum())
            self.report.unverified_tokens -= int(taken_back.sum())
            self.unverified[self.active] -= taken_back
        counts = self._emit(emitted, reached, begin)
        # Of rows that are taken back, the one before the first such token stays: the new one hangs behind it.
        num_rows = torch.where(is_judged, counts + pending, pending + 1 - (length - begin))
        chain = torch.arange(pending, device=path.device).expand(len(path), -1)
        kept = torch.cat((chain, torch.where(path >= 0, path + pending, -1)), 1)
        self.target.keep(kept.repeat(self.branches, 1), num_rows.repeat(self.branches))
        self.num_pending = 0
        if shape.num_nodes > 1 and bool(is_judged.any()):
            self.report.count((counts - 1)[is_judged].tolist(), shape.num_nodes - 1)
            # Behind an end nothing is committed.
            substituted = verdict.substituted.minimum(counts - 1)
            self.report.substituted_tokens += int(substituted[is_judged].sum())
        return Round(
            shape=shape,
            tokens=draft.tokens,
            drawn=drawn,
            path=path,
            counts=counts,
            features=output.features,
            num_pending=pending,
            rows=kept.clamp(min=0),
            num_rows=num_rows,
            taken_back=taken_back,
        )

    def _adjusted(self, logits: Tensor, shape: TreeShape, tokens: Tensor, length: Tensor) -> Tensor:
        if self.steering is None:
            return logits
        history = self.result[self.active]
        return self.steering.adjust(self.active, history, length, shape, tokens, logits)

    def _taken_back(self, logits: Tensor, rows: Tensor, length: Tensor) -> tuple[Tensor, Tensor]:
        """How many pending tokens were too unlikely or behind one, ``[S]``, and what the target draws for the first.

        Args:
            logits: After the rows before the tree, ``[S, P, V]``.
            rows: Tokens of the rows, the tree's root behind these, ``[S, P + N]``.
            length: Tokens of each sequence, ``[S]``.
        """
        assert self.options.skip is not None
        pending = logits.shape[1]
        weights = self.rule.log_weights(logits)
        judged = weights if self.rule.temperature > 0 else logits
        probability = judged.softmax(-1).gather(2, rows[:, 1 : pending + 1, None])[..., 0]
        is_likely = (probability >= self.options.skip.rollback_below).long().cumprod(1)
        taken_back = pending - is_likely.sum(1)
        first = is_likely.sum(1).clamp(max=pending - 1)
        row = weights[torch.arange(len(first), device=first.device), first]
        place = length - pending + first
        return taken_back, draw(row, self.options.seed, self.numbers[self.active], place)

    def _skip(self, draft: Draft, length: Tensor) -> Round | None:
        """Commit guesses without a look of the target, if it is time to; None if not."""
        rule, num_tokens = self.options.skip, int(length.min())
        # Never two in a row, and a drafter may guess nothing.
        if rule is None or self.num_pending or draft.shape.num_nodes == 1:
            return None
        tokens = draft.tokens
        paths = draft.shape.paths().to(tokens.device)  # [P, D] nodes, the root first
        guesses = torch.where(paths >= 0, tokens[:, paths.clamp(min=0)], -1)[
            :, :, 1:
        ]  # [S, P, D - 1]
        if not rule.is_due(self.round_number, num_tokens, guesses):
            return None
        if rule.path == "uniform":
            seed = ~self.options.seed
            uniform = keyed_uniform(seed, self.numbers[self.active], length, 1)[:, 0]
            chosen = (uniform * len(paths)).long()
        elif draft.log_probabilities is not None:
            chosen = likeliest_path(paths, draft.log_probabilities)
        else:
            raise ValueError(
                'path="confidence" needs a drafter that tells how likely its guesses are, and this one does not'
            )
        path_lengths = (paths[:, 1:] >= 0).sum(1)
        limits = (
            unverified_length(path_lengths, path) if rule.truncates else int(path_lengths[path])
            for path in chosen.tolist()
        )
        # The same number in a whole batch, so that its trees hang behind chains of one length.
        # What is to be judged later must not be the last: no forward comes behind it.
        count = min(*limits, self.limit - int(length.max()) - bool(rule.rollback_below))
        unverified = self.unverified[self.active]
        for share in zip(length.tolist(), unverified.tolist(), strict=True):
            count = min(count, unverified_limit(*share, rule.max_unverified))
        if count < 1:
            return None
        path = paths[chosen, :count]
        emitted = guesses[torch.arange(len(chosen)), chosen, :count]
        if rule.rollback_below and bool(torch.isin(emitted, self.ends).any()):
            return None
        reached = torch.full_like(length, count)
        counts = self._emit(emitted, reached, length)
        self.num_pending = count
        self.unverified[self.active] += counts
        self.report.unverified_tokens += int(counts.sum())
        drawn = torch.full_like(tokens, -1).scatter_(1, path, emitted)
        return Round(shape=draft.shape, tokens=tokens, drawn=drawn, path=path, counts=counts)

    def _emit(self, emitted: Tensor, reached: Tensor, length: Tensor) -> Tensor:
        """Append tokens ``[S, D]``, of each sequence the first ``reached``, up to its end; returns how many."""
        # Nothing behind the end, be it a token or the limit.
        is_end = torch.isin(emitted, self.ends)
        is_before_end = is_end.long().cumsum(1) - is_end.long() == 0
        steps = torch.arange(emitted.shape[1], device=emitted.device)
        is_new = (steps < reached[:, None]) & is_before_end & (length[:, None] + steps < self.limit)
        counts = is_new.sum(1)
        pad = self.options.pad_token
        wide = torch.nn.functional.pad(self.result[self.active], (0, emitted.shape[1]), value=pad)
        wide.scatter_(1, length[:, None] + steps, torch.where(is_new, emitted, pad))
        self.result[self.active] = wide[:, : self.limit]
        self.lengths[self.active] = length + counts
        return counts

    def _drop_ended(self) -> None:
        length = self.lengths[self.active]
        last = self.result[self.active, length - 1]
        is_over = (length >= self.limit) | torch.isin(last, self.ends)
        if self.steering is not None:
            tokens = self.result[self.active]
            kept = self.steering.ends(self.active, tokens, length)
            is_over |= kept >= 0
            self.lengths[self.active] = length = torch.where(kept >= 0, kept, length)
            places = torch.arange(self.limit, device=length.device)
            self.result[self.active] = tokens.masked_fill(
                places >= length[:, None], self.options.pad_token
            )
        rest = (~is_over).nonzero().flatten()
        if len(rest) == len(self.active):
            return
        rows = torch.cat([rest + branch * len(self.active) for branch in range(self.branches)])
        self.target.select(rows)
        if self.drafter is not None:
            self.drafter.select(rest, rows)
        self.active = self.active[rest]

    @contextmanager
    def _timed(self, name: str) -> Iterator[None]:
        begin = time.perf_counter()
        yield
        setattr(self.report, name, getattr(self.report, name) + time.perf_counter() - begin)
