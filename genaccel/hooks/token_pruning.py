# SPDX-License-Identifier: Apache-2.0
"""Partial steps: attention from the cache, and the feed-forward for a few tokens only.

A block whose attention modules and feed-forward are modules of their own can run on cached outputs
of these, updated where it matters; its norms and gates, which belong to the current step, are
computed as ever. That is the token pruning of ToCa and of SODA (arXiv:2603.07057, S9).
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from diffusers.hooks.hooks import HookRegistry, ModelHook
from torch import Tensor, nn

from genaccel.hooks.block_lists import BlockList
from genaccel.hooks.flop_count import FlopCount
from genaccel.ops.tokens import select_tokens, token_scores

MODULE_HOOK_NAME = "genaccel_module"

OFF, STORE, PARTIAL, MEASURE = range(4)

TokenScore = Literal["mean", "drift", "random"]

_FEED_FORWARD_NAMES = ("ff", "mlp", "ffn", "feed_forward")


@dataclass(slots=True)
class PrunableBlock:
    """A block with attention and feed-forward of its own, as one call showed it.

    Attributes:
        block: The block.
        num_tokens: Tokens of the feed-forward; 0 until a call was watched.
        feed_forward_flops: Of one call.
        attention_flops: Of its attention modules.
        is_prunable: Whether the feed-forward treats tokens one by one, as far as shapes tell, and
            every module is called once.
    """

    block: nn.Module
    num_tokens: int = 0
    feed_forward_flops: int = 0
    attention_flops: int = 0
    is_prunable: bool = True


class _ModuleHook(ModelHook):
    """On an attention module or a feed-forward."""

    fn_ref: Any

    def __init__(self, pruner: TokenPruner, layer: int, place: int) -> None:
        super().__init__()
        self.pruner = pruner
        self.layer = layer
        self.place = place  # 0 is the feed-forward
        self.calls = 0

    def new_forward(self, module: nn.Module, *args: Any, **kwargs: Any) -> Any:
        pruner, forward = self.pruner, self.fn_ref.original_forward
        if pruner.counter is not None:
            return pruner.watch(self, args, kwargs)
        mode = pruner.modes[self.layer]
        if mode == OFF:
            return forward(*args, **kwargs)
        if mode == PARTIAL:
            kept = pruner.kept[self.layer][self.place]
            count = pruner.token_counts[self.layer]
            if self.place or not count:
                return kept
            states = args[0]  # [B, N, C]
            index = pruner.choose(self.layer, states, count)  # [B, k]
            rows = forward(_rows(states, index), *args[1:], **kwargs)
            # The cache is ours alone: blocks multiply what they get by a gate, into a new tensor.
            kept.scatter_(1, index[..., None].expand_as(rows), rows)
            return kept
        output = forward(*args, **kwargs)
        if mode == STORE:
            pruner.store(self.layer, self.place, args, output)
        elif self.place == 0 and pruner.observer is not None:
            pruner.observer(self.layer, args[0], output)
        return output


class TokenPruner:
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
        self.blocks: list[PrunableBlock] = []
        self.counter: FlopCount | None = None
        self.observer: Callable[[int, Tensor, Tensor], None] | None = None
        self.groups = 1
        self._modules: list[tuple[nn.Module, _ModuleHook]] = []
        seen: set[int] = set()
        for found in lists:
            for block in found.blocks:
                modules = _modules_of(block)
                if id(block) in seen or not modules:
                    continue
                seen.add(id(block))
                layer = len(self.blocks)
                self.blocks.append(PrunableBlock(block))
                for place, module in enumerate(modules):
                    hook = _ModuleHook(self, layer, place)
                    registry = HookRegistry.check_if_exists_or_initialize(module)
                    registry.register_hook(hook, MODULE_HOOK_NAME)
                    self._modules.append((module, hook))
        count = len(self.blocks)
        self.modes = [OFF] * count
        self.token_counts = [0] * count
        self._streams: dict[Hashable, list[dict[int, Any]]] = {}
        self._references: dict[Hashable, list[Tensor | None]] = {}
        self._stream: Hashable = None
        self._chosen: dict[tuple[int, tuple[int, ...]], Tensor] = {}
        self.kept: list[dict[int, Any]] = [{} for _ in range(count)]

    @property
    def bytes_held(self) -> int:
        """Bytes of the cached outputs."""
        tensors = [
            t
            for stream in self._streams.values()
            for kept in stream
            for output in kept.values()
            for t in (output if isinstance(output, tuple | list) else (output,))
        ]
        tensors += [t for stream in self._references.values() for t in stream if t is not None]
        return sum(t.numel() * t.element_size() for t in tensors if isinstance(t, Tensor))

    def reset(self) -> None:
        """Forget all outputs."""
        self._streams.clear()
        self._references.clear()
        self._chosen.clear()
        self.modes[:] = [OFF] * len(self.modes)

    def begin_call(self, stream: Hashable, step: int, states: Tensor | None) -> None:
        """A call of the model begins.

        Args:
            stream: Which calls belong together over the steps.
            step: Of the sampler; seeds random scores.
            states: Input of the model: equal halves of its batch are the two sides of
                classifier-free guidance, which share their tokens.
        """
        if stream not in self._streams:
            self._streams[stream] = [{} for _ in self.blocks]
            self._references[stream] = [None] * len(self.blocks)
            if states is not None and len(states) % 2 == 0:
                first, second = states.chunk(2)
                self.groups = 2 if torch.equal(first, second) else 1
        if stream == 0:
            self._chosen.clear()  # calls that follow in the same step share its tokens
        self._stream, self._step = stream, step
        self.kept = self._streams[stream]

    def can_run_partially(self, layers: Sequence[int]) -> bool:
        """Whether outputs of all these blocks are kept for this stream."""
        return all(self.kept[layer] for layer in layers)

    def store(self, layer: int, place: int, args: tuple[Any, ...], output: Any) -> None:
        """Keep an output of a computed step."""
        # Cloned where it will be updated in place; other outputs are only read.
        self.kept[layer][place] = output.clone() if place == 0 else output
        if place == 0 and self.score == "drift":
            self._references[self._stream][layer] = args[0]

    def choose(self, layer: int, states: Tensor, count: int) -> Tensor:
        """Tokens to compute anew, ``[B, k]``, ascending (S8)."""
        key = (layer, tuple(states.shape))
        shared = self._chosen.get(key)
        if shared is not None and shared.shape[1] == count:
            return shared
        index = select_tokens(self.scores(layer, states), count, groups=self._groups_of(states))
        self._chosen[key] = index
        return index

    def scores(self, layer: int, states: Tensor) -> Tensor:
        """Importance of each token, ``[B, N]`` (S8)."""
        if self.score == "random":
            generator = torch.Generator().manual_seed(
                (self.seed * 1009 + self._step) * 1009 + layer
            )
            return torch.rand(states.shape[:2], generator=generator).to(states.device)
        reference = self._references[self._stream][layer] if self.score == "drift" else None
        if reference is None:
            return token_scores(states.detach().contiguous(), "mean")
        return token_scores(states.detach().contiguous(), "drift", reference)

    def _groups_of(self, states: Tensor) -> int:
        return self.groups if len(states) % self.groups == 0 else 1

    def watch(self, hook: _ModuleHook, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run a module and take note of its shape and cost."""
        assert self.counter is not None
        before = self.counter.total
        output = hook.fn_ref.original_forward(*args, **kwargs)
        flops = self.counter.total - before
        block = self.blocks[hook.layer]
        hook.calls += 1
        fits = hook.calls == 1
        if hook.place == 0:
            states = args[0] if args else None
            fits = fits and (
                isinstance(states, Tensor)
                and isinstance(output, Tensor)
                and states.ndim == output.ndim == 3
                and states.shape[:2] == output.shape[:2]
            )
            block.feed_forward_flops += flops
            block.num_tokens = states.shape[1] if fits and isinstance(states, Tensor) else 0
        else:
            block.attention_flops += flops
        block.is_prunable = block.is_prunable and fits
        return output

    def watching_ends(self) -> None:
        """The watched call is over."""
        self.counter = None
        for _, hook in self._modules:
            if hook.calls != 1:
                self.blocks[hook.layer].is_prunable = False
            hook.calls = 0

    def detach(self) -> None:
        """Remove every hook."""
        for module, _ in self._modules:
            registry = HookRegistry.check_if_exists_or_initialize(module)
            registry.remove_hook(MODULE_HOOK_NAME, recurse=False)
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


def _rows(states: Tensor, index: Tensor) -> Tensor:
    return states.gather(1, index[..., None].expand(-1, -1, states.shape[2]))
