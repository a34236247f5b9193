# SPDX-License-Identifier: Apache-2.0
"""Hands a method the outputs or inputs of some blocks of a model, with their step, and changes nothing.

Methods that forecast nothing need no more than this: it uses the binding and a clock alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import nn

from genaccel.hooks.binding import Binding, Forward
from genaccel.hooks.blocks import CallFrame
from genaccel.hooks.clock import Clock, PipelineClock, Tick

# The place of a call in its run, and outputs or inputs of blocks in it, by the block's index in the model.
FeatureObserver = Callable[[Tick, Mapping[int, Any]], None]


class FeatureTap:
    """Watches blocks of one model in the calls that a clock knows, until :meth:`detach`.

    Args:
        model: Any model with lists of transformer blocks.
        clock: Tells which run and step a call belongs to.
        blocks: Indices of the blocks, from 0, in the order in which the model holds them; negative
            ones count from the last.
        observer: Called after each call.
        inputs: Whether it is handed what the blocks take, their first argument, and not what they return.

    Raises:
        ValueError: If the model has no blocks, or not so many.

    Example:
        >>> class Block(nn.Module):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.attn = nn.Linear(2, 2)
        ...
        ...     def forward(self, x):
        ...         return self.attn(x)
        >>> class Model(nn.Module):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.layers = nn.ModuleList([Block(), Block()])
        ...
        ...     def forward(self, x, timestep):
        ...         return self.layers[1](self.layers[0](x))
        >>> import torch
        >>> from genaccel.hooks.clock import TimestepClock
        >>> model, seen = Model(), []
        >>> tap = FeatureTap(
        ...     model, TimestepClock(model, 4), [0], lambda tick, kept: seen.append((tick.step, kept))
        ... )
        >>> _ = model(torch.ones(1, 2), torch.tensor(900.0))
        >>> seen[0][0], seen[0][1][0].shape
        (0, torch.Size([1, 2]))
        >>> tap.detach()
    """

    def __init__(
        self,
        model: nn.Module,
        clock: Clock,
        blocks: Sequence[int],
        observer: FeatureObserver,
        *,
        inputs: bool = False,
    ) -> None:
        self.binding = Binding.of(model)
        count = len(self.binding.block_hooks)
        self._clock = clock
        self._observer = observer
        self._inputs = inputs
        self._blocks = tuple(place % count for place in blocks)
        self.binding.add(self, first=isinstance(clock, PipelineClock))
        wrong = [place for place in blocks if not -count <= place < count]
        if wrong:
            self.detach()
            raise ValueError(f"blocks must be from 0 to {count - 1}, got {wrong[0]}")

    def claims(self) -> bool:
        """Whether the clock counts the call that begins in this context."""
        return self._clock.claims()

    def run_call(self, forward: Forward, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Make a call as the model would, and hand what the watched blocks return or take to the observer."""
        run, tick = self._clock.call_begins(self.binding.model, args, kwargs)
        frame = CallFrame([None] * len(self.binding.block_hooks))
        watched: dict[int, Any] = dict.fromkeys(self._blocks)
        if self._inputs:
            frame.captured_inputs = watched
        else:
            frame.captured = watched
        output = self.binding.in_frame(frame, forward, args, kwargs)
        self._observer(tick, watched)
        self._clock.call_ends(run, tick)
        return output

    def detach(self) -> None:
        """Leave the model as it was."""
        self.binding.remove(self)
        self._clock.close()
