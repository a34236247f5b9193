# SPDX-License-Identifier: Apache-2.0
"""Finds the transformer blocks of a model, and hooks each of them.

The frame of the current call tells a hook what to do. It belongs to one thread: pipelines in several
threads may share weights, and what one of them accelerates the others compute.
"""

from __future__ import annotations

import inspect
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from diffusers.hooks.hooks import ModelHook
from torch import Tensor, nn

PLAIN, STORE, SKIP = 0, 1, 2


@dataclass(frozen=True, slots=True, eq=False)
class BlockList:
    """Blocks that a model calls one after another.

    Attributes:
        name: Path of the list in the model, such as "transformer_blocks".
        blocks: Its blocks.
    """

    name: str
    blocks: tuple[nn.Module, ...]


def find_block_lists(model: nn.Module) -> list[BlockList]:
    """Every outermost ``ModuleList`` whose entries all hold attention, in the order of the model.

    diffusers names such lists in twenty ways (``blocks``, ``transformer_blocks``, ``layers``,
    ``double_stream_blocks``...), so what they hold decides, not what they are called.

    Example:
        >>> class Block(nn.Module):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.attn = nn.Identity()
        >>> model = nn.Module()
        >>> model.layers = nn.ModuleList([Block(), Block()])
        >>> model.projections = nn.ModuleList([nn.Linear(1, 1)])
        >>> [(found.name, len(found.blocks)) for found in find_block_lists(model)]
        [('layers', 2)]
    """
    found: list[BlockList] = []

    def visit(module: nn.Module, path: str) -> None:
        for name, child in module.named_children():
            child_path = f"{path}.{name}" if path else name
            if isinstance(child, nn.ModuleList) and len(child) and all(map(_has_attention, child)):
                found.append(BlockList(child_path, tuple(child)))
            else:
                visit(child, child_path)

    visit(model, "")
    return found


def _has_attention(block: nn.Module) -> bool:
    if isinstance(block, nn.ModuleList):
        return False
    return any(
        "attn" in name.rpartition(".")[2].lower() or "attention" in type(module).__name__.lower()
        for name, module in block.named_modules()
        if name
    )


class Parameters:
    """Names and positions of a module's arguments, so that keyword and positional calls are one.

    Args:
        module: The module. Names are read off its class, as hooks replace the instance's ``forward``.
    """

    __slots__ = ("names", "position")

    def __init__(self, module: nn.Module) -> None:
        kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
        parameters = list(inspect.signature(type(module).forward).parameters.values())[1:]
        self.names = tuple(p.name for p in parameters if p.kind in kinds)
        self.position = {name: i for i, name in enumerate(self.names)}

    def get(self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """The argument of that name, or None where the call leaves it out."""
        position = self.position.get(name, len(args))
        return args[position] if position < len(args) else kwargs.get(name)

    def tensors(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Tensor]:
        """Arguments that are tensors, by name, in the order of the signature."""
        named = {**dict(zip(self.names, args, strict=False)), **kwargs}
        ordered = sorted(named, key=lambda name: self.position.get(name, len(self.names)))
        return {n: value for n in ordered if isinstance(value := named[n], Tensor)}


@dataclass(frozen=True, slots=True)
class OutputLayout:
    """Layout of a block's output: a tensor, or a container of tensors and None.

    Attributes:
        sources: For each output the name of the argument that it continues; None for one that
            continues none.
        absent: For each output whether it was ``None``.
        container: ``tuple`` or ``list``, or None if the output is a bare tensor.
    """

    sources: tuple[str | None, ...]
    absent: tuple[bool, ...]
    container: type | None

    def leaves(self, output: Any) -> tuple[Any, ...]:
        """The outputs, in their order."""
        return (output,) if self.container is None else tuple(output)

    def build(self, leaves: Sequence[Any]) -> Any:
        """Build the output that the block would return from its leaves."""
        return leaves[0] if self.container is None else self.container(leaves)


@dataclass(frozen=True, slots=True, eq=False)
class BlockPlace:
    """Place of a block in its segment.

    Attributes:
        segment: Index of the segment.
        is_first: Whether the segment begins with it.
        is_last: Whether the segment ends with it.
        layout: How its output is built.
        entries: For each tensor that the segment returns, the argument of its first block that the
            tensor continues; None for one that continues none.
        forecast_of: For each output of the first block, which tensor of the segment continues it,
            or -1.
        joins: Argument and place in what the block before returned, for each tensor that goes from
            one to the other untouched; empty for the first block.
    """

    segment: int
    is_first: bool
    is_last: bool
    layout: OutputLayout
    entries: tuple[str | None, ...]
    forecast_of: tuple[int, ...]
    joins: tuple[tuple[str, int], ...]


class CallFrame:
    """Instructions to the hooks of a model for one call, and what these hand back.

    It holds lists only, which ``torch.compile`` can follow.

    Args:
        places: Place of each block, by the index of its hook; None for one in no segment.
        num_segments: Number of segments, G.

    Attributes:
        actions: What to do with each segment: ``PLAIN`` computes, ``STORE`` also keeps what it added,
            ``SKIP`` passes on with a forecast.
        forecasts: For each skipped segment, a forecast of what it adds to each tensor it returns.
        added: For each stored segment, what it added to each tensor it returns.
        called: Indices of the hooks that were called, in their order.
        broken: A reason for each place where the call is not built as was learned.
        captured: Outputs of blocks by index; only blocks that it has a key for are captured.
        captured_inputs: Likewise what blocks take: their first argument.
        watcher: Runs a block in its hook's stead, where a call is learned from: takes the hook and what its
            :meth:`BlockHook.run` takes.
        submodules: The frame of the hooks within blocks; None where there are none.
        time_window: Times that the model is given the mean of; None for its own time.
        seen_times: What each ``Timesteps`` of the model is given, with the index of its pair; None
            where nobody needs it.
    """

    __slots__ = (
        "actions",
        "added",
        "bases",
        "broken",
        "called",
        "captured",
        "captured_inputs",
        "forecasts",
        "last",
        "places",
        "seen_times",
        "submodules",
        "time_window",
        "watcher",
    )

    def __init__(
        self, places: list[BlockPlace | None] | None = None, num_segments: int = 0
    ) -> None:
        self.places = places
        self.actions = [PLAIN] * num_segments
        self.bases: list[tuple[Any, ...] | None] = [None] * num_segments
        self.forecasts: list[tuple[Tensor, ...]] = [()] * num_segments
        self.added: list[tuple[Tensor, ...] | None] = [None] * num_segments
        self.called: list[int] = []
        self.broken: list[str] = []
        self.last: list[Any] = []  # what the block before returned, within a segment
        self.captured: dict[int, Any] = {}
        self.captured_inputs: dict[int, Any] = {}
        self.watcher: Callable[..., Any] | None = None
        # A SubmoduleFrame and a TimeWindow, of files that build on this one.
        self.submodules: Any = None
        self.time_window: Any = None
        self.seen_times: list[tuple[int, Any]] | None = None


class CurrentFrame(threading.local):
    """Holds the frame of the call that this thread is in; None where the model computes plainly."""

    def __init__(self) -> None:
        self.frame: CallFrame | None = None


class BlockHook(ModelHook):
    """The hook on one block: it computes, keeps what its segment added, or passes on with a forecast.

    Args:
        current: Tells the frame of the call that a thread is in.
        index: Index of the block among all of the model.
        list_index: Index of the list that it is in.
        block_index: Index of the block in the list.
    """

    fn_ref: Any

    def __init__(
        self, current: CurrentFrame, index: int, list_index: int, block_index: int
    ) -> None:
        super().__init__()
        self.current = current
        self.index = index
        self.place = (list_index, block_index)
        self.parameters: Parameters

    def initialize_hook(self, module: nn.Module) -> nn.Module:
        self.parameters = Parameters(module)
        return module

    def new_forward(self, module: nn.Module, *args: Any, **kwargs: Any) -> Any:
        return self.run(self.fn_ref.original_forward, args, kwargs)

    def run(
        self, forward: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        """Do with the block what the frame of the current call says; ``forward`` computes it."""
        frame = self.current.frame
        if frame is None:
            return forward(*args, **kwargs)
        if frame.watcher is not None:
            return frame.watcher(self, forward, args, kwargs)
        frame.called.append(self.index)
        if self.index in frame.captured_inputs:
            name = self.parameters.names[0]
            frame.captured_inputs[self.index] = self.parameters.get(name, args, kwargs)
        place = None if frame.places is None else frame.places[self.index]
        if place is None or frame.actions[place.segment] == PLAIN:
            output = forward(*args, **kwargs)
        elif frame.actions[place.segment] == SKIP:
            output = self._skip(frame, place, args, kwargs)
        else:
            output = self._store(frame, place, forward, args, kwargs)
        if self.index in frame.captured:
            frame.captured[self.index] = output
        return output

    def _store(
        self,
        frame: CallFrame,
        place: BlockPlace,
        forward: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> Any:
        segment = place.segment
        if place.is_first:
            frame.bases[segment] = tuple(
                None if name is None else self.parameters.get(name, args, kwargs)
                for name in place.entries
            )
        elif not torch.compiler.is_compiling():
            for name, leaf in place.joins:
                if self.parameters.get(name, args, kwargs) is not frame.last[leaf]:
                    frame.broken.append(f"{name} changes before block {self.place[1]}")
        output = forward(*args, **kwargs)
        leaves = place.layout.leaves(output)
        frame.last = [] if place.is_last else list(leaves)
        if place.is_last:
            bases = frame.bases[segment]
            # What is kept must not be the model's to change in place.
            frame.added[segment] = tuple(
                leaf.clone() if base is None else leaf - base
                for leaf, base in zip(
                    [leaf for leaf in leaves if leaf is not None], bases or (), strict=True
                )
            )
            frame.bases[segment] = None
        return output

    def _skip(
        self, frame: CallFrame, place: BlockPlace, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        forecasts = frame.forecasts[place.segment]
        leaves: list[Any] = []
        for i, source in enumerate(place.layout.sources):
            base = None if source is None else self.parameters.get(source, args, kwargs)
            if place.is_first and place.forecast_of[i] >= 0:
                forecast = forecasts[place.forecast_of[i]]
                leaves.append(forecast.clone() if base is None else base + forecast)
            else:
                leaves.append(base)
        return place.layout.build(leaves)
