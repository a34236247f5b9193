# SPDX-License-Identifier: Apache-2.0
"""Partial steps: blocks run on forecast outputs of their submodules, attention and feed-forward.

A block whose attention and feed-forward are modules of their own can take their outputs from those of
the last computed steps, and compute the feed-forward anew for the tokens that matter; its norms and
gates, which belong to the current step, are computed as always. With plain reuse that is the
token pruning of ToCa and of SODA (arXiv:2603.07057, S9), with no tokens and an extrapolation the
forecast of TaylorSeer.

The hooks belong to the model, what was learned of its layers to a kind of call, and what is kept for
forecasts to a run.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from diffusers.hooks.hooks import ModelHook
from torch import Tensor, nn

from genaccel.hooks.blocks import BlockList, CallFrame, CurrentFrame
from genaccel.hooks.flop_count import FlopCount
from genaccel.hooks.unhook import PREFIX, hook, unhook
from genaccel.hooks.unused_norms import COMPUTE, POISON, BlockNorms

SUBMODULE_HOOK_NAME = f"{PREFIX}_submodule"

OFF, STORE, PARTIAL, MEASURE = range(4)

_FEED_FORWARD_NAMES = ("ff", "mlp", "ffn", "feed_forward")


@dataclass(slots=True)
class Layer:
    """A block with attention and feed-forward of its own, as it was seen in one call.

    Attributes:
        block: The block.
        segment: Index of the segment that it belongs to; -1 for none.
        num_tokens: Tokens of the feed-forward; 0 if it can't run on some of them.
        feed_forward_flops: FLOPs of one call of the feed-forward.
        attention_flops: FLOPs of one call of its attention modules.
        is_usable: Whether every submodule was called once, and returned tensors.
    """

    block: nn.Module
    segment: int = -1
    num_tokens: int = 0
    feed_forward_flops: int = 0
    attention_flops: int = 0
    is_usable: bool = True

    def saved_flops(self, token_count: int) -> int:
        """FLOPs that a partial step saves in this block if its feed-forward computes ``token_count`` tokens."""
        if not self.is_usable:
            return 0
        kept = self.feed_forward_flops * token_count // self.num_tokens if self.num_tokens else 0
        return self.attention_flops + self.feed_forward_flops - kept


@dataclass(frozen=True, slots=True)
class PartialStep:
    """Settings of a partial step of one segment.

    Attributes:
        token_counts: Tokens of the feed-forward of each of its layers.
        weights: Weights of the outputs of the last computed steps, the newest first. ``(1.0,)`` is
            reuse, where tokens that are computed replace the kept ones (S9).
    """

    token_counts: tuple[int, ...]
    weights: tuple[float, ...] = (1.0,)


Leaves = tuple[Any, ...]  # tensors of an output, or None


class TokenChooser(Protocol):
    """Knows which tokens of a layer matter."""

    def choose(self, layer: int, states: Tensor, count: int) -> Tensor:
        """Indices of the ``k = count`` tokens of states ``[B, N, C]`` to compute anew, ``[B, k]``, ascending."""


class AllTokens:
    """A chooser that takes every token; it serves to try which norms a step with tokens needs."""

    def choose(self, layer: int, states: Tensor, count: int) -> Tensor:
        """The indices of all ``count`` tokens of each sample, ``[B, count]``."""
        return torch.arange(count, device=states.device).expand(len(states), count)


class SubmoduleFrame:
    """Instructions to the hooks within blocks for one call, and what these hand back.

    It holds lists and dicts only, which ``torch.compile`` can follow.

    Args:
        chooser: Chooses the tokens that a layer computes; None where none are.
        num_layers: Number of layers, L.

    Attributes:
        modes: Mode of each layer: ``OFF`` computes, ``STORE`` also keeps the outputs of its
            submodules, ``PARTIAL`` runs on forecasts of them, ``MEASURE`` shows what its
            feed-forward takes and returns.
        norms: Mode of the norms of each layer (:mod:`genaccel.hooks.unused_norms`).
        token_counts: Tokens of each feed-forward that a partial layer computes.
        forecasts: Forecast outputs of the submodules of each layer, by place.
        made: Computed outputs of the submodules of each layer, by place.
        inputs: Input of the feed-forward of each layer, ``[B, N, C]``.
        watcher: Runs the submodules in their hooks' stead, where a call is learned from.
    """

    __slots__ = (
        "chooser",
        "forecasts",
        "inputs",
        "made",
        "modes",
        "norms",
        "token_counts",
        "watcher",
    )

    def __init__(self, chooser: TokenChooser | None, num_layers: int) -> None:
        self.chooser = chooser
        self.modes = [OFF] * num_layers
        self.norms = [COMPUTE] * num_layers
        self.token_counts = [0] * num_layers
        self.forecasts: list[dict[int, Leaves]] = [{} for _ in range(num_layers)]
        self.made: list[dict[int, Leaves]] = [{} for _ in range(num_layers)]
        self.inputs: list[Tensor | None] = [None] * num_layers
        self.watcher: LayerWatcher | None = None


class SubmoduleHook(ModelHook):
    """The hook on an attention module or a feed-forward.

    Args:
        current: Tells the frame of the current call.
        layer: Index of the block among those with such submodules.
        place: Index of the submodule in its block; 0 is the feed-forward.
    """

    fn_ref: Any

    def __init__(self, current: CurrentFrame, layer: int, place: int) -> None:
        super().__init__()
        self.current = current
        self.layer = layer
        self.place = place
        self.container: type | None = None

    def new_forward(self, module: nn.Module, *args: Any, **kwargs: Any) -> Any:
        forward = self.fn_ref.original_forward
        frame = self.current.frame
        if frame is None or frame.submodules is None:
            return forward(*args, **kwargs)
        call = frame.submodules
        mode = call.modes[self.layer]
        if call.watcher is not None and mode != PARTIAL:
            return call.watcher.watch(self, call, args, kwargs)
        if mode == OFF:
            return forward(*args, **kwargs)
        if mode == PARTIAL:
            forecast = call.forecasts[self.layer][self.place]
            count = call.token_counts[self.layer]
            if self.place or not count:
                return self._packed(forecast)
            states = args[0]  # [B, N, C]
            assert call.chooser is not None
            index = call.chooser.choose(self.layer, states, count)  # [B, k]
            rows = forward(_rows(states, index), *args[1:], **kwargs)
            filled = forecast[0].scatter(1, index[..., None].expand_as(rows), rows)
            call.made[self.layer][0] = (filled,)
            return filled
        output = forward(*args, **kwargs)
        if mode == STORE:
            leaves = (output,) if self.container is None else tuple(output)
            call.made[self.layer][self.place] = leaves
        if self.place == 0:
            call.inputs[self.layer] = args[0] if args else None
            if mode == MEASURE:
                call.made[self.layer][0] = (output,)
        return output

    def _packed(self, leaves: Leaves) -> Any:
        return leaves[0] if self.container is None else self.container(leaves)


class SubmoduleHooks:
    """Hooks on the attention modules, feed-forwards and norms of a model's blocks.

    Args:
        lists: The model's lists of blocks.
        current: Tells the frame of the current call.

    Attributes:
        blocks: The blocks with such submodules: the layers, in their order.
        norms: The norms of each layer.
    """

    def __init__(self, lists: Sequence[BlockList], current: CurrentFrame) -> None:
        self.blocks: list[nn.Module] = []
        self.norms: list[BlockNorms] = []
        self._tried: set[int] = set()
        self._submodules: list[nn.Module] = []
        blocks = {id(block): block for found in lists for block in found.blocks}
        owners = Counter(id(part) for block in blocks.values() for part in block.modules())
        shared = {part for part, count in owners.items() if count > 1}
        for block in blocks.values():
            submodules = _submodules_of(block)
            # A submodule that blocks share can't tell for which of them it is called.
            if not submodules or any(id(part) in shared for part in submodules):
                continue
            layer = len(self.blocks)
            for place, submodule in enumerate(submodules):
                hook(submodule, SubmoduleHook(current, layer, place), SUBMODULE_HOOK_NAME)
                self._submodules.append(submodule)
            self.norms.append(BlockNorms(block, submodules, current, layer, shared))
            self.blocks.append(block)

    def try_norms(
        self, layer: int, frame: CallFrame, has_tokens: bool, run: Callable[[], Any], output: Any
    ) -> None:
        """Find out which norms of a layer partial steps can do without; only the first time.

        Args:
            layer: Index of the layer.
            frame: Frame of a call in which the layer runs on the outputs of its submodules.
            has_tokens: Whether the layer computes some tokens in it.
            run: Calls the block again.
            output: The output of the block.
        """
        assert frame.submodules is not None
        key = 2 * layer + has_tokens
        if key in self._tried:
            return
        frame.submodules.norms[layer] = POISON
        self.norms[layer].try_out(run, output, has_tokens=has_tokens)
        frame.submodules.norms[layer] = COMPUTE
        self._tried.add(key)

    def detach(self) -> None:
        """Remove every hook."""
        for submodule in self._submodules:
            unhook(submodule, SUBMODULE_HOOK_NAME)
        for norms in self.norms:
            norms.detach()


class LayerWatcher:
    """Records the submodules of blocks in a call that is learned from.

    Args:
        hooks: The hooks on the submodules.
        counter: Counter of the FLOPs of the call.
    """

    def __init__(self, hooks: SubmoduleHooks, counter: FlopCount) -> None:
        self._hooks = hooks
        self._counter = counter
        self._calls: Counter[tuple[int, int]] = Counter()
        self.layers = [Layer(block) for block in hooks.blocks]

    def watch(
        self,
        submodule: SubmoduleHook,
        call: SubmoduleFrame,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> Any:
        """Run a submodule, and record its shape and cost."""
        before = self._counter.total
        output = submodule.fn_ref.original_forward(*args, **kwargs)
        flops = self._counter.total - before
        try:
            self._note(submodule, call, args, output, flops)
        except Exception:  # ours, and no reason for the call to fail
            self.layers[submodule.layer].is_usable = False
        return output

    def _note(
        self,
        submodule: SubmoduleHook,
        call: SubmoduleFrame,
        args: tuple[Any, ...],
        output: Any,
        flops: int,
    ) -> None:
        layer = self.layers[submodule.layer]
        self._calls[submodule.layer, submodule.place] += 1
        submodule.container = type(output) if isinstance(output, tuple | list) else None
        leaves = (output,) if submodule.container is None else tuple(output)
        call.made[submodule.layer][submodule.place] = leaves
        layer.is_usable = layer.is_usable and all(
            leaf is None or isinstance(leaf, Tensor) for leaf in leaves
        )
        if submodule.place == 0:
            states = args[0] if args else None
            call.inputs[submodule.layer] = states
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

    def block_watched(
        self, block: nn.Module, frame: CallFrame, run: Callable[[], Any], output: Any
    ) -> None:
        """Try, on a block that was just watched, which norms its partial steps can do without.

        Args:
            block: The block.
            frame: Frame of the call.
            run: Calls the block again with the same arguments.
            output: The output of the block.
        """
        call = frame.submodules
        i = next((i for i, layer in enumerate(self.layers) if layer.block is block), None)
        if i is None or call is None or not self.layers[i].is_usable:
            return
        layer, flops, made = self.layers[i], self._counter.total, dict(call.made[i])
        call.forecasts[i] = dict(made)
        call.modes[i] = PARTIAL
        for count in (0, layer.num_tokens) if layer.num_tokens else (0,):
            call.token_counts[i] = count
            self._hooks.try_norms(i, frame, count > 0, run, output)
        call.modes[i] = OFF
        call.token_counts[i] = 0
        call.forecasts[i] = {}
        call.made[i] = made
        self._counter.total = flops

    def finish(self) -> list[Layer]:
        """The layers in their order; unusable are those whose submodules were not called once each."""
        for i, layer in enumerate(self.layers):
            places = [count for (owner, _), count in self._calls.items() if owner == i]
            if not places or any(count != 1 for count in places):
                layer.is_usable = False
                layer.num_tokens = 0
        return self.layers


def _submodules_of(block: nn.Module) -> list[nn.Module]:
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


def _rows(states: Tensor, index: Tensor) -> Tensor:
    return states.gather(1, index[..., None].expand(-1, -1, states.shape[2]))
