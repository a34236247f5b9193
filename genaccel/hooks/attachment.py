# SPDX-License-Identifier: Apache-2.0
"""Hooks on one model: they watch its first call, then compute or forecast each segment as they are told.

Data flow of a call: the clock says the step; the director decides for each segment; forecasts of
all skipped segments are made in one go; the model runs, its blocks computing or passing through;
what computed segments added is kept for later forecasts. All decisions are taken outside the
model's forward, so that a compiled forward holds no branch on data or on the step.
"""

from __future__ import annotations

import contextlib
import functools
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from diffusers.hooks.hooks import HookRegistry, ModelHook
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from genaccel.hooks.block_hook import (
    HOOK_NAME,
    PLAIN,
    SKIP,
    STORE,
    BlockHook,
    Frame,
    forecast_of,
    remove_hook,
)
from genaccel.hooks.block_lists import BlockList, find_block_lists
from genaccel.hooks.call_record import CallRecord, record_call
from genaccel.hooks.direction import Decision, Director, Memory
from genaccel.hooks.flop_count import FlopCount
from genaccel.hooks.forecast_batch import ForecastRequest, make_forecasts
from genaccel.hooks.partial_steps import PartialStep, PartialSteps, TokenScore
from genaccel.hooks.segments import Segment, SegmentLearner
from genaccel.hooks.step_clock import StepClock, Tick

_COMPILE_ADVICE = (
    "genaccel counts steps outside of compiled code: call handle.compile(fullgraph=True) "
    "instead of compiling the model"
)


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
        token_score: How partial steps rank tokens.

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
        token_score: TokenScore = "mean",
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
        self.token_score: TokenScore = token_score
        self.partial_steps: PartialSteps | None = None  # only where the director wants modules
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
        self.frame = Frame(0)
        self._streams: dict[int, list[Memory]] = {}
        self._signatures: dict[int, Any] = {}
        self._run: int | None = None
        self._began = 0.0
        self._pending: tuple[Tick, list[Memory], dict[int, PartialStep]] | None = None
        self._counter: FlopCount | None = None
        self._hooks: list[tuple[nn.Module, BlockHook]] = []
        seen: set[int] = set()
        for i, found in enumerate(self.lists):
            for b, block in enumerate(found.blocks):
                if id(block) in seen:
                    continue  # shared weights: one hook, which is called twice
                seen.add(id(block))
                hook = BlockHook(self, i, b)
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
        held = sum(m.bytes_held for memories in self._streams.values() for m in memories)
        return held + (self.partial_steps.bytes_held if self.partial_steps is not None else 0)

    def reset(self) -> None:
        """Forget what was computed; the next call computes everything."""
        self._streams.clear()
        self._signatures.clear()
        self.frame = Frame(len(self.segments))
        self._pending = None
        if self.partial_steps is not None:
            self.partial_steps.reset()

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
        if self.partial_steps is not None:
            self.partial_steps.detach()
            self.partial_steps = None
        for module in (self.model, *(block for block, _ in self._hooks)):
            remove_hook(HookRegistry.check_if_exists_or_initialize(module))
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
            self.frame.actions[:] = [PLAIN] * len(self.frame.actions)
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
            self._direct(tick, forward, args, kwargs)
        except BaseException:
            self.reset()
            raise

    def _direct(
        self,
        tick: Tick,
        forward: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> None:
        memories = self._memories(tick.call, args, kwargs)
        decisions = self.director.decide(tick, memories)
        if self.director.wants_layers and self.partial_steps is None:
            # Only now is it known, as a plan is found when a run begins.
            self._watch_call(forward, args, kwargs)
            memories = self._memories(tick.call, args, kwargs)
        frame = self.frame
        keep = self.director.history > 0
        partial = self._begin_partial(tick, args, kwargs, decisions)
        skipped = []
        for i, decision in enumerate(decisions):
            frame.added[i] = None
            if decision.compute or decision.partial is not None:
                frame.actions[i] = PLAIN if i in partial or not keep else STORE
            else:
                frame.actions[i] = SKIP
                skipped.append(i)
        self._forecast(skipped, decisions, memories)
        self._began = time.perf_counter()
        self._pending = (tick, memories, partial)

    def _begin_partial(
        self,
        tick: Tick,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        decisions: Sequence[Decision],
    ) -> dict[int, PartialStep]:
        """Make the forecasts of modules; returns the segments that run on them."""
        modules = self.partial_steps
        if modules is None:
            return {}
        wanted = {i: d.partial for i, d in enumerate(decisions) if d.partial is not None}
        partial = {i: step for i, step in wanted.items() if modules.steps_kept(i, tick.call)}
        computed = [i for i, d in enumerate(decisions) if d.compute or i in wanted.keys() - partial]
        modules.begin_call(
            tick.call,
            tick.step,
            next((v for v in tree_leaves((args, kwargs)) if isinstance(v, Tensor)), None),
            partial=partial,
            stores=computed if self.director.module_history > 0 else (),
            measures=self.director.observes_feed_forwards,
        )
        return partial

    @torch.compiler.disable(reason=_COMPILE_ADVICE)
    def end_call(self) -> None:
        """Keep what the computed segments added."""
        if self._pending is None:
            return
        seconds = time.perf_counter() - self._began
        (tick, memories, partial), self._pending = self._pending, None
        self.records.append(
            record_call(
                tick,
                seconds,
                self.segments,
                [action == SKIP for action in self.frame.actions],
                partial,
                self.partial_steps,
            )
        )
        self._keep_modules(tick, partial)
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

    def _keep_modules(self, tick: Tick, partial: dict[int, PartialStep]) -> None:
        """Keep what attention and feed-forwards returned."""
        modules = self.partial_steps
        if modules is None:
            return
        if self.director.observes_feed_forwards:
            modules.observed(functools.partial(self.director.feed_forward_called, tick))
        modules.end_call(
            history=self.director.module_history,
            updates=[i for i, step in partial.items() if step.weights == (1.0,)],
            copies=self.copy_outputs,
        )

    def _keep_budget(self) -> None:
        """Drop the oldest outputs while too many bytes are held.

        Raises:
            CacheBudgetError: If one output of each segment is too much already.
        """
        if self.max_bytes is None:
            return
        memories = [m for stream in self._streams.values() for m in stream]
        while self.bytes_held > self.max_bytes:
            depth = max((len(m.steps) for m in memories), default=0)
            modules = self.partial_steps
            module_depth = modules.depth if modules is not None else 0
            if max(depth, module_depth) < 2:
                raise CacheBudgetError(
                    f"forecasts of {type(self.model).__name__} hold {self.bytes_held / 1e6:.1f} MB at least, "
                    f"which is over the budget of {self.max_bytes / 1e6:g} MB: raise cache_megabytes"
                )
            if modules is not None and module_depth >= max(2, depth):
                modules.drop_oldest()
                continue
            for memory in memories:
                del memory.steps[depth - 1 :]
                del memory.added[depth - 1 :]

    def _forecast(
        self, skipped: Sequence[int], decisions: Sequence[Decision], memories: Sequence[Memory]
    ) -> None:
        """Make all forecasts of a call, those that are not plain reuse in one launch a kind."""
        requests = [
            ForecastRequest([added[place] for added in memories[i].added], weights, offset)
            for i in skipped
            for place, (weights, offset) in enumerate(
                zip(decisions[i].weights, decisions[i].offsets, strict=True)
            )
        ]
        made = iter(make_forecasts(requests))
        for i in skipped:
            self.frame.forecasts[i] = tuple(next(made) for _ in decisions[i].weights)

    def _memories(self, call: int, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Memory]:
        """Of this stream of calls; empty ones after a change of shape, dtype or device."""
        # Some models take lists of tensors, one for each sample.
        tensors = [v for v in tree_leaves((args, kwargs)) if isinstance(v, Tensor)]
        signature = tuple((t.shape, t.dtype, t.device) for t in tensors)
        if self._signatures.get(call) != signature:
            self._signatures[call] = signature
            self._streams[call] = [Memory() for _ in self.segments]
            if self.partial_steps is not None:
                self.partial_steps.forget(call)
        memories = self._streams[call]
        if self.partial_steps is not None:
            for i, memory in enumerate(memories):
                memory.module_steps = list(self.partial_steps.steps_kept(i, call))
        return memories

    def _watch_call(
        self, forward: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> None:
        """Run the model once only to learn from it: the first run is then like any other."""
        if self.director.wants_layers and self.partial_steps is None:
            self.partial_steps = PartialSteps(self.lists, score=self.token_score)
        modules = self.partial_steps
        self.learner = SegmentLearner(self.lists)
        try:
            # Blocks that were compiled run as they are written, this once.
            with (
                torch.compiler.set_stance("force_eager"),
                FlopCount() as counter,
            ):
                self._counter = counter
                if modules is not None:
                    modules.watching_begins(counter)
                forward(*args, **kwargs)
            learner = self.learner
        finally:
            self._counter = self.learner = None
            if modules is not None:
                modules.watching_ends()
        self.total_flops = counter.total
        self._place_hooks(learner)
        layers = [] if modules is None else modules.layers
        owners = {id(b): segment.index for segment in self.segments for b in segment.blocks}
        for layer in layers:
            layer.segment = owners.get(id(layer.block), -1)
        self.director.segments_learned(self.segments, layers, total_flops=self.total_flops)

    def watch(
        self, module: nn.Module, hook: BlockHook, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
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
        if self.partial_steps is not None:
            again = functools.partial(hook.fn_ref.original_forward, *args, **kwargs)
            self.partial_steps.block_watched(module, again, output)
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
                hook.forecast_of = forecast_of(layout, segment) if hook.is_first else ()
        self.frame = Frame(len(self.segments))

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Run as if nothing were attached; what is kept is forgotten."""
        self.reset()
        was_paused, self.is_paused = self.is_paused, True
        try:
            yield
        finally:
            self.is_paused = was_paused
