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
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor

from genaccel.skip_decoding.cached_rows import CachedRows
from genaccel.skip_decoding.draft_tree import TreeShape, accepted_path
from genaccel.skip_decoding.sampling import SamplingRule, draw, perturbed

ROOT = TreeShape(())


@dataclass(frozen=True, kw_only=True, slots=True)
class Round:
    """What a round gave a drafter to learn from; only of sequences that go on.

    Attributes:
        shape: Of the tree that was read.
        tokens: Its tokens, ``[S, N]``.
        drawn: Token after each node, ``[S, N]``.
        path: Nodes that were reached, ``[S, D]``, -1 behind the last.
        counts: Their number, ``[S]``.
        features: Of the target's rows, ``[B, N, C]``; None if the drafter does not ask for them.
    """

    shape: TreeShape
    tokens: Tensor
    drawn: Tensor
    path: Tensor
    counts: Tensor
    features: Tensor | None


@dataclass(frozen=True, slots=True)
class Noise:
    """By what the target's tokens will be drawn, for drafters that draw alike.

    Attributes:
        rule: The distribution.
        seed: Of the noise.
        numbers: Of the sequences, ``[S]``.
    """

    rule: SamplingRule
    seed: int
    numbers: Tensor

    def likeliest(self, logits: Tensor, positions: Tensor, count: int) -> Tensor:
        """The tokens most likely to be drawn by these logits, ``[S, N, count]``, the likeliest first.

        Args:
            logits: ``[S, N, V]``, of both branches combined.
            positions: Of the token that is guessed, ``[S, N]``.
            count: How many.
        """
        if self.rule.temperature > 0:
            sequences = self.numbers[:, None].expand_as(positions)
            weights = self.rule.log_weights(logits)
            logits = perturbed(weights, self.seed, sequences, positions)
        return logits.topk(count).indices

    def select(self, sequences: Tensor) -> Noise:
        """That of some of the sequences."""
        return Noise(self.rule, self.seed, self.numbers[sequences])


class Drafter(Protocol):
    """Guesses what the target model will draw. Sequences are numbered as those that still go on."""

    needs_features: bool

    def begin(self, prompts: Tensor, is_token: Tensor, noise: Noise) -> None:
        """Prompts ``[B, L]``, padded on the left; with guidance the conditional ones, then the unconditional."""

    def guess(self, history: Tensor, lengths: Tensor, depth: int) -> tuple[TreeShape, Tensor]:
        """A tree and its tokens.

        Args:
            history: Tokens that were drawn, ``[S, T]``, ``lengths`` of each; the last of them is the root.
            lengths: ``[S]``, at least 1.
            depth: Of the tree at most.

        Returns:
            The shape, and tokens ``[S, N]`` of which column 0 is the root and siblings differ.
        """

    def learn(self, round_: Round) -> None:
        """See what became of the guesses."""

    def select(self, sequences: Tensor, rows: Tensor) -> None:
        """Go on with some sequences; ``rows`` are their branches' numbers."""


@dataclass(kw_only=True)
class DecodingReport:
    """What a decoding cost, in the terms that servers report.

    Attributes:
        target_forwards: Of the target model, the reading of the prompt counted.
        rounds: Of a sequence with guesses, summed over sequences.
        drafted_tokens: Guesses, summed over sequences.
        accepted_tokens: Guesses that were drawn.
        generated_tokens: Of all sequences.
        acceptance_histogram: How many rounds of a sequence accepted 0, 1, 2, ... guesses.
        draft_seconds: Wall time in the drafter.
        target_seconds: In the target model's forwards.
        total_seconds: Of all.
    """

    target_forwards: int = 0
    rounds: int = 0
    drafted_tokens: int = 0
    accepted_tokens: int = 0
    generated_tokens: int = 0
    acceptance_histogram: list[int] = field(default_factory=list)
    draft_seconds: float = 0.0
    target_seconds: float = 0.0
    total_seconds: float = 0.0

    @property
    def mean_acceptance_length(self) -> float:
        """Tokens a round: 1 + accepted guesses a round."""
        return 1 + self.accepted_tokens / self.rounds if self.rounds else 1.0

    @property
    def draft_acceptance_rate(self) -> float:
        """Share of the guesses that were drawn."""
        return self.accepted_tokens / self.drafted_tokens if self.drafted_tokens else 0.0

    @property
    def overhead_seconds(self) -> float:
        """Wall time in neither model."""
        return self.total_seconds - self.draft_seconds - self.target_seconds

    def count(self, accepted: list[int], guesses: int) -> None:
        """Add a round."""
        self.rounds += len(accepted)
        self.drafted_tokens += guesses * len(accepted)
        self.accepted_tokens += sum(accepted)
        missing = max(accepted) + 1 - len(self.acceptance_histogram)
        self.acceptance_histogram += [0] * missing
        for number in accepted:
            self.acceptance_histogram[number] += 1


@dataclass(frozen=True, kw_only=True, slots=True)
class Decoded:
    """Tokens and what they cost.

    Attributes:
        tokens: ``[S, T]``; behind its end a sequence has ``pad_token``.
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
    seed: int = 0,
    sequence_numbers: Tensor | None = None,
    negative_prompts: Tensor | None = None,
    negative_is_token: Tensor | None = None,
    end_tokens: tuple[int, ...] = (),
    pad_token: int = 0,
    on_tokens: Callable[[int, int], object] | None = None,
) -> Decoded:
    """Draw tokens after prompts.

    Args:
        model: A decoder-only language model of transformers.
        prompts: ``[S, L]``, padded on the left where they are shorter than the longest.
        is_token: False for padding, bool ``[S, L]``; by default there is none.
        rule: The distribution.
        max_new_tokens: At most, at least 1.
        drafter: Guesses; without one, tokens are drawn one by one.
        seed: Of the noise.
        sequence_numbers: ``[S]``; sequences of one prompt with different numbers differ, and a sequence is the same in
            every batch. By default 0, 1, 2, ...
        negative_prompts: Of the unconditional branch, ``[S, K]``; needed if the rule has guidance.
        negative_is_token: False for their padding.
        end_tokens: After one of these a sequence ends.
        pad_token: What stands behind its end.
        on_tokens: Called after each round with the tokens of the shortest sequence that goes on and their largest
            number; what it raises ends the decoding.

    Raises:
        ValueError: If shapes, tokens or numbers do not fit, or logits are not finite.
        TypeError: If the model cannot be decoded so.
    """
    prompts, is_token = _checked_prompts(prompts, is_token, "prompts")
    count = len(prompts)
    if max_new_tokens < 1:
        raise ValueError(f"max_new_tokens must be at least 1, got {max_new_tokens}")
    device = prompts.device
    if sequence_numbers is None:
        sequence_numbers = torch.arange(count, device=device)
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
    result = torch.full((count, max_new_tokens), pad_token, dtype=torch.long, device=device)
    lengths = torch.zeros(count, dtype=torch.long, device=device)
    if count:
        _decode_rows(
            model,
            prompts,
            is_token,
            rule,
            drafter,
            seed,
            sequence_numbers,
            torch.tensor(end_tokens, dtype=torch.long, device=device),
            result,
            lengths,
            report,
            on_tokens,
            pad_token,
        )
    report.generated_tokens = int(lengths.sum())
    report.total_seconds = time.perf_counter() - begin
    longest = int(lengths.max()) if count else 0
    return Decoded(tokens=result[:, :longest], lengths=lengths, report=report)


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


def _decode_rows(
    model: Any,
    prompts: Tensor,
    is_token: Tensor,
    rule: SamplingRule,
    drafter: Drafter | None,
    seed: int,
    numbers: Tensor,
    ends: Tensor,
    result: Tensor,
    lengths: Tensor,
    report: DecodingReport,
    on_tokens: Callable[[int, int], object] | None,
    pad_token: int,
) -> None:
    """Fill ``result`` and ``lengths``."""
    count, limit = result.shape
    device = prompts.device
    branches = 2 if rule.is_guided else 1
    with_features = drafter is not None and drafter.needs_features
    target = CachedRows(model, with_features=with_features)

    def timed(call: Callable[[], Any], name: str) -> Any:
        start = time.perf_counter()
        output = call()
        setattr(report, name, getattr(report, name) + time.perf_counter() - start)
        return output

    output = timed(lambda: target.prefill(prompts, is_token), "target_seconds")
    report.target_forwards += 1
    if drafter is not None:
        timed(lambda: drafter.begin(prompts, is_token, Noise(rule, seed, numbers)), "draft_seconds")
    weights = rule.log_weights(rule.combine(output.logits)[:, -1])
    result[:, 0] = draw(weights, seed, numbers, torch.zeros_like(numbers))
    lengths += 1
    active = torch.arange(count, device=device)

    def going_on() -> Tensor:
        """Of the active sequences, those that have not ended."""
        length = lengths[active]
        last = result[active, length - 1]
        return ((length < limit) & ~torch.isin(last, ends)).nonzero().flatten()

    def narrow(rest: Tensor) -> Tensor:
        nonlocal active
        if len(rest) == len(active):
            return active
        rows = torch.cat([rest + branch * len(active) for branch in range(branches)])
        target.select(rows)
        if drafter is not None:
            drafter.select(rest, rows)
        active = active[rest]
        return active

    narrow(going_on())
    while len(active):
        length = lengths[active]
        # The root needs no guess behind it once it is the last token but one.
        depth = limit - int(length.min()) - 1
        shape, tokens = ROOT, result[active, length - 1][:, None]
        if drafter is not None and depth > 0:
            history = result[active]
            shape, tokens = timed(
                lambda h=history, n=length, d=depth: drafter.guess(h, n, d), "draft_seconds"
            )
        rows = tokens.repeat(branches, 1)
        output = timed(lambda r=rows, s=shape: target.read(r, s), "target_seconds")
        report.target_forwards += 1
        depths = torch.tensor(shape.depths, device=device)
        weights = rule.log_weights(rule.combine(output.logits))  # [S, N, V]
        drawn = draw(
            weights,
            seed,
            numbers[active][:, None].expand(-1, shape.num_nodes),
            length[:, None] + depths,
        )
        path, reached = accepted_path(shape, tokens, drawn)
        emitted = drawn.gather(1, path.clamp(min=0))  # [S, D]
        # Nothing behind the end, be it a token or the limit.
        is_end = torch.isin(emitted, ends)
        before_end = is_end.long().cumsum(1) - is_end.long() == 0
        steps = torch.arange(path.shape[1], device=device)
        is_new = (steps < reached[:, None]) & before_end & (length[:, None] + steps < limit)
        counts = is_new.sum(1)
        # Drawn tokens go behind those that are there; what is not new is padding again.
        wide = torch.nn.functional.pad(result[active], (0, path.shape[1]), value=pad_token)
        wide.scatter_(1, length[:, None] + steps, torch.where(is_new, emitted, pad_token))
        result[active] = wide[:, :limit]
        lengths[active] = length + counts
        target.keep(path.repeat(branches, 1), counts.repeat(branches))
        if shape.num_nodes > 1:
            report.count((counts - 1).tolist(), shape.num_nodes - 1)
        if drafter is not None and depth > 0:
            round_ = Round(
                shape=shape,
                tokens=tokens,
                drawn=drawn,
                path=path,
                counts=counts,
                features=output.features,
            )
            timed(lambda r=round_: drafter.learn(r), "draft_seconds")
        narrow(going_on())
        if on_tokens is not None and len(active):
            on_tokens(int(lengths[active].min()), limit)
