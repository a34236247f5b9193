# SPDX-License-Identifier: Apache-2.0
"""Partial steps: blocks run on forecast outputs of their attention and feed-forward modules.

A block whose attention modules and feed-forward are modules of their own can take their outputs from
those of the last computed steps, and compute the feed-forward anew for the tokens that matter; its
norms and gates, which belong to the current step, are computed as ever. With plain reuse that is the
token pruning of ToCa and of SODA (arXiv:2603.07057, S9), with no tokens and an extrapolation the
forecast of TaylorSeer.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from diffusers.hooks.hooks import HookRegistry, ModelHook
from torch import Tensor, nn

from genaccel.hooks.block_lists import BlockList
from genaccel.hooks.flop_count import FlopCount
from genaccel.hooks.forecast_batch import ForecastRequest, make_forecasts
from genaccel.hooks.unused_norms import NORM_HOOK_NAME, BlockNorms
from genaccel.ops.tokens import select_tokens, token_scores

MODULE_HOOK_NAME = "genaccel_module"

OFF, STORE, PARTIAL, MEASURE = range(4)

TokenScore = Literal["mean", "drift", "random"]

# Layer, input and output of its feed-forward, each [B, N, C].
FeedForwardObserver = Callable[[int, Tensor, Tensor], None]

_FEED_FORWARD_NAMES = ("ff", "mlp", "ffn", "feed_forward")


@dataclass(slots=True)
class Layer:
    """A block with attention and feed-forward of its own, as one call showed it.

    Attributes:
        block: The block.
        segment: Index of the segment that it belongs to; -1 for none.
        num_tokens: Tokens of the feed-forward; 0 if it can't run on some of them.
        feed_forward_flops: Of one call.
        attention_flops: Of its attention modules.
        is_usable: Whether every module was called once, and returned tensors.
    """

    block: nn.Module
    segment: int = -1
    num_tokens: int = 0
    feed_forward_flops: int = 0
    attention_flops: int = 0
    is_usable: bool = True

    def saved_flops(self, token_count: int) -> int:
        """What a partial step with some tokens does not compute."""
        if not self.is_usable:
            return 0
        kept = self.feed_forward_flops * token_count // self.num_tokens if self.num_tokens else 0
        return self.attention_flops + self.feed_forward_flops - kept


@dataclass(frozen=True, slots=True)
class PartialStep:
    """How a segment runs partially.

    Attributes:
        token_counts: Tokens of the feed-forward of each of its layers.
        weights: Of the outputs of the last computed steps, the newest first. ``(1.0,)`` is reuse,
            where tokens that are computed replace what is kept of them (S9).
    """

    token_counts: tuple[int, ...]
    weights: tuple[float, ...] = (1.0,)


Leaves = tuple[Any, ...]  # tensors of an output, or None


@dataclass(slots=True)
class _Kept:
    """Outputs of one layer, in one stream of calls, the newest first."""

    steps: list[int] = field(default_factory=list)
    outputs: list[dict[int, Leaves]] = field(default_factory=list)  # by place
    reference: Tensor | None = None  # input of the feed-forward at the last computed step


class _ModuleHook(ModelHook):
    """On an attention module or a feed-forward."""

    fn_ref: Any

    def __init__(self, owner: PartialSteps, layer: int, place: int) -> None:
        super().__init__()
        self.owner = owner
        self.layer = layer
        self.place = place  # 0 is the feed-forward
        self.container: type | None = None
        self.calls = 0

    def new_forward(self, module: nn.Module, *args: Any, **kwargs: Any) -> Any:
        owner, forward = self.owner, self.fn_ref.original_forward
        mode = owner.modes[self.layer]
        if owner.counter is not None and mode != PARTIAL:
            return owner.watch(self, args, kwargs)
        if mode == OFF:
            return forward(*args, **kwargs)
        if mode == PARTIAL:
            forecast = owner.forecasts[self.layer][self.place]
            count = owner.token_counts[self.layer]
            if self.place or not count:
                return self._packed(forecast)
            states = args[0]  # [B, N, C]
            index = owner.choose(self.layer, states, count)  # [B, k]
            rows = forward(_rows(states, index), *args[1:], **kwargs)
            filled = forecast[0].scatter(1, index[..., None].expand_as(rows), rows)
            owner.made[self.layer][0] = (filled,)
            return filled
        output = forward(*args, **kwargs)
        if mode == STORE:
            leaves = (output,) if self.container is None else tuple(output)
            owner.made[self.layer][self.place] = leaves
        if self.place == 0:
            owner.inputs[self.layer] = args[0] if args else None
            if mode == MEASURE:
                owner.made[self.layer][0] = (output,)
        return output

    def _packed(self, leaves: Leaves) -> Any:
        return leaves[0] if self.container is None else self.container(leaves)


class PartialSteps:
    """Hooks on the attention modules and feed-forwards of a model's blocks.

    Args:
        lists: Where the blocks are.
        score: How tokens are ranked: by the "mean" of their features, by its "drift" since the last
            computed step, or at "random", the baseline.
        seed: Of random scores.
    """

    def __init__(
        self, lists: Sequence[BlockList], *, score: TokenScore = "mean", seed: int = 0
    ) -> None:
        self.score = score
        self.seed = seed
        self.layers: list[Layer] = []
        self.counter: FlopCount | None = None
        self._modules: list[tuple[nn.Module, _ModuleHook]] = []
        self._norms: list[BlockNorms] = []  # of each layer
        seen: set[int] = set()
        blocks = {id(block): block for found in lists for block in found.blocks}
        owners = Counter(id(part) for block in blocks.values() for part in block.modules())
        shared = {part for part, count in owners.items() if count > 1}
        for found in lists:
            for block in found.blocks:
                modules = _modules_of(block)
                if id(block) in seen or not modules:
                    continue
                seen.add(id(block))
                for place, module in enumerate(modules):
                    hook = _ModuleHook(self, len(self.layers), place)
                    registry = HookRegistry.check_if_exists_or_initialize(module)
                    registry.register_hook(hook, MODULE_HOOK_NAME)
                    self._modules.append((module, hook))
                self._norms.append(BlockNorms(block, modules, shared))
                self.layers.append(Layer(block))
        count = len(self.layers)
        # Read and written within a call. Lists and dicts only, for the compiler's sake.
        self.modes = [OFF] * count
        self.token_counts = [0] * count
        self.forecasts: list[dict[int, Leaves]] = [{} for _ in range(count)]
        self.made: list[dict[int, Leaves]] = [{} for _ in range(count)]
        self.inputs: list[Tensor | None] = [None] * count
        self.chosen: list[Tensor | None] = [None] * count
        self.groups = 1
        self._random: list[Tensor | None] = [None] * count
        self._references: list[Tensor | None] = [None] * count
        self._streams: dict[Hashable, list[_Kept]] = {}
        self._stream: Hashable = None
        self._step = 0

    @property
    def bytes_held(self) -> int:
        """Bytes of what is kept between calls."""
        tensors = {
            id(t): t
            for stream in self._streams.values()
            for kept in stream
            for t in (*(t for o in kept.outputs for p in o.values() for t in p), kept.reference)
            if isinstance(t, Tensor)
        }
        return sum(t.numel() * t.element_size() for t in tensors.values())

    @property
    def depth(self) -> int:
        """Outputs of each module that are kept."""
        return max((len(k.steps) for s in self._streams.values() for k in s), default=0)

    def layers_of(self, segment: int) -> list[int]:
        """Indices of the layers in a segment."""
        return [i for i, layer in enumerate(self.layers) if layer.segment == segment]

    def steps_kept(self, segment: int, stream: Hashable) -> list[int]:
        """Steps whose outputs a segment could be forecast from, the newest first."""
        layers = [i for i in self.layers_of(segment) if self.layers[i].is_usable]
        if stream not in self._streams or not layers:
            return []
        return self._streams[stream][layers[0]].steps

    def reset(self) -> None:
        """Forget all outputs."""
        self._streams.clear()
        self._clear_call()
        self.modes[:] = [OFF] * len(self.modes)
        for norms in self._norms:
            norms.computes()
        self.chosen[:] = [None] * len(self.chosen)

    def forget(self, stream: Hashable) -> None:
        """Forget the outputs of one stream of calls."""
        self._streams.pop(stream, None)

    def drop_oldest(self) -> None:
        """Keep one output less of each module."""
        keep = self.depth - 1
        for stream in self._streams.values():
            for kept in stream:
                del kept.steps[keep:]
                del kept.outputs[keep:]

    def begin_call(
        self,
        stream: Hashable,
        step: int,
        states: Tensor | None,
        *,
        partial: Mapping[int, PartialStep],
        stores: Sequence[int] = (),
        measures: bool = False,
    ) -> None:
        """Make the forecasts of a call.

        Args:
            stream: Which calls belong together over the steps.
            step: Of the sampler; seeds random scores.
            states: Input of the model: equal halves of its batch are the two sides of
                classifier-free guidance, which share their tokens.
            partial: Segments that run partially; outputs must be kept for each.
            stores: Segments whose outputs are to be kept.
            measures: Whether feed-forwards are observed.
        """
        if stream not in self._streams:
            self._streams[stream] = [_Kept() for _ in self.layers]
            if states is not None and len(states) % 2 == 0:
                first, second = states.chunk(2)
                self.groups = 2 if torch.equal(first, second) else 1
        if step != self._step or stream == 0:
            # Calls that follow in the same step share its tokens.
            self.chosen[:] = [None] * len(self.chosen)
        self._stream, self._step = stream, step
        self._clear_call()
        self.modes[:] = [MEASURE if measures else OFF] * len(self.modes)
        for norms in self._norms:
            norms.computes()
        for segment in stores:
            for i in self.layers_of(segment):
                self.modes[i] = STORE if self.layers[i].is_usable else OFF
        requests: list[ForecastRequest] = []
        places: list[tuple[int, int, int]] = []
        for segment, wanted in partial.items():
            for i, count in zip(self.layers_of(segment), wanted.token_counts, strict=True):
                if not self.layers[i].is_usable:
                    continue
                self.modes[i] = PARTIAL
                self.token_counts[i] = count
                self._norms[i].leaves_out(has_tokens=count > 0)
                self._add_requests(i, wanted.weights, requests, places)
        for (i, place, leaf), tensor in zip(places, make_forecasts(requests), strict=True):
            leaves = list(self.forecasts[i][place])
            leaves[leaf] = tensor
            self.forecasts[i][place] = tuple(leaves)

    def _add_requests(
        self,
        layer: int,
        weights: tuple[float, ...],
        requests: list[ForecastRequest],
        places: list[tuple[int, int, int]],
    ) -> None:
        kept = self._streams[self._stream][layer]
        for place, newest in kept.outputs[0].items():
            self.forecasts[layer][place] = newest
            for leaf, tensor in enumerate(newest):
                if isinstance(tensor, Tensor):
                    history = [o[place][leaf] for o in kept.outputs[: len(weights)]]
                    requests.append(ForecastRequest(history, weights))
                    places.append((layer, place, leaf))
        self._references[layer] = kept.reference
        if self.score == "random" and self.token_counts[layer]:
            output = kept.outputs[0][0][0]
            generator = torch.Generator().manual_seed(
                (self.seed * 1009 + self._step) * 1009 + layer
            )
            scores = torch.rand(output.shape[:2], generator=generator)
            self._random[layer] = scores.to(output.device)

    def end_call(self, *, history: int, updates: Sequence[int] = (), copies: bool = False) -> None:
        """Keep what the modules returned.

        Args:
            history: Outputs to keep of each module.
            updates: Segments whose computed tokens replace what is kept of them.
            copies: Whether outputs live in memory that the next call uses again.
        """
        stream = self._streams.get(self._stream)
        if stream is None:
            return
        for i, (layer, kept) in enumerate(zip(self.layers, stream, strict=True)):
            made = self.made[i]
            if self.modes[i] == STORE and made:
                outputs = {place: _detached(leaves, copies) for place, leaves in made.items()}
                kept.steps.insert(0, self._step)
                kept.outputs.insert(0, outputs)
                del kept.steps[history:]
                del kept.outputs[history:]
                if self.score == "drift" and self.inputs[i] is not None:
                    kept.reference = _detached((self.inputs[i],), copies)[0]
            elif self.modes[i] == PARTIAL and layer.segment in updates and made:
                kept.outputs[0][0] = _detached(made[0], copies)
        self._clear_call()

    def observed(self, observer: FeedForwardObserver) -> None:
        """Hand on what the feed-forwards of a measured call took and returned."""
        for i, (made, states) in enumerate(zip(self.made, self.inputs, strict=True)):
            if self.layers[i].num_tokens and states is not None and 0 in made:
                observer(i, states, made[0][0])

    def _clear_call(self) -> None:
        for group in (self.forecasts, self.made):
            for values in group:
                values.clear()
        for tensors in (self.inputs, self._random, self._references):
            tensors[:] = [None] * len(tensors)

    def choose(self, layer: int, states: Tensor, count: int) -> Tensor:
        """Tokens to compute anew, ``[B, k]``, ascending (S8)."""
        shared = self.chosen[layer]
        if shared is not None and shared.shape == (len(states), count):
            return shared
        groups = self.groups if len(states) % self.groups == 0 else 1
        index = select_tokens(self.scores(layer, states), count, groups=groups)
        self.chosen[layer] = index
        return index

    def scores(self, layer: int, states: Tensor) -> Tensor:
        """Importance of each token, ``[B, N]`` (S8)."""
        drawn, reference = self._random[layer], self._references[layer]
        if drawn is not None:
            return drawn
        states = states.detach().contiguous()
        if reference is None:
            return token_scores(states, "mean")
        return token_scores(states, "drift", reference)

    def watch(self, hook: _ModuleHook, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run a module and take note of its shape and cost."""
        assert self.counter is not None
        before = self.counter.total
        output = hook.fn_ref.original_forward(*args, **kwargs)
        flops = self.counter.total - before
        layer = self.layers[hook.layer]
        hook.calls += 1
        hook.container = type(output) if isinstance(output, tuple | list) else None
        leaves = (output,) if hook.container is None else tuple(output)
        self.made[hook.layer][hook.place] = leaves
        layer.is_usable = layer.is_usable and all(
            leaf is None or isinstance(leaf, Tensor) for leaf in leaves
        )
        if hook.place == 0:
            states = args[0] if args else None
            is_tokenwise = (
                isinstance(states, Tensor)
                and isinstance(output, Tensor)
                and states.ndim == output.ndim == 3
                and states.shape[:2] == output.shape[:2]
            )
            layer.feed_forward_flops += flops
            layer.num_tokens = output.shape[1] if is_tokenwise else 0
        else:
            layer.attention_flops += flops
        return output

    def block_watched(self, block: nn.Module, run: Callable[[], Any], output: Any) -> None:
        """Find out which norms of a block partial steps can do without.

        Args:
            block: Was just called, and watched.
            run: Calls it again with the same arguments.
            output: What it returned.
        """
        i = next((i for i, layer in enumerate(self.layers) if layer.block is block), None)
        if i is None or self.counter is None or not self.layers[i].is_usable:
            return
        layer, flops = self.layers[i], self.counter.total
        self.forecasts[i] = dict(self.made[i])
        self.modes[i] = PARTIAL
        for count in (0, layer.num_tokens) if layer.num_tokens else (0,):
            self.token_counts[i] = count
            self._norms[i].try_out(run, output, has_tokens=count > 0)
        self.modes[i] = OFF
        self.chosen[i] = None
        self.forecasts[i], self.made[i] = {}, {}
        self.counter.total = flops

    def watching_begins(self, counter: FlopCount) -> None:
        """The call that follows is watched."""
        self.counter = counter
        for layer in self.layers:
            layer.num_tokens = layer.feed_forward_flops = layer.attention_flops = 0
            layer.is_usable = True
        for _, hook in self._modules:
            hook.calls = 0

    def watching_ends(self) -> None:
        """The watched call is over."""
        self.counter = None
        self._clear_call()
        for _, hook in self._modules:
            if hook.calls != 1:
                self.layers[hook.layer].is_usable = False
                self.layers[hook.layer].num_tokens = 0

    def detach(self) -> None:
        """Remove every hook."""
        hooked = [(module, MODULE_HOOK_NAME) for module, _ in self._modules]
        hooked += [(norm, NORM_HOOK_NAME) for norms in self._norms for norm in norms.modules]
        for module, name in hooked:
            registry = HookRegistry.check_if_exists_or_initialize(module)
            registry.remove_hook(name, recurse=False)
            if not registry.hooks:
                del module._diffusers_hook
                forward = vars(module).get("forward")
                if getattr(forward, "__func__", None) is type(module).forward:
                    del module.forward
        self.reset()


def _modules_of(block: nn.Module) -> list[nn.Module]:
    """The feed-forward of a block and its attention modules; nothing if one kind is missing."""
    children = dict(block.named_children())
    feed_forward = next((children[n] for n in _FEED_FORWARD_NAMES if n in children), None)
    attention = [
        child
        for name, child in children.items()
        if child is not feed_forward
        and ("attn" in name.lower() or "attention" in type(child).__name__.lower())
        and not isinstance(child, nn.LayerNorm | nn.ModuleList)
        and "norm" not in name.lower()
    ]
    return [] if feed_forward is None or not attention else [feed_forward, *attention]


def _detached(leaves: Leaves, copies: bool) -> Leaves:
    return tuple(
        (t.detach().clone() if copies else t.detach()) if isinstance(t, Tensor) else t
        for t in leaves
    )


def _rows(states: Tensor, index: Tensor) -> Tensor:
    return states.gather(1, index[..., None].expand(-1, -1, states.shape[2]))
