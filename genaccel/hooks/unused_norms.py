# SPDX-License-Identifier: Apache-2.0
"""Norms that a partial step need not compute, as only submodules that are forecast would read them.

Which those are is not read off a block's code but tried: the block is run again, its submodules returning
what they did and the norm returning NaN. The same output, bit for bit, says that nothing else reads it.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Sequence
from typing import Any

import torch
from diffusers.hooks.hooks import ModelHook
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from genaccel.hooks.blocks import CurrentFrame
from genaccel.hooks.unhook import PREFIX, hook, unhook

NORM_HOOK_NAME = f"{PREFIX}_norm"

# Compute all norms; leave out those that a partial step without tokens, or with some, does not need; let
# those that are tried return NaN.
COMPUTE, WITHOUT_TOKENS, WITH_TOKENS, POISON = range(4)


class NormHook(ModelHook):
    """The hook on a norm within a block.

    Args:
        current: Tells the frame of the current call, which says what the norms of the layer do.
        layer: Index of the layer.

    Attributes:
        leaves_out: Whether it may be left out in a partial step: first, in one that computes no
            tokens; second, in one that computes some. What is left out is one token long, so that
            the shifts and scales that follow cost nothing either.
        is_tried: Whether it is tried out right now.
    """

    fn_ref: Any

    def __init__(self, current: CurrentFrame, layer: int) -> None:
        super().__init__()
        self.current = current
        self.layer = layer
        self.leaves_out = [False, False]
        self.is_tried = False

    def new_forward(self, module: nn.Module, *args: Any, **kwargs: Any) -> Any:
        frame = self.current.frame
        action = COMPUTE
        if frame is not None and frame.submodules is not None:
            action = frame.submodules.norms[self.layer]
        if (
            action == COMPUTE
            or not (
                self.is_tried
                if action == POISON
                else self.leaves_out[1 if action == WITH_TOKENS else 0]
            )
            or not args
            or not isinstance(args[0], Tensor)
            or args[0].ndim < 3
        ):
            return self.fn_ref.original_forward(*args, **kwargs)
        token = args[0][..., :1, :]
        # A copy: the block may change it in place, and the states must not change.
        return torch.full_like(token, torch.nan) if action == POISON else token.clone()


class BlockNorms:
    """The norms of one block, except those within its attention and feed-forward.

    Args:
        block: A transformer block.
        submodules: Its attention modules and its feed-forward.
        current: Tells the frame of the current call.
        layer: Index of the block among those with such submodules.
        shared: Modules, by ``id``, that other blocks have too: what is left out here could be needed there.
    """

    def __init__(
        self,
        block: nn.Module,
        submodules: Sequence[nn.Module],
        current: CurrentFrame,
        layer: int,
        shared: Container[int] = (),
    ) -> None:
        inside = {id(part) for submodule in submodules for part in submodule.modules()}
        self._norms = [
            module
            for module in block.modules()
            if id(module) not in inside
            and id(module) not in shared
            and "norm" in type(module).__name__.lower()
            and not any(True for _ in module.children())
        ]
        self._hooks = [NormHook(current, layer) for _ in self._norms]
        for norm, norm_hook in zip(self._norms, self._hooks, strict=True):
            hook(norm, norm_hook, NORM_HOOK_NAME)

    def try_out(self, run: Callable[[], Any], output: Any, *, has_tokens: bool) -> None:
        """Find the norms that may be left out in one kind of partial step.

        Args:
            run: Runs the block on the outputs of its submodules, norms that are tried returning NaN.
            output: What the block returns if all norms are computed.
            has_tokens: Whether steps of this kind compute the feed-forward of some tokens.
        """
        # Mostly all or all but one, so each is tried together with those found before.
        for norm_hook in self._hooks:
            norm_hook.is_tried = True
            try:
                is_unused = _is_same(run(), output)
            except Exception:  # whatever a model does with a shape that it did not expect
                is_unused = False
            norm_hook.leaves_out[int(has_tokens)] = norm_hook.is_tried = is_unused
        for norm_hook in self._hooks:
            norm_hook.is_tried = False

    def detach(self) -> None:
        """Remove the hooks."""
        for norm in self._norms:
            unhook(norm, NORM_HOOK_NAME)


def _is_same(first: Any, second: Any) -> bool:
    pairs = list(zip(tree_leaves(first), tree_leaves(second), strict=True))
    return all(
        a.dtype == b.dtype and torch.equal(a, b) if isinstance(b, Tensor) else a == b
        for a, b in pairs
    )
