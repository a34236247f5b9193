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

from genaccel.skip_decoding.acceptance import accept_by_rejection, accept_greedily
from genaccel.skip_decoding.cached_rows import CachedRows
from genaccel.skip_decoding.draft_tree import TreeShape, accepted_path
from genaccel.skip_decoding.drafting import Drafter, Noise, Round
from genaccel.skip_decoding.options import DecodingOptions
from genaccel.skip_decoding.report import DecodingReport
from genaccel.skip_decoding.sampling import SamplingRule, draw, keyed_uniform
from genaccel.skip_decoding.skipping import unverified_length
from genaccel.skip_decoding.steering import Steering

ROOT = TreeShape(())

# Between the seeds of rounds: an odd number without a pattern, so that sums with other seeds do not meet.
_ROUND_STRIDE = 0xD1342543DE82EF95


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
        on_tokens: Called after each round with the tokens of the shortest sequence that goes on and their largest
            number; what it raises ends the decoding.
        steering: What else has a say in the logits, and in where sequences end.

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
    begin = time.perf_counter()
    report = DecodingReport()
    decoding = _Decoding(
        model, rule, drafter, options, sequence_numbers, max_new_tokens, report, steering
    )
    if count:
        decoding.begin(prompts, is_token)
    while len(decoding.active):
        decoding.round()
        if on_tokens is not None and len(decoding.active):
            on_tokens(int(decoding.lengths[decoding.active].min()), max_new_tokens)
    lengths = decoding.lengths
    report.generated_tokens = int(lengths.sum())
    report.total_seconds = time.perf_counter() - begin
    longest = int(lengths.max()) if count else 0
    return Decoded(tokens=decoding.result[:, :longest], lengths=lengths, report=report)


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
    ) -> None:
        device = numbers.device
        self.steering = steering
        self.rule, self.drafter, self.options, self.report = rule, drafter, options, report
        self.numbers, self.limit = numbers, limit
        self.branches = 2 if rule.is_guided else 1
        self.target = CachedRows(
            model, with_features=drafter is not None and drafter.needs_features
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

    def begin(self, prompts: Tensor, is_token: Tensor) -> None:
        """Read the prompts and draw the first token of each."""
        with self._timed("target_seconds"):
            rows = prompts.shape[1] if self.drafter and self.drafter.needs_features else 1
            output = self.target.prefill(prompts, is_token, last=rows)
        self.report.target_forwards += 1
        if self.drafter is not None:
            is_shared = self.options.relaxation is None
            noise = Noise(self.rule, self.options.seed, self.numbers, is_shared)
            with self._timed("draft_seconds"):
                self.drafter.begin(prompts, is_token, noise, output.features)
        logits = self.rule.combine(output.logits)[:, -1:]
        logits = self._adjusted(logits, ROOT, prompts[: len(self.numbers), -1:], self.lengths)
        weights = self.rule.log_weights(logits[:, 0])
        places = torch.zeros_like(self.numbers)
        self.result[:, 0] = draw(weights, self.options.seed, self.numbers, places)
        self.lengths += 1
        self._drop_ended()

    def round(self) -> None:
        """Draw some tokens of each sequence that goes on."""
        length = self.lengths[self.active]
        # A root that is the last token but one needs no guess behind it.
        depth = self.limit - int(length.min()) - 1
        shape, tokens = ROOT, self.result[self.active, length - 1][:, None]
        has_guessed = self.drafter is not None and depth > 0
        if self.drafter is not None and has_guessed:
            with self._timed("draft_seconds"):
                shape, tokens = self.drafter.guess(self.result[self.active], length, depth)
        skipped = self._skip(shape, tokens, length) if has_guessed else None
        round_ = self._verify(shape, tokens, length) if skipped is None else skipped
        self.round_number += 1
        if self.drafter is not None and has_guessed:
            with self._timed("draft_seconds"):
                self.drafter.learn(round_)
        self._drop_ended()

    def _verify(self, shape: TreeShape, tokens: Tensor, length: Tensor) -> Round:
        """Read the tree, behind what an unverified round has left, and draw after its nodes."""
        pending = self.num_pending
        rows, whole = tokens, shape
        if pending:
            columns = length[:, None] - 1 - pending + torch.arange(pending, device=length.device)
            rows = torch.cat((self.result[self.active].gather(1, columns), tokens), 1)
            whole = shape.behind_chain(pending)
        with self._timed("target_seconds"):
            output = self.target.read(rows.repeat(self.branches, 1), whole)
        self.report.target_forwards += 1
        logits = self.rule.combine(output.logits)[:, pending:]  # [S, N, V]
        logits = self._adjusted(logits, shape, tokens, length)
        path, drawn = self._accepted(shape, tokens, logits, length)
        counts = self._emit(drawn.gather(1, path.clamp(min=0)), (path >= 0).sum(1), length)
        before = torch.arange(pending, device=path.device).expand(len(path), -1)
        self.target.keep(
            torch.cat((before, torch.where(path >= 0, path + pending, -1)), 1).repeat(
                self.branches, 1
            ),
            (counts + pending).repeat(self.branches),
        )
        self.num_pending = 0
        if shape.num_nodes > 1:
            self.report.count((counts - 1).tolist(), shape.num_nodes - 1)
        features = None if output.features is None else output.features[:, pending:]
        return Round(
            shape=shape, tokens=tokens, drawn=drawn, path=path, counts=counts, features=features
        )

    def _adjusted(self, logits: Tensor, shape: TreeShape, tokens: Tensor, length: Tensor) -> Tensor:
        if self.steering is None:
            return logits
        history = self.result[self.active]
        return self.steering.adjust(self.active, history, length, shape, tokens, logits)

    def _accepted(
        self, shape: TreeShape, tokens: Tensor, logits: Tensor, length: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Nodes that were reached, ``[S, D]``, and the token after each node, ``[S, N]``."""
        numbers, seed = self.numbers[self.active], self.options.seed
        relaxation = self.options.relaxation
        if relaxation is not None:
            # Noise that no guess has seen: one that was drawn by the noise of its place is no longer independent of it.
            seed += (self.round_number + 1) * _ROUND_STRIDE
        weights = self.rule.log_weights(logits)
        depths = torch.tensor(shape.depths, device=length.device)
        places = length[:, None] + depths
        drawn = draw(weights, seed, numbers[:, None].expand_as(places), places)
        if relaxation is None:
            return accepted_path(shape, tokens, drawn)[0], drawn
        path = torch.full((len(tokens), shape.max_depth + 1), -1, device=tokens.device)
        uniforms = keyed_uniform(~seed, numbers, length, shape.num_nodes).tolist()
        for sequence in range(len(tokens)):
            if self.rule.temperature == 0:
                nodes = accept_greedily(
                    shape, tokens[sequence], logits[sequence], relaxation=relaxation
                )
            else:
                accepted = accept_by_rejection(
                    shape,
                    tokens[sequence],
                    weights[sequence],
                    iter(uniforms[sequence]),
                    relaxation=relaxation,
                )
                nodes = accepted.path
                place = numbers[sequence, None], places[sequence, nodes[-1], None]
                drawn[sequence, nodes[-1]] = draw(accepted.residual.log()[None], seed, *place)
            path[sequence, : len(nodes)] = torch.tensor(nodes, device=path.device)
            drawn[sequence, list(nodes[:-1])] = tokens[sequence, list(nodes[1:])]
        return path, drawn

    def _skip(self, shape: TreeShape, tokens: Tensor, length: Tensor) -> Round | None:
        """Commit guesses without a look of the target, if it is time to; None if not."""
        rule, num_tokens = self.options.skip, int(length.min())
        if rule is None or self.num_pending:  # never two in a row
            return None
        paths = shape.paths().to(tokens.device)  # [P, D] nodes, the root first
        guesses = torch.where(paths >= 0, tokens[:, paths.clamp(min=0)], -1)[
            :, :, 1:
        ]  # [S, P, D - 1]
        if not rule.is_due(self.round_number, num_tokens, guesses):
            return None
        seed = ~self.options.seed
        uniform = keyed_uniform(seed, self.numbers[self.active], length, 1)[:, 0]
        chosen = (uniform * len(paths)).long()
        path_lengths = (paths[:, 1:] >= 0).sum(1)
        # The same number in a whole batch, so that its trees hang behind chains of one length.
        count = min(unverified_length(path_lengths, int(path)) for path in chosen)
        count = min(count, self.limit - int(length.max()))
        if count < 1:
            return None
        path = paths[chosen, :count]
        emitted = guesses[torch.arange(len(chosen)), chosen, :count]
        reached = torch.full_like(length, count)
        counts = self._emit(emitted, reached, length)
        self.num_pending = count
        self.report.unverified_tokens += int(counts.sum())
        drawn = torch.full_like(tokens, -1).scatter_(1, path, emitted)
        return Round(
            shape=shape, tokens=tokens, drawn=drawn, path=path, counts=counts, features=None
        )

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
