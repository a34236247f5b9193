# SPDX-License-Identifier: Apache-2.0
"""The diagnosis of an accelerated model: the blocks that were found, and those that can't be skipped."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from genaccel.hooks.engine import Engine


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """Findings about one model: its blocks, and how much of its FLOPs can be skipped.

    Attributes:
        model: Class name.
        lists: Path, block class and number of blocks of every list that was found.
        segments: Runs of blocks that are skipped as one: name, FLOPs of a call; empty before the
            first call.
        left_out: Blocks that are always computed, and why.
        covered: Share of the model's FLOPs that lies in segments; None before the first call.
        notes: Further sentences.
    """

    model: str
    lists: tuple[tuple[str, str, int], ...]
    segments: tuple[tuple[str, int], ...]
    left_out: tuple[str, ...]
    covered: float | None
    notes: tuple[str, ...]

    @property
    def best_flop_ratio(self) -> float | None:
        """FLOP ratio if no segment were ever computed: no plan can do better."""
        if self.covered is None:
            return None
        return 1 / max(1e-9, 1 - self.covered)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready form."""
        return asdict(self)

    def __str__(self) -> str:
        lines = [self.model]
        lines += [f"  bound     {name}: {count} x {block}" for name, block, count in self.lists]
        lines += [
            f"  segment   {name}: {flops / 1e9:.3g} GFLOP a call" for name, flops in self.segments
        ]
        lines += [f"  left out  {reason}" for reason in self.left_out]
        if self.covered is not None:
            lines.append(
                f"  covered   {self.covered:.1%} of the FLOPs, at most {self.best_flop_ratio:.1f}x fewer"
            )
        lines += [f"  note      {note}" for note in self.notes]
        return "\n".join(lines)


def diagnose(engine: Engine, notes: tuple[str, ...] = ()) -> Diagnosis:
    """Diagnose a model; before its first call only its lists of blocks are known."""
    found = list(notes)
    covered = None
    if engine.is_learned:
        total = engine.total_flops
        covered = sum(s.flops for s in engine.segments) / total if total else 0.0
        if not engine.segments:
            found.append("No block can be skipped: acceleration of this model does nothing.")
    else:
        found.append("The segments are learned from the first call.")
    structure = engine.structure
    if structure is not None and structure.layers:
        layers = structure.layers
        usable = [layer for layer in layers if layer.is_usable and layer.segment >= 0]
        found.append(
            f"{len(usable)} of {sum(len(f.blocks) for f in engine.binding.lists)} blocks can run on forecasts of "
            f"their submodules, {sum(layer.num_tokens > 0 for layer in usable)} of them for some tokens."
        )
    if engine.binding.is_compiled_outside:
        found.append(
            "The model was compiled as a whole; which step a call is, and what it skips, is decided outside."
        )
    return Diagnosis(
        model=type(engine.model).__name__,
        lists=tuple(
            (found_list.name, type(found_list.blocks[0]).__name__, len(found_list.blocks))
            for found_list in engine.binding.lists
        ),
        segments=tuple((s.name, s.flops) for s in engine.segments),
        left_out=tuple(engine.left_out),
        covered=covered,
        notes=tuple(found),
    )
