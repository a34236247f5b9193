# SPDX-License-Identifier: Apache-2.0
"""What a decoding cost, in the neutral record of speculative decoding that servers write."""

from __future__ import annotations

import importlib.metadata
import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

_VERSIONED = ("genaccel", "torch", "transformers")


@dataclass(slots=True)
class ModelTime:
    """What the forwards of a model took, without the masks, draws and caches around them.

    Where the model is on a GPU, they return before it has computed: then these are the times of their launch.

    Attributes:
        forwards: Their number.
        seconds: Wall time.
        cpu_seconds: Of all threads of this process.
    """

    forwards: int = 0
    seconds: float = 0.0
    cpu_seconds: float = 0.0

    @contextmanager
    def measured(self) -> Iterator[None]:
        """Count the block as a forward."""
        wall, cpu = time.perf_counter(), time.process_time()
        yield
        self.forwards += 1
        self.seconds += time.perf_counter() - wall
        self.cpu_seconds += time.process_time() - cpu


@dataclass(frozen=True, kw_only=True, slots=True)
class DraftingChoice:
    """What automatic drafting chose, and what became of it.

    Attributes:
        widths: Children of a node at each depth; None for no drafting at all.
        expected_speedup: Over decoding without guesses, by the costs and acceptance known before.
        reason: A sentence.
        stopped_after: Tokens of a sequence after which guessing was given up; None if it was not.
        stop_reason: Why; None if it was not.
    """

    widths: tuple[int, ...] | None
    expected_speedup: float
    reason: str
    stopped_after: int | None = None
    stop_reason: str | None = None

    def to_record(self) -> dict[str, Any]:
        """JSON-ready form."""
        return {
            "widths": None if self.widths is None else list(self.widths),
            "expected_speedup": self.expected_speedup,
            "reason": self.reason,
            "stopped_after": self.stopped_after,
            "stop_reason": self.stop_reason,
        }

    def __str__(self) -> str:
        if self.widths is None:
            chosen = "no guesses"
        elif max(self.widths) == 1:
            chosen = f"a chain of {len(self.widths)}"
        else:
            chosen = f"a tree of widths {', '.join(map(str, self.widths))}"
        stop = "" if self.stop_reason is None else f"; {self.stop_reason}"
        return f"{chosen} ({self.reason}){stop}"


@dataclass(kw_only=True)
class DecodingReport:
    """What a decoding cost, in the terms that servers report.

    Attributes:
        target_forwards: Of the target model, the reading of the prompt counted.
        rounds: Of a sequence with guesses, summed over sequences.
        drafted_tokens: Guesses, summed over sequences.
        accepted_tokens: Guesses that were drawn.
        substituted_tokens: Accepted guesses that stand for another token which the target drew, or that only what they
            borrowed let pass.
        unverified_tokens: Guesses that were committed without verification and stayed.
        rolled_back_tokens: Guesses that were committed without verification and taken back.
        generated_tokens: Of all sequences.
        acceptance_histogram: How many rounds of a sequence accepted 0, 1, 2, ... guesses.
        draft_seconds: Wall time of the drafter's forwards; of all that it does, if it does not tell its model's.
        target_seconds: Of the target model's forwards.
        total_seconds: Of all.
        draft_cpu_seconds: CPU time of the drafter's forwards, of all threads; 0 if it does not tell.
        target_cpu_seconds: Of the target model's forwards.
        total_cpu_seconds: Of all.
        choice: What automatic drafting chose; None where it was not asked.
    """

    target_forwards: int = 0
    rounds: int = 0
    drafted_tokens: int = 0
    accepted_tokens: int = 0
    substituted_tokens: int = 0
    unverified_tokens: int = 0
    rolled_back_tokens: int = 0
    generated_tokens: int = 0
    acceptance_histogram: list[int] = field(default_factory=list)
    draft_seconds: float = 0.0
    target_seconds: float = 0.0
    total_seconds: float = 0.0
    draft_cpu_seconds: float = 0.0
    target_cpu_seconds: float = 0.0
    total_cpu_seconds: float = 0.0
    choice: DraftingChoice | None = None

    @property
    def mean_acceptance_length(self) -> float:
        """Tokens a round: 1 + accepted guesses a round."""
        return 1 + self.accepted_tokens / self.rounds if self.rounds else 1.0

    @property
    def draft_acceptance_rate(self) -> float:
        """Share of the guesses that were drawn."""
        return self.accepted_tokens / self.drafted_tokens if self.drafted_tokens else 0.0

    @property
    def unverified_fraction(self) -> float:
        """Share of the tokens that no forward of the target has judged."""
        return self.unverified_tokens / self.generated_tokens if self.generated_tokens else 0.0

    @property
    def substituted_fraction(self) -> float:
        """Share of the tokens that stand for another one."""
        return self.substituted_tokens / self.generated_tokens if self.generated_tokens else 0.0

    @property
    def overhead_seconds(self) -> float:
        """Wall time in neither model."""
        return self.total_seconds - self.draft_seconds - self.target_seconds

    @property
    def overhead_cpu_seconds(self) -> float:
        """CPU time in neither model."""
        return self.total_cpu_seconds - self.draft_cpu_seconds - self.target_cpu_seconds

    def count(self, accepted: list[int], guesses: int) -> None:
        """Add a round."""
        self.rounds += len(accepted)
        self.drafted_tokens += guesses * len(accepted)
        self.accepted_tokens += sum(accepted)
        missing = max(accepted) + 1 - len(self.acceptance_histogram)
        self.acceptance_histogram += [0] * missing
        for number in accepted:
            self.acceptance_histogram[number] += 1

    def add_models(self, target: ModelTime, draft: ModelTime | None) -> None:
        """Take the times of both models; None for a drafter that does not tell its own."""
        self.target_seconds += target.seconds
        self.target_cpu_seconds += target.cpu_seconds
        if draft is not None:
            self.draft_seconds = draft.seconds
            self.draft_cpu_seconds = draft.cpu_seconds

    def to_record(self) -> dict[str, Any]:
        """The record, JSON-ready: ``mean_acceptance_length``, ``draft_acceptance_rate`` and ``acceptance_histogram`` as
        inference servers name them, and counts, times in seconds and versions.
        """
        prefills = min(1, self.target_forwards)
        return {
            "mean_acceptance_length": self.mean_acceptance_length,
            "draft_acceptance_rate": self.draft_acceptance_rate,
            "acceptance_histogram": list(self.acceptance_histogram),
            "unverified_fraction": self.unverified_fraction,
            "substituted_fraction": self.substituted_fraction,
            "num_drafts": self.rounds,
            "num_draft_tokens": self.drafted_tokens,
            "num_accepted_tokens": self.accepted_tokens,
            "num_substituted_tokens": self.substituted_tokens,
            "num_unverified_tokens": self.unverified_tokens,
            "num_rolled_back_tokens": self.rolled_back_tokens,
            "generated_tokens": self.generated_tokens,
            "target_forwards": {
                "prefill": prefills,
                "decode": self.target_forwards - prefills,
                "total": self.target_forwards,
            },
            "wall_seconds": {
                "draft": self.draft_seconds,
                "verify": self.target_seconds,
                "overhead": self.overhead_seconds,
                "total": self.total_seconds,
            },
            "cpu_seconds": {
                "draft": self.draft_cpu_seconds,
                "verify": self.target_cpu_seconds,
                "overhead": self.overhead_cpu_seconds,
                "total": self.total_cpu_seconds,
            },
            "choice": None if self.choice is None else self.choice.to_record(),
            "versions": {name: _version(name) for name in _VERSIONED},
        }

    def to_json(self, *, indent: int | None = None) -> str:
        """:meth:`to_record` as JSON."""
        return json.dumps(self.to_record(), indent=indent)

    def __str__(self) -> str:
        record = self.to_record()
        forwards = record["target_forwards"]
        lines = [
            ("tokens", f"{self.generated_tokens}"),
            ("target forwards", f"{forwards['total']}, {forwards['prefill']} of them of prompts"),
            ("tokens a round", f"{self.mean_acceptance_length:.2f}"),
            ("guesses accepted", f"{self.draft_acceptance_rate:.0%} of {self.drafted_tokens}"),
            ("accepted in a round", _histogram(self.acceptance_histogram)),
            ("not verified", f"{self.unverified_fraction:.0%}"),
            ("seconds", _split(record["wall_seconds"])),
            ("CPU seconds", _split(record["cpu_seconds"])),
        ]
        if self.choice is not None:
            lines.append(("drafting", str(self.choice)))
        return "\n".join(f"{name:<20} {value}" for name, value in lines)


def _histogram(counts: list[int]) -> str:
    total = sum(counts)
    return ", ".join(f"{n}: {count / total:.0%}" for n, count in enumerate(counts)) or "none"


def _split(seconds: dict[str, float]) -> str:
    parts = ", ".join(f"{name} {seconds[name]:.3f}" for name in ("draft", "verify", "overhead"))
    return f"{seconds['total']:.3f} ({parts})"


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "missing"
