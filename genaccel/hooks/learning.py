# SPDX-License-Identifier: Apache-2.0
"""Learns from one watched call how a model is built in calls of that kind."""

from __future__ import annotations

import contextlib
import functools
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass
from typing import Any

from torch import Tensor
from torch.utils._pytree import tree_leaves

from genaccel.hooks.binding import Binding
from genaccel.hooks.blocks import BlockHook, BlockPlace, CallFrame
from genaccel.hooks.director import Structure
from genaccel.hooks.flop_count import FlopCount
from genaccel.hooks.segments import SegmentLearner
from genaccel.hooks.submodules import AllTokens, LayerWatcher, SubmoduleFrame, SubmoduleHooks
from genaccel.hooks.time_window import TimeScale

# Kinds of calls that are remembered: shapes of prompts and pictures differ from run to run.
_MOST_KINDS = 64
# A kind of call that was found to be built otherwise so often is computed in full from then on.
_MOST_SURPRISES = 3


@dataclass(eq=False)
class Layout:
    """The layout of a model in one kind of call: its structure, and what its hooks need to know.

    Attributes:
        structure: The part of it that directors see.
        places: Where each block stands, by the index of its hook.
        called: Indices of the hooks, in the order of their calls.
        time_scale: How the model embeds the time; None where that is unknown.
    """

    structure: Structure
    places: list[BlockPlace | None]
    called: list[int]
    time_scale: TimeScale | None = None


class KnownLayouts:
    """Layouts by the kind of call, as long as calls turn out to be as was learned."""

    def __init__(self) -> None:
        self._layouts: OrderedDict[Hashable, Layout] = OrderedDict()
        self._surprises: dict[Hashable, int] = {}

    def get(self, kind: Hashable) -> Layout | None:
        """The layout of a kind of call; None where it is to be learned."""
        layout = self._layouts.get(kind)
        if layout is not None:
            self._layouts.move_to_end(kind)
        return layout

    def keep(self, kind: Hashable, layout: Layout) -> None:
        """Remember a layout; those of kinds that were not seen for long are forgotten."""
        self._layouts[kind] = layout
        while len(self._layouts) > _MOST_KINDS:
            self._layouts.popitem(last=False)

    def surprised(self, kind: Hashable) -> None:
        """Forget the layout of a kind, after a call that was not built like it."""
        self._layouts.pop(kind, None)
        self._surprises[kind] = self._surprises.get(kind, 0) + 1

    def is_unsteady(self, kind: Hashable) -> bool:
        """Whether calls of this kind surprised so often that they are better computed in full."""
        return self._surprises.get(kind, 0) >= _MOST_SURPRISES


class CallWatcher:
    """Runs the blocks of a call that is learned from.

    Args:
        binding: The binding of the model.
        hooks: The hooks on the submodules of its blocks, or None.
        counter: Counter of the FLOPs of the call.
        frame: Frame of the call; the watcher is put into it.
        max_blocks: Longest segment.
        keeps_added: Whether the learner is to keep what segments add.

    Attributes:
        error: First error of our own in recording the call; None while all is well.
    """

    def __init__(
        self,
        binding: Binding,
        hooks: SubmoduleHooks | None,
        counter: FlopCount,
        frame: CallFrame,
        max_blocks: int | None,
        keeps_added: bool,
    ) -> None:
        self.learner = SegmentLearner(binding.lists, max_blocks=max_blocks, keeps_added=keeps_added)
        self._binding = binding
        self._counter = counter
        self._frame = frame
        self.error: Exception | None = None
        self._called: list[int] = []
        self._layers: LayerWatcher | None = None
        frame.watcher = self.watch
        if hooks is not None:
            self._layers = LayerWatcher(hooks, counter)
            frame.submodules = SubmoduleFrame(AllTokens(), len(hooks.blocks))
            frame.submodules.watcher = self._layers

    def watch(
        self,
        hook: BlockHook,
        forward: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> Any:
        """Run a block, and record its arguments, outputs and FLOPs."""
        arguments: dict[str, Tensor] = {}
        copies: dict[str, Tensor] = {}
        with self._noting():
            arguments = hook.parameters.tensors(args, kwargs)
            copies = {name: value.clone() for name, value in arguments.items()}
        before = self._counter.total
        output = forward(*args, **kwargs)
        flops = self._counter.total - before
        with self._noting():
            self._called.append(hook.index)
            self.learner.block_called(*hook.place, arguments, copies, output, flops=flops)
            if self._layers is not None:
                block = self._binding.block_of(hook)
                again = functools.partial(forward, *args, **kwargs)
                self._layers.block_watched(block, self._frame, again, output)
        return output

    @contextlib.contextmanager
    def _noting(self) -> Iterator[None]:
        """Catch errors within the ``with``: they are ours, and no reason for the call to fail."""
        try:
            yield
        except Exception as error:
            self.error = self.error or error

    def layout(self, input_shape: tuple[int, ...], total_flops: int, output: Any) -> Layout:
        """The layout that was learned, once the call is over.

        Args:
            input_shape: Shape of the model's states.
            total_flops: FLOPs of the call.
            output: Output of the model.
        """
        segments = tuple(self.learner.segments())
        places: list[BlockPlace | None] = [None] * len(self._binding.block_hooks)
        for segment in segments:
            for block, place in zip(segment.blocks, segment.places, strict=True):
                places[self._binding.hook_of(block).index] = place
        layers = [] if self._layers is None else self._layers.finish()
        owners = {id(b): segment.index for segment in segments for b in segment.blocks}
        for layer in layers:
            layer.segment = owners.get(id(layer.block), -1)
        structure = Structure(
            segments,
            tuple(layers),
            total_flops,
            input_shape,
            tuple(self.learner.left_out()),
            sum(v.numel() * v.element_size() for v in tree_leaves(output) if isinstance(v, Tensor)),
        )
        return Layout(structure, places, self._called)
