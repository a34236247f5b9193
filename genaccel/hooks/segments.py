# SPDX-License-Identifier: Apache-2.0
"""Runs of blocks that can be skipped as one, learned from one real call.

A block's signature says what goes in, but not which output continues which input: 44 of diffusers'
block classes return the image states, 19 image and text, 15 text and image, some ``None`` in
between. So one call is watched: an output that is the next block's argument, the very object, is
the continuation of what that argument was one block earlier.
"""

from __future__ import annotations

import weakref
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from genaccel.hooks.blocks import BlockList, BlockPlace, OutputLayout

# Of arguments of equal shape, these are states more often than rotary tables or embeddings are.
_STATES_NAMES = ("hidden_states", "x", "encoder_hidden_states", "context")


@dataclass(frozen=True, slots=True, eq=False)
class Segment:
    """Consecutive blocks whose states flow through them and through nothing else.

    Attributes:
        index: Its place among the segments, in the order of execution.
        list_name: Path of the block list.
        first: Index of its first block in the list.
        blocks: Its blocks.
        layouts: How the output of each of them is built.
        entries: For each tensor that the segment returns, the argument of its first block that it
            continues; None for one that continues none.
        joins: For each block the arguments that are outputs of the block before, and which.
        flops: FLOPs of one call of all its blocks.
    """

    index: int
    list_name: str
    first: int
    blocks: tuple[nn.Module, ...]
    layouts: tuple[OutputLayout, ...]
    entries: tuple[str | None, ...]
    joins: tuple[tuple[tuple[str, int], ...], ...]
    flops: int

    @property
    def places(self) -> list[BlockPlace]:
        """The place of each of its blocks, in their order."""
        last = len(self.blocks) - 1
        return [
            BlockPlace(
                segment=self.index,
                is_first=i == 0,
                is_last=i == last,
                layout=layout,
                entries=self.entries,
                forecast_of=_forecast_of(layout, self) if i == 0 else (),
                joins=() if i == 0 else joins,
            )
            for i, (layout, joins) in enumerate(zip(self.layouts, self.joins, strict=True))
        ]

    @property
    def name(self) -> str:
        """The list and the blocks of the segment, such as ``transformer_blocks[0:12]``."""
        return f"{self.list_name}[{self.first}:{self.first + len(self.blocks)}]"


@dataclass(slots=True, eq=False)
class _Call:
    list_index: int
    block_index: int
    arguments: dict[str, tuple[Any, ...]]  # tensors by name: shape and dtype
    leaves: list[weakref.ref[Tensor] | None]
    sources: list[str | None]
    container: type | None
    usable: bool
    flops: int
    # Argument that is an output of the call before -> which of its outputs.
    continues: dict[str, int]
    used_later: bool = False  # by a call that is not the next one


class SegmentLearner:
    """Watches the blocks of a model through one call.

    Args:
        lists: The model's lists of blocks.
        max_blocks: Longest run of blocks that becomes one segment; None for any.
        keeps_added: Whether to keep what each segment added, so that the call that is watched can be
            forecast from like any other.
    """

    def __init__(
        self,
        lists: Sequence[BlockList],
        *,
        max_blocks: int | None = None,
        keeps_added: bool = False,
    ) -> None:
        self._lists = lists
        self._max_blocks = max_blocks
        self._keeps_added = keeps_added
        self._calls: list[_Call] = []
        self._returned: dict[int, Tensor] = {}  # copies of what the last block returned
        # Of the run of blocks at hand: its first call, that one's arguments, and the last outputs.
        self._begin = 0
        self._bases: dict[str, Tensor] = {}
        self._leaves: tuple[Tensor, ...] = ()
        self._added: dict[tuple[int, int], tuple[Tensor, ...]] = {}  # by first call and length

    def block_called(
        self,
        list_index: int,
        block_index: int,
        arguments: dict[str, Tensor],
        copies: dict[str, Tensor],
        output: Any,
        *,
        flops: int = 0,
    ) -> None:
        """Record one call of one block, after it returned.

        Args:
            list_index: Index of the list that the block is in.
            block_index: Index of the block in the list.
            arguments: Its tensor arguments by name, in the order of its signature.
            copies: Copies of them from before the call.
            output: Output of the block.
            flops: FLOPs of the call.
        """
        continues: dict[str, int] = {}
        for name, value in arguments.items():
            for distance, earlier in enumerate(reversed(self._calls)):
                place = _place_of(value, earlier.leaves)
                if place is None:
                    continue
                if distance == 0:
                    # The model may have added something to it in place, between the blocks.
                    if _equal(copies[name], self._returned[place]):
                        continues[name] = place
                else:
                    earlier.used_later = True
                break  # the latest block that returned it is where it comes from
        if self._calls:
            _correct_sources(self._calls[-1], continues)
        container = type(output) if isinstance(output, tuple | list) else None
        leaves = tuple(output) if container else (output,)
        in_place = any(not _equal(arguments[n], copies[n]) for n in arguments)
        self._returned = {i: v.clone() for i, v in enumerate(leaves) if isinstance(v, Tensor)}
        kinds = {name: _kind(value) for name, value in arguments.items()}
        self._calls.append(
            _Call(
                list_index=list_index,
                block_index=block_index,
                arguments=kinds,
                leaves=[weakref.ref(v) if isinstance(v, Tensor) else None for v in leaves],
                sources=_guess_sources(leaves, kinds),
                container=container,
                usable=any(isinstance(v, Tensor) for v in leaves)
                and all(v is None or _is_state(v) for v in leaves)
                and not in_place,
                flops=flops,
                continues=continues,
            )
        )
        if self._keeps_added:
            self._keep(copies)

    def _keep(self, bases: dict[str, Tensor]) -> None:
        """Follow the run of blocks at hand, as far as it is known while the call goes on."""
        now = len(self._calls) - 1
        length = now - self._begin
        goes_on = (
            length > 0
            and length != self._max_blocks
            and self._calls[now - 1].usable
            and self._calls[now].usable
            and _joins(self._calls[now - 1], self._calls[now])
        )
        if not goes_on:
            self._close(now)
            self._begin, self._bases = now, bases
        # The copies: what was returned is the model's to change in place.
        self._leaves = tuple(self._returned[i] for i in sorted(self._returned))

    def _close(self, end: int) -> None:
        run = self._calls[self._begin : end]
        if run and all(call.usable for call in run):
            self._added[self._begin, len(run)] = tuple(
                (leaf if name is None else leaf - self._bases[name]).detach()
                for name, leaf in zip(_entries(run), self._leaves, strict=True)
            )
        self._bases, self._leaves = {}, ()

    def segments(self) -> list[Segment]:
        """The segments that were learned.

        Returns:
            Segments in the order of execution. Blocks that were not called, or more than once, or
            that change their arguments in place or return something else than tensors, are in none.
        """
        return [self._segment(index, run) for index, run in enumerate(self._runs())]

    def added(self) -> list[tuple[Tensor, ...] | None]:
        """Tensors that each segment added in the watched call; None where that was known too late."""
        self._close(len(self._calls))
        places = {id(call): i for i, call in enumerate(self._calls)}
        return [self._added.get((places[id(run[0])], len(run))) for run in self._runs()]

    def _runs(self) -> list[list[_Call]]:
        counts = Counter((c.list_index, c.block_index) for c in self._calls)
        runs: list[list[_Call]] = []
        previous: _Call | None = None
        for call in self._calls:
            if counts[call.list_index, call.block_index] > 1 or not call.usable:
                previous = None
                continue
            full = bool(runs) and len(runs[-1]) == self._max_blocks
            if previous is not None and not full and _joins(previous, call):
                runs[-1].append(call)
            else:
                runs.append([call])
            previous = call
        return runs

    def left_out(self) -> list[str]:
        """Blocks that are in no segment, as ``list[index]``, and why."""
        counts = Counter((c.list_index, c.block_index) for c in self._calls)
        usable = {(c.list_index, c.block_index): c.usable for c in self._calls}
        reasons = []
        for i, found in enumerate(self._lists):
            for b in range(len(found.blocks)):
                if counts[i, b] == 0:
                    reasons.append(f"{found.name}[{b}] was not called")
                elif counts[i, b] > 1:
                    reasons.append(f"{found.name}[{b}] is called {counts[i, b]} times a step")
                elif not usable[i, b]:
                    reasons.append(
                        f"{found.name}[{b}] changes its arguments in place or returns something else than tensors"
                    )
        return reasons

    def _segment(self, index: int, run: list[_Call]) -> Segment:
        found = self._lists[run[0].list_index]
        return Segment(
            index=index,
            list_name=found.name,
            first=run[0].block_index,
            blocks=tuple(found.blocks[call.block_index] for call in run),
            layouts=tuple(
                OutputLayout(
                    tuple(call.sources), tuple(leaf is None for leaf in call.leaves), call.container
                )
                for call in run
            ),
            entries=_entries(run),
            joins=tuple(tuple(call.continues.items()) for call in run),
            flops=sum(call.flops for call in run),
        )


def _forecast_of(layout: OutputLayout, segment: Segment) -> tuple[int, ...]:
    """For each output of the first block, which tensor of the segment continues it, or -1."""
    if len(segment.blocks) == 1:
        present = iter(range(len(segment.entries)))
        return tuple(-1 if absent else next(present) for absent in layout.absent)
    return tuple(
        segment.entries.index(source) if source is not None and source in segment.entries else -1
        for source in layout.sources
    )


def _kind(value: Tensor) -> tuple[Any, ...]:
    return (tuple(value.shape), value.dtype)


def _equal(a: Tensor, b: Tensor) -> bool:
    """Whether nothing changed; a NaN that is still one has not."""
    if torch.equal(a, b):
        return True
    return a.shape == b.shape and torch.allclose(a, b, rtol=0.0, atol=0.0, equal_nan=True)


def _is_state(value: Any) -> bool:
    return isinstance(value, Tensor) and value.is_floating_point()


def _place_of(value: Tensor, leaves: Sequence[weakref.ref[Tensor] | None]) -> int | None:
    for place, reference in enumerate(leaves):
        if reference is not None and reference() is value:
            return place
    return None


def _guess_sources(
    leaves: Sequence[Any], arguments: dict[str, tuple[Any, ...]]
) -> list[str | None]:
    """Arguments that outputs continue by shape and dtype alone, each at most once."""
    # Stable: among the others, the order of the signature.
    order = sorted(arguments, key=lambda n: _STATES_NAMES.index(n) if n in _STATES_NAMES else 99)
    sources: list[str | None] = []
    for leaf in leaves:
        fits = (
            n
            for n in order
            if n not in sources and isinstance(leaf, Tensor) and arguments[n] == _kind(leaf)
        )
        sources.append(next(fits, None))
    return sources


def _correct_sources(call: _Call, continues: dict[str, int]) -> None:
    """Replace guesses by the names under which the next block takes the outputs."""
    for name, place in continues.items():
        leaf = call.leaves[place]
        value = leaf() if leaf is not None else None
        if value is None or call.arguments.get(name) != _kind(value):
            continue
        if name in call.sources:  # two outputs of equal shape, guessed the wrong way round
            call.sources[call.sources.index(name)] = call.sources[place]
        call.sources[place] = name


def _joins(previous: _Call, call: _Call) -> bool:
    """Whether a call adds to what the one before returned, so that both can be skipped as one."""
    if previous.list_index != call.list_index or previous.used_later:
        return False
    returned = {i for i, leaf in enumerate(previous.leaves) if leaf is not None}
    if any(previous.sources[i] is None for i in returned):
        return False
    if returned != set(call.continues.values()) or len(returned) != len(call.continues):
        return False
    taken = [s for s, leaf in zip(call.sources, call.leaves, strict=True) if leaf is not None]
    return all(source in call.continues for source in taken)


def _entries(run: Sequence[_Call]) -> tuple[str | None, ...]:
    """Arguments of the first call that the tensors of the last one continue."""
    entries: list[str | None] = []
    for source, leaf in zip(run[-1].sources, run[-1].leaves, strict=True):
        if leaf is None:
            continue
        name = source
        for earlier, later in zip(reversed(run[:-1]), reversed(run[1:]), strict=True):
            name = None if name is None else earlier.sources[later.continues[name]]
        entries.append(name)
    return tuple(entries)
