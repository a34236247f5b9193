# SPDX-License-Identifier: Apache-2.0
"""Hooks on one model: they watch its first call, then compute or forecast each segment as they are told.

Data flow of a call: the clock says the step; the director decides for each segment; forecasts of
all skipped segments are made in one go; the model runs, its blocks computing or passing through;
what computed segments added is kept for later forecasts. All decisions are taken outside the
model's forward, so that a compiled forward holds no branch on data or on the step.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from diffusers.hooks.hooks import HookRegistry, ModelHook
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from genaccel.hooks.block_lists import BlockList, Parameters, find_block_lists
from genaccel.hooks.direction import Decision, Director, Memory
from genaccel.hooks.flop_count import FlopCount
from genaccel.hooks.segments import OutputLayout, Segment, SegmentLearner
from genaccel.hooks.step_clock import StepClock, Tick
from genaccel.ops.forecast import predict_add

HOOK_NAME = "genaccel"

_PLAIN, _STORE, _SKIP = 0, 1, 2

_COMPILE_ADVICE = (
    "genaccel counts steps outside of compiled code: call handle.compile(fullgraph=True) "
    "instead of compiling the model"
)


@dataclass(frozen=True, slots=True)
class CallRecord:
    """What happened in one call of the model.

    Attributes:
        tick: Which call.
        computed: For each segment whether it was.
        seconds: Of the call, on the host; a GPU may still have been at work.
    """

    tick: Tick
    computed: tuple[bool, ...]
    seconds: float


class _Frame:
    """What the hooks of the blocks read and write during a call. Lists only, for the compiler's sake."""

    __slots__ = ("actions", "added", "bases", "forecasts")

    def __init__(self, count: int) -> None:
        self.actions = [_PLAIN] * count
        self.bases: list[tuple[Any, ...] | None] = [None] * count
        self.forecasts: list[tuple[Tensor, ...]] = [()] * count
        self.added: list[tuple[Tensor, ...] | None] = [None] * count


class _BlockHook(ModelHook):
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
            return attachment.watch(self, args, kwargs)
        if self.segment < 0:
            return self.fn_ref.original_forward(*args, **kwargs)
        frame = attachment.frame
        action = frame.actions[self.segment]
        if action == _PLAIN:
            return self.fn_ref.original_forward(*args, **kwargs)
        if action == _SKIP:
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

    def _skip(self, frame: _Frame, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
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


class _RootHook(ModelHook):
    """On the model itself."""

    fn_ref: Any

    def __init__(self, attachment: Attachment) -> None:
        super().__init__()
        self.attachment = attachment

    def new_forward(self, module: nn.Module, *args: Any, **kwargs: Any) -> Any:
        attachment, forward = self.attachment, self.fn_ref.original_forward
        attachment.begin_call(forward, args, kwargs)
        try:
            output = (attachment.compiled or forward)(*args, **kwargs)
            attachment.end_call()
        except BaseException:
            attachment.reset()
            raise
        return output


class AlreadyEnabledError(ValueError):
    """The model is accelerated already."""


class CacheBudgetError(ValueError):
    """The least that forecasts need is more than the memory they may hold."""


class Attachment:
    """One accelerated model.

    Args:
        model: Any model with lists of transformer blocks.
        clock: Which step a call belongs to.
        director: What is computed in it.
        max_blocks: Longest run of blocks that is skipped as one, or None for any.
        max_bytes: Most bytes that are kept for forecasts, or None for no limit. The oldest go first,
            which lowers the order of forecasts.

    Raises:
        AlreadyEnabledError: If the model is attached already.
        ValueError: If it has no lists of transformer blocks.
    """

    def __init__(
        self,
        model: nn.Module,
        clock: StepClock,
        director: Director,
        *,
        max_blocks: int | None = None,
        max_bytes: int | None = None,
    ) -> None:
        # torch.compile(model) wraps it; the hooks belong to what is inside.
        self.model: Any = getattr(model, "_orig_mod", model)
        self._was_wrapped = self.model is not model
        self.lists: list[BlockList] = find_block_lists(self.model)
        if not self.lists:
            raise ValueError(
                f"{type(self.model).__name__} has no list of transformer blocks, so there is nothing to accelerate"
            )
        registry = HookRegistry.check_if_exists_or_initialize(self.model)
        if registry.get_hook(HOOK_NAME) is not None:
            raise AlreadyEnabledError(
                f"{type(self.model).__name__} is accelerated already; call disable() on its handle first"
            )
        self.clock = clock
        self.director = director
        self.max_blocks = max_blocks
        self.max_bytes = max_bytes
        self.input_shape: tuple[int, ...] = ()
        self.is_paused = False
        self.compiled: Callable[..., Any] | None = None
        self.copy_outputs = False
        self.learner: SegmentLearner | None = None
        self.left_out: list[str] = []
        self.segments: list[Segment] = []
        self.total_flops = 0
        self.peak_bytes = 0
        self.records: list[CallRecord] = []  # of the last run
        self.frame = _Frame(0)
        self._streams: dict[int, list[Memory]] = {}
        self._signatures: dict[int, Any] = {}
        self._run: int | None = None
        self._began = 0.0
        self._pending: tuple[Tick, list[Memory]] | None = None
        self._counter: FlopCount | None = None
        self._hooks: list[tuple[nn.Module, _BlockHook]] = []
        seen: set[int] = set()
        for i, found in enumerate(self.lists):
            for b, block in enumerate(found.blocks):
                if id(block) in seen:
                    continue  # shared weights: one hook, which is called twice
                seen.add(id(block))
                hook = _BlockHook(self, i, b)
                HookRegistry.check_if_exists_or_initialize(block).register_hook(hook, HOOK_NAME)
                self._hooks.append((block, hook))
        registry.register_hook(_RootHook(self), HOOK_NAME)
        registry.invalidate_child_registries_cache()

    @property
    def is_learned(self) -> bool:
        """Whether a call has been watched."""
        return bool(self.segments) or bool(self.left_out)

    @property
    def bytes_held(self) -> int:
        """Bytes of all that is kept now."""
        return sum(m.bytes_held for memories in self._streams.values() for m in memories)

    def reset(self) -> None:
        """Forget what was computed; the next call computes everything."""
        self._streams.clear()
        self._signatures.clear()
        self.frame = _Frame(len(self.segments))
        self._pending = None

    def relearn(self, *, max_blocks: int | None) -> None:
        """Watch the next call again, and cut runs of blocks otherwise."""
        self.max_blocks = max_blocks
        self.segments, self.left_out = [], []
        self.records.clear()
        for _, hook in self._hooks:
            hook.segment = -1
        self.reset()

    @property
    def is_compiled_outside(self) -> bool:
        """Whether someone else compiled the model as a whole."""
        return self._was_wrapped or getattr(self.model, "_compiled_call_impl", None) is not None

    def compile(self, **options: Any) -> None:
        """Compile the model's forward; see :meth:`AccelerationHandle.compile`."""
        hook = self.model._diffusers_hook.get_hook(HOOK_NAME)
        self.compiled = torch.compile(hook.fn_ref.original_forward, **options)
        # These modes replay CUDA graphs.
        self.copy_outputs = options.get("mode") in ("reduce-overhead", "max-autotune")

    def detach(self) -> None:
        """Remove every hook. The model then computes what it did before, bit for bit."""
        for module in (self.model, *(block for block, _ in self._hooks)):
            _remove_hook(HookRegistry.check_if_exists_or_initialize(module))
        self.model._diffusers_hook.invalidate_child_registries_cache()
        for module in (self.model, *(block for block, _ in self._hooks)):
            # Hooks leave the method of the class behind as an attribute of the instance.
            if module._diffusers_hook.hooks:
                continue
            del module._diffusers_hook
            forward = vars(module).get("forward")
            if getattr(forward, "__func__", None) is type(module).forward:
                del module.forward
        self.clock.close()
        self.reset()

    @torch.compiler.disable(reason=_COMPILE_ADVICE)
    def begin_call(
        self, forward: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> None:
        """Decide what the blocks do in the call that follows, and make the forecasts for it."""
        if self.is_paused:
            self.frame.actions[:] = [_PLAIN] * len(self.frame.actions)
            return
        tick = self.clock.tick(args, kwargs)
        self.input_shape = next(
            (
                tuple(v.shape)
                for v in tree_leaves((args, kwargs))
                if isinstance(v, Tensor) and v.is_floating_point() and v.ndim > 2
            ),
            (),
        )
        if tick.run != self._run:
            self._run = tick.run
            self.reset()
            self.records.clear()
            self.peak_bytes = 0
        try:
            if not self.is_learned:
                self._watch_call(forward, args, kwargs)
            self._direct(tick, args, kwargs)
        except BaseException:
            self.reset()
            raise

    def _direct(self, tick: Tick, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        memories = self._memories(tick.call, args, kwargs)
        decisions = self.director.decide(tick, memories)
        frame = self.frame
        keep = self.director.history > 0
        skipped = [i for i, decision in enumerate(decisions) if not decision.compute]
        for i, decision in enumerate(decisions):
            frame.actions[i] = (_STORE if keep else _PLAIN) if decision.compute else _SKIP
            frame.added[i] = None
        self._forecast(skipped, decisions, memories)
        self._began = time.perf_counter()
        self._pending = (tick, memories)

    @torch.compiler.disable(reason=_COMPILE_ADVICE)
    def end_call(self) -> None:
        """Keep what the computed segments added."""
        if self._pending is None:
            return
        seconds = time.perf_counter() - self._began
        (tick, memories), self._pending = self._pending, None
        computed = tuple(action != _SKIP for action in self.frame.actions)
        self.records.append(CallRecord(tick, computed, seconds))
        frame, history = self.frame, self.director.history
        added: list[tuple[Tensor, ...] | None] = list(frame.added)
        for i, tensors in enumerate(added):
            frame.forecasts[i] = ()
            frame.added[i] = None
            if tensors is None:
                continue
            # The memory of a CUDA graph's outputs is used again by its next replay.
            kept = tuple(t.detach().clone() if self.copy_outputs else t.detach() for t in tensors)
            memories[i].steps.insert(0, tick.step)
            memories[i].added.insert(0, kept)
            del memories[i].steps[history:]
            del memories[i].added[history:]
        self._keep_budget()
        self.peak_bytes = max(self.peak_bytes, self.bytes_held)
        self.director.call_ends(tick, added, seconds)

    def _keep_budget(self) -> None:
        """Drop the oldest outputs while too many bytes are held.

        Raises:
            CacheBudgetError: If one output of each segment is too much already.
        """
        if self.max_bytes is None:
            return
        memories = [m for stream in self._streams.values() for m in stream]
        while self.bytes_held > self.max_bytes:
            depth = max(len(m.steps) for m in memories)
            if depth < 2:
                raise CacheBudgetError(
                    f"forecasts of {type(self.model).__name__} hold {self.bytes_held / 1e6:.1f} MB at least, "
                    f"which is over the budget of {self.max_bytes / 1e6:g} MB: raise cache_megabytes"
                )
            for memory in memories:
                del memory.steps[depth - 1 :]
                del memory.added[depth - 1 :]

    def _forecast(
        self, skipped: Sequence[int], decisions: Sequence[Decision], memories: Sequence[Memory]
    ) -> None:
        """Make all forecasts of a call, those that are not plain reuse in one launch a kind."""
        wanted: dict[tuple[int, torch.dtype, torch.device], list[tuple[int, int]]] = {}
        for i in skipped:
            newest = memories[i].added[0]
            self.frame.forecasts[i] = newest
            for place, tensor in enumerate(newest):
                weights, offset = decisions[i].weights[place], decisions[i].offsets[place]
                if weights != (1.0,) or offset != 0.0:
                    key = (len(weights), tensor.dtype, tensor.device)
                    wanted.setdefault(key, []).append((i, place))
        for (history, _, _), places in wanted.items():
            made = predict_add(
                [],
                [memories[i].added[h][place] for i, place in places for h in range(history)],
                [w for i, place in places for w in decisions[i].weights[place]],
                [decisions[i].offsets[place] for i, place in places],
            )
            for (i, place), tensor in zip(places, made, strict=True):
                forecasts = list(self.frame.forecasts[i])
                forecasts[place] = tensor
                self.frame.forecasts[i] = tuple(forecasts)

    def _memories(self, call: int, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Memory]:
        """Of this stream of calls; empty ones after a change of shape, dtype or device."""
        # Some models take lists of tensors, one for each sample.
        tensors = [v for v in tree_leaves((args, kwargs)) if isinstance(v, Tensor)]
        signature = tuple((t.shape, t.dtype, t.device) for t in tensors)
        if self._signatures.get(call) != signature:
            self._signatures[call] = signature
            self._streams[call] = [Memory() for _ in self.segments]
        return self._streams[call]

    def _watch_call(
        self, forward: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> None:
        """Run the model once only to learn from it: the first run is then like any other."""
        self.learner = SegmentLearner(self.lists)
        try:
            # Blocks that were compiled run as they are written, this once.
            with (
                torch.compiler.set_stance("force_eager"),
                FlopCount() as counter,
            ):
                self._counter = counter
                forward(*args, **kwargs)
            learner = self.learner
        finally:
            self._counter = self.learner = None
        self.total_flops = counter.total
        self._place_hooks(learner)
        self.director.segments_learned(self.segments, total_flops=self.total_flops)

    def watch(self, hook: _BlockHook, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run a block and take note of it."""
        counter, learner = self._counter, self.learner
        assert counter is not None
        assert learner is not None
        arguments = hook.parameters.tensors(args, kwargs)
        copies = {name: value.clone() for name, value in arguments.items()}
        before = counter.total
        output = hook.fn_ref.original_forward(*args, **kwargs)
        flops = counter.total - before
        learner.block_called(*hook.place, arguments, copies, output, flops=flops)
        return output

    def _place_hooks(self, learner: SegmentLearner) -> None:
        self.segments = learner.segments(max_blocks=self.max_blocks)
        self.left_out = learner.left_out()
        hooks = {id(block): hook for block, hook in self._hooks}
        for hook in hooks.values():
            hook.segment = -1
        for segment in self.segments:
            for place, (block, layout) in enumerate(
                zip(segment.blocks, segment.layouts, strict=True)
            ):
                hook = hooks[id(block)]
                hook.segment = segment.index
                hook.layout = layout
                hook.is_first = place == 0
                hook.is_last = place == len(segment.blocks) - 1
                hook.entries = segment.entries
                hook.forecast_of = _forecast_of(layout, segment) if hook.is_first else ()
        self.frame = _Frame(len(self.segments))

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Run as if nothing were attached; what is kept is forgotten."""
        self.reset()
        was_paused, self.is_paused = self.is_paused, True
        try:
            yield
        finally:
            self.is_paused = was_paused


def _remove_hook(registry: Any) -> None:
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


def _forecast_of(layout: OutputLayout, segment: Segment) -> tuple[int, ...]:
    """For each output of the first block, which tensor of the segment continues it, or -1."""
    if len(segment.blocks) == 1:
        present = iter(range(len(segment.entries)))
        return tuple(-1 if absent else next(present) for absent in layout.absent)
    return tuple(
        segment.entries.index(source) if source is not None and source in segment.entries else -1
        for source in layout.sources
    )
