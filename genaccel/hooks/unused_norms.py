# SPDX-License-Identifier: Apache-2.0
"""Norms that a partial step need not compute: only modules that are forecast would have read them.

Which those are is not read off a block's code but tried: a block whose modules return what they did
is run again with NaN in place of the norm. The same output, bit for bit, says that nothing else reads it.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Sequence
from typing import Any

import torch
from diffusers.hooks.hooks import HookRegistry, ModelHook
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

NORM_HOOK_NAME = "genaccel_norm"

COMPUTE, LEAVE_OUT, POISON = range(3)


class NormHook(ModelHook):
    """On a norm within a block.

    Attributes:
        action: What it does in the calls that follow. What is left out is one token long, so that
            the shifts and scales that follow cost nothing either.
        leaves_out: Whether it may be left out in a partial step: first, in one that computes no
            tokens; second, in one that computes some.
    """

    fn_ref: Any

    def __init__(self) -> None:
        super().__init__()
        self.action = COMPUTE
        self.leaves_out = [False, False]

    def new_forward(self, module: nn.Module, *args: Any, **kwargs: Any) -> Any:
        if (
            self.action == COMPUTE
            or not args
            or not isinstance(args[0], Tensor)
            or args[0].ndim < 3
        ):
            return self.fn_ref.original_forward(*args, **kwargs)
        token = args[0][..., :1, :]
        # A copy: the block may change it in place, and the states must not change.
        return token.clone() if self.action == LEAVE_OUT else torch.full_like(token, torch.nan)


class BlockNorms:
    """The norms of one block, but for those within its attention and feed-forward.

    Args:
        block: Of a transformer.
        modules: Its attention modules and its feed-forward.
        shared: Modules, by ``id``, that other blocks have too: what is left out here could be needed there.
    """

    def __init__(
        self, block: nn.Module, modules: Sequence[nn.Module], shared: Container[int] = ()
    ) -> None:
        inside = {id(part) for module in modules for part in module.modules()}
        self._norms = [
            module
            for module in block.modules()
            if id(module) not in inside
            and id(module) not in shared
            and "norm" in type(module).__name__.lower()
            and not any(True for _ in module.children())
        ]
        self._hooks = [NormHook() for _ in self._norms]
        for norm, hook in zip(self._norms, self._hooks, strict=True):
            HookRegistry.check_if_exists_or_initialize(norm).register_hook(hook, NORM_HOOK_NAME)

    def try_out(self, run: Callable[[], Any], output: Any, *, has_tokens: bool) -> None:
        """Find the norms that may be left out in one kind of partial step.

        Args:
            run: Runs the block on the outputs of its modules.
            output: What it then returns.
            has_tokens: Which kind: whether it computes the feed-forward of some tokens.
        """
        for hook in self._hooks:
            hook.leaves_out[has_tokens] = False
        # Mostly all or all but one, so each is tried together with those found before.
        for hook in self._hooks:
            hook.action = POISON
            try:
                is_unused = _is_same(run(), output)
            except Exception:  # whatever a model does with a shape that it did not expect
                is_unused = False
            hook.leaves_out[has_tokens] = is_unused
            hook.action = POISON if is_unused else COMPUTE
        self.computes()

    def leaves_out(self, *, has_tokens: bool) -> None:
        """In the next call, the block runs partially."""
        for hook in self._hooks:
            hook.action = LEAVE_OUT if hook.leaves_out[has_tokens] else COMPUTE

    def computes(self) -> None:
        """In the next call, every norm is computed."""
        for hook in self._hooks:
            hook.action = COMPUTE

    @property
    def modules(self) -> list[nn.Module]:
        """Those with a hook."""
        return self._norms


def _is_same(first: Any, second: Any) -> bool:
    pairs = list(zip(tree_leaves(first), tree_leaves(second), strict=True))
    return all(
        a.dtype == b.dtype and torch.equal(a, b) if isinstance(b, Tensor) else a == b
        for a, b in pairs
    )
