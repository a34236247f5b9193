# SPDX-License-Identifier: Apache-2.0
"""The report on a run: the steps that were computed, the FLOPs that were saved, and the memory that took."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from genaccel.hooks.call_record import CallRecord
from genaccel.hooks.engine import Engine


@dataclass(frozen=True, slots=True)
class ModelReport:
    """The last run of one model.

    Attributes:
        model: Class name.
        steps: Steps at which the model was called.
        num_steps: Steps of the sampler.
        calls: Calls of the model.
        schedule: A letter for each step: ``C`` all computed, ``f`` all forecast, ``p`` all run on
            forecasts of their submodules, ``m`` mixed.
        computed_segments: Segments that were computed, over all calls.
        forecast_segments: Segments that were forecast.
        partial_segments: Segments that ran on forecasts of their submodules.
        plain_flops: FLOPs of as many calls without acceleration.
        flops: FLOPs that were computed.
        peak_bytes: Most bytes that were held for forecasts.
        computed_ms: Median milliseconds of a call that computed everything, on the host.
        forecast_ms: The same of a call that forecast everything; None if there was none.
        speed: Measured: how long all calls of the run would have taken if each were a computed one,
            over how long they did, on the host; None where none was computed in full.
        plain_calls: Calls of the model since it was accelerated that belonged to no run of it, and
            were computed plainly.
        target: The target that was asked for, in words.
        plan: The plan that the run followed, in words.
        notes: Further sentences, such as why something was not accelerated.
    """

    model: str
    steps: int
    num_steps: int
    calls: int
    schedule: str
    computed_segments: int
    forecast_segments: int
    partial_segments: int
    plain_flops: int
    flops: int
    peak_bytes: int
    computed_ms: float | None
    forecast_ms: float | None
    speed: float | None = None
    plain_calls: int = 0
    target: str | None = None
    plan: str | None = None
    notes: tuple[str, ...] = ()

    @property
    def flop_ratio(self) -> float:
        """FLOPs without acceleration over those with it."""
        return self.plain_flops / self.flops if self.flops else 1.0

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready form."""
        return {**asdict(self), "flop_ratio": self.flop_ratio}

    def __str__(self) -> str:
        if not self.calls:
            return "\n".join([f"{self.model}: no run yet.", *self._remarks()])
        lines = [
            f"{self.model}: {self.calls} calls in {self.steps} of {self.num_steps} steps",
            *(f"  {name:<12}{text}" for name, text in self._choices()),
            f"  schedule    {self.schedule}   (C computed, f forecast, p partial, m mixed)",
            f"  segments    {self.computed_segments} computed, {self.forecast_segments} forecast"
            + (f", {self.partial_segments} partial" if self.partial_segments else ""),
            f"  FLOPs       {_si(self.flops)} instead of {_si(self.plain_flops)}, {self.flop_ratio:.2f}x fewer",
            f"  cache       {self.peak_bytes / 1e6:.1f} MB at most",
        ]
        times = [
            f"{name} {ms:.1f} ms"
            for name, ms in (("computed", self.computed_ms), ("forecast", self.forecast_ms))
            if ms is not None
        ]
        if times:
            lines.append(f"  call        {', '.join(times)} (median, host clock)")
        if self.speed is not None:
            lines.append(
                f"  speed       {self.speed:.2f}x the model's, as far as the host's clock tells"
            )
        return "\n".join([*lines, *self._remarks()])

    def _choices(self) -> list[tuple[str, str]]:
        named = (("target", self.target), ("plan", self.plan))
        return [(name, text) for name, text in named if text is not None]

    def _remarks(self) -> list[str]:
        lines = [f"  note        {note}" for note in self.notes]
        if self.plain_calls:
            lines.append(
                f"  plain       {self.plain_calls} calls belonged to no run of the accelerated pipeline"
            )
        return lines


def report_of(engine: Engine) -> ModelReport:
    """Sum up the records of a model's last run."""
    records = engine.records
    saved = sum(record.saved_flops for record in records)
    plain = engine.total_flops * len(records)
    full = [r.seconds for r in records if all(r.computed) and not r.is_watched]
    timed = [r.seconds for r in records if not r.is_watched]
    none = [r.seconds for r in records if r.computed and not any((*r.computed, *r.partial))]
    partial = sum(sum(r.partial) for r in records)
    return ModelReport(
        model=type(engine.model).__name__,
        steps=len({r.tick.step for r in records}),
        num_steps=records[-1].tick.num_steps if records else 0,
        calls=len(records),
        schedule=_schedule(records),
        computed_segments=sum(sum(r.computed) for r in records),
        forecast_segments=sum(len(r.computed) - sum(r.computed) for r in records) - partial,
        partial_segments=partial,
        plain_flops=plain,
        flops=plain - saved,
        peak_bytes=0 if engine.latest is None else engine.latest.peak_bytes,
        # The first call of a run also warms caches and, if compiled, the compiler up.
        computed_ms=statistics.median(full) * 1e3 if full else None,
        forecast_ms=statistics.median(none) * 1e3 if none else None,
        speed=statistics.median(full) * len(timed) / sum(timed) if full and sum(timed) else None,
        plain_calls=engine.plain_calls,
        notes=_notes(engine),
    )


def _notes(engine: Engine) -> tuple[str, ...]:
    run = engine.latest
    if run is None:
        return ()
    problem = [] if run.problem is None else [f"computed in full from some step on: {run.problem}"]
    return tuple(dict.fromkeys([*problem, *run.notes]))


def _schedule(records: Sequence[CallRecord]) -> str:
    steps: dict[int, set[str]] = {}
    for record in records:
        kinds = steps.setdefault(record.tick.step, set())
        for computed, partial in zip(record.computed, record.partial, strict=True):
            kinds.add("C" if computed else "p" if partial else "f")
    # A model without segments computes everything.
    return "".join("m" if len(kinds) > 1 else next(iter(kinds), "C") for kinds in steps.values())


def _si(value: float) -> str:
    for unit in ("", "k", "M", "G", "T"):
        if value < 1000:
            return f"{value:.3g}{unit}"
        value /= 1000
    return f"{value:.4g}P"
