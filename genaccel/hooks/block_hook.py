# SPDX-License-Identifier: Apache-2.0
"""The hook on one block: it computes, keeps what its segment added, or passes on with a forecast."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from diffusers.hooks.hooks import ModelHook
from torch import Tensor, nn

from genaccel.hooks.block_lists import Parameters
from genaccel.hooks.segments import OutputLayout, Segment

if TYPE_CHECKING:
    from genaccel.hooks.attachment import Attachment

HOOK_NAME = "genaccel"

PLAIN, STORE, SKIP = 0, 1, 2


class Frame:
    """What the hooks of the blocks read and write during a call. Lists only, for the compiler's sake."""

    __slots__ = ("actions", "added", "bases", "forecasts")

    def __init__(self, count: int) -> None:
        self.actions = [PLAIN] * count
        self.bases: list[tuple[Any, ...] | None] = [None] * count
        self.forecasts: list[tuple[Tensor, ...]] = [()] * count
        self.added: list[tuple[Tensor, ...] | None] = [None] * count


class BlockHook(ModelHook):
    """On one block; knows its place once the first call is over."""

    fn_ref: Any

    def __init__(self, attachment: Attachment, list_index: int, block_index: int) -> None:
        super().__init__()
        self.attachment = attachment
        self.place = (list_index, block_index)
        self.parameters: Parameters
        self.segment = -1
        self.is_first = self.is_last = False
        self.layout: OutputLayout
        self.entries: tuple[str | None, ...] = ()
        # For each output of the first block: which forecast it is, or -1.
        self.forecast_of: tuple[int, ...] = ()

    def initialize_hook(self, module: nn.Module) -> nn.Module:
        self.parameters = Parameters(module)
        return module

    def new_forward(self, module: nn.Module, *args: Any, **kwargs: Any) -> Any:
        attachment = self.attachment
        if attachment.learner is not None:
            return attachment.watch(module, self, args, kwargs)
        if self.segment < 0:
            return self.fn_ref.original_forward(*args, **kwargs)
        frame = attachment.frame
        action = frame.actions[self.segment]
        if action == PLAIN:
            return self.fn_ref.original_forward(*args, **kwargs)
        if action == SKIP:
            return self._skip(frame, args, kwargs)
        if self.is_first:
            frame.bases[self.segment] = tuple(
                None if name is None else self.parameters.get(name, args, kwargs)
                for name in self.entries
            )
        output = self.fn_ref.original_forward(*args, **kwargs)
        if self.is_last:
            bases = frame.bases[self.segment]
            leaves = [leaf for leaf in self.layout.leaves(output) if leaf is not None]
            # What is kept must not be the model's to change in place.
            frame.added[self.segment] = tuple(
                leaf.clone() if base is None else leaf - base
                for leaf, base in zip(leaves, bases or (), strict=True)
            )
            frame.bases[self.segment] = None
        return output

    def _skip(self, frame: Frame, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        forecasts = frame.forecasts[self.segment]
        leaves: list[Any] = []
        for place, source in enumerate(self.layout.sources):
            base = None if source is None else self.parameters.get(source, args, kwargs)
            if self.is_first and self.forecast_of[place] >= 0:
                forecast = forecasts[self.forecast_of[place]]
                leaves.append(forecast.clone() if base is None else base + forecast)
            else:
                leaves.append(base)
        return self.layout.build(leaves)


def remove_hook(registry: Any) -> None:
    """Take our hook out of a module's chain.

    diffusers hands what we wrapped to the hook above as its ``forward``, even where that hook has a
    forward of its own, which is then lost.
    """
    place = registry._hook_order.index(HOOK_NAME)
    above = registry._fn_refs[place + 1] if place + 1 < len(registry._fn_refs) else None
    if above is None or above.original_forward is None:
        registry.remove_hook(HOOK_NAME, recurse=False)
        return
    kept = above.forward
    registry.remove_hook(HOOK_NAME, recurse=False)
    above.forward, above.original_forward = kept, above.forward


def forecast_of(layout: OutputLayout, segment: Segment) -> tuple[int, ...]:
    """For each output of the first block, which tensor of the segment continues it, or -1."""
    if len(segment.blocks) == 1:
        present = iter(range(len(segment.entries)))
        return tuple(-1 if absent else next(present) for absent in layout.absent)
    return tuple(
        segment.entries.index(source) if source is not None and source in segment.entries else -1
        for source in layout.sources
    )
