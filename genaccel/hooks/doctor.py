# SPDX-License-Identifier: Apache-2.0
"""What was bound in a model, and what of it does nothing."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from genaccel.hooks.attachment import Attachment


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """What an attachment found in one model.

    Attributes:
        model: Class name.
        lists: Path, block class and number of blocks of every list that was found.
        segments: Runs of blocks that are skipped as one: name, FLOPs of a call; empty before the
            first call.
        left_out: Blocks that are always computed, and why.
        covered: Share of the model's FLOPs that lies in segments; None before the first call.
        notes: What is worth knowing, a sentence each.
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


def diagnose(attachment: Attachment, notes: tuple[str, ...] = ()) -> Diagnosis:
    """What was found in a model; without a call yet, only the lists of blocks."""
    found = list(notes)
    covered = None
    if attachment.is_learned:
        total = attachment.total_flops
        covered = sum(s.flops for s in attachment.segments) / total if total else 0.0
        if not attachment.segments:
            found.append("No block can be skipped: acceleration of this model does nothing.")
    else:
        found.append("The segments are learned from the first call.")
    if attachment.partial_steps is not None and attachment.is_learned:
        layers = attachment.partial_steps.layers
        usable = [layer for layer in layers if layer.is_usable and layer.segment >= 0]
        found.append(
            f"{len(usable)} of {sum(len(f.blocks) for f in attachment.lists)} blocks can run on forecasts of "
            f"their modules, {sum(layer.num_tokens > 0 for layer in usable)} of them for some tokens."
        )
    if attachment.is_compiled_outside:
        found.append(
            "The model was compiled as a whole; steps are counted outside of compiled code, which "
            "breaks its graph once: handle.compile() does not."
        )
    return Diagnosis(
        model=type(attachment.model).__name__,
        lists=tuple(
            (found_list.name, type(found_list.blocks[0]).__name__, len(found_list.blocks))
            for found_list in attachment.lists
        ),
        segments=tuple((s.name, s.flops) for s in attachment.segments),
        left_out=tuple(attachment.left_out),
        covered=covered,
        notes=tuple(found),
    )
