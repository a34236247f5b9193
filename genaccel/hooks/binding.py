# SPDX-License-Identifier: Apache-2.0
"""Hooks on one model: all that watches or changes what it computes attaches here, and nowhere else.

A model is bound once, however many pipelines accelerate it; each of its calls goes to the host that
claims it, and to none if no host does. A host gives its call a frame, which tells the hooks of the
blocks what to do in it. All decisions are taken outside the model's forward, so that a compiled forward
holds no branch on data or on the step.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch
from diffusers.hooks.hooks import HookRegistry, ModelHook
from torch import nn

from genaccel.hooks.blocks import (
    BlockHook,
    BlockList,
    CallFrame,
    CurrentFrame,
    find_block_lists,
)
from genaccel.hooks.submodules import SubmoduleHooks
from genaccel.hooks.time_window import TimeHooks
from genaccel.hooks.unhook import (
    PREFIX,
    copy_as_it_is,
    copy_without_hooks,
    find_hook,
    hook,
    unhook,
)

HOOK_NAME = PREFIX

_ATTRIBUTE = f"_{PREFIX}_binding"

Forward = Callable[..., Any]


class AlreadyEnabledError(ValueError):
    """The model or pipeline is accelerated already."""


class CallHost(Protocol):
    """An object that makes some of the calls of a bound model, in the model's place."""

    def claims(self) -> bool:
        """Whether the call that begins in this context is its own."""

    def run_call(self, forward: Forward, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Make a call that it claimed, and return what the model is to return."""


class _RootHook(ModelHook):
    """The hook on the model itself."""

    fn_ref: Any

    def __init__(self, binding: Binding) -> None:
        super().__init__()
        self.binding = binding

    def new_forward(self, module: nn.Module, *args: Any, **kwargs: Any) -> Any:
        return self.binding.run_call(self.fn_ref.original_forward, args, kwargs)


class Binding:
    """The hooks on one model; :meth:`of` finds or makes the binding of a model.

    Args:
        model: Any model with lists of transformer blocks, compiled or not.

    Attributes:
        model: The model, without what ``torch.compile`` wrapped around it.
        lists: Its lists of blocks.
        current: Tells the frame of the call that this thread is in.
        submodules: Hooks on the submodules of blocks, where a host asked for them.
        times: Hooks on the modules that embed the time, where a host asked for them.
        compiled: The model's forward as :meth:`compile` made it.
        copies_outputs: Whether outputs live in memory that the next call uses again.
        plain_calls: Calls that no host claimed.

    Raises:
        ValueError: If the model has no lists of transformer blocks.
    """

    def __init__(self, model: nn.Module) -> None:
        self.model: Any = unwrapped(model)
        self.lists: list[BlockList] = find_block_lists(self.model)
        if not self.lists:
            raise ValueError(
                f"{type(self.model).__name__} has no list of transformer blocks, so there is nothing to accelerate"
            )
        self.current = CurrentFrame()
        self.hosts: list[CallHost] = []
        self.submodules: SubmoduleHooks | None = None
        self.times: TimeHooks | None = None
        self.compiled: Forward | None = None
        self.copies_outputs = False
        self.plain_calls = 0
        self._lock = threading.RLock()
        self._wrapper: Any = None
        self._gates: dict[int, tuple[nn.Module, Any]] = {}  # what a compiled module's call was
        self._hooks: list[tuple[nn.Module, BlockHook]] = []
        seen: set[int] = set()
        for i, found in enumerate(self.lists):
            for b, block in enumerate(found.blocks):
                if id(block) in seen:
                    continue  # shared weights: one hook, which is called twice
                seen.add(id(block))
                self._hooks.append((block, BlockHook(self.current, len(self._hooks), i, b)))
        for block, block_hook in self._hooks:
            hook(block, block_hook, HOOK_NAME)
        vars(self.model)[_ATTRIBUTE] = self
        hook(self.model, _RootHook(self), HOOK_NAME)
        self.refresh(model)

    @classmethod
    def of(cls, model: nn.Module) -> Binding:
        """The binding of a model, a new one if it has none."""
        found = cls.find(model)
        return cls(model) if found is None else found

    @staticmethod
    def find(model: nn.Module) -> Binding | None:
        """The binding of a model that has one."""
        found = vars(unwrapped(model)).get(_ATTRIBUTE)
        return found if isinstance(found, Binding) else None

    @property
    def block_hooks(self) -> Sequence[BlockHook]:
        """The hooks on blocks, in the order of their index."""
        return [block_hook for _, block_hook in self._hooks]

    def hook_of(self, block: nn.Module) -> BlockHook:
        """The hook on a block."""
        return next(block_hook for other, block_hook in self._hooks if other is block)

    def block_of(self, block_hook: BlockHook) -> nn.Module:
        """The block that a hook is on."""
        return self._hooks[block_hook.index][0]

    def add(self, host: CallHost, *, first: bool = False) -> None:
        """Let a host take part in calls of the model.

        Args:
            host: The host.
            first: Whether it is asked before the present hosts, and not after them.
        """
        with self._lock:
            self.hosts.insert(0 if first else len(self.hosts), host)

    def remove(self, host: CallHost) -> None:
        """Let a host take part no longer; the last one takes the hooks along.

        The model then computes what it did before, bit for bit.
        """
        with self._lock:
            if host in self.hosts:
                self.hosts.remove(host)
                if not self.hosts:
                    self._detach()

    def hook_submodules(self) -> SubmoduleHooks:
        """Hook the attention modules, feed-forwards and norms of the blocks, unless they are hooked."""
        with self._lock:
            if self.submodules is None:
                self.submodules = SubmoduleHooks(self.lists, self.current)
                self.model._diffusers_hook.invalidate_child_registries_cache()
            return self.submodules

    def hook_times(self) -> TimeHooks:
        """Hook the modules that embed the time in the model, unless they are hooked."""
        with self._lock:
            if self.times is None:
                self.times = TimeHooks(self.model, self.current)
                self.model._diffusers_hook.invalidate_child_registries_cache()
            return self.times

    @property
    def is_compiled_outside(self) -> bool:
        """Whether someone else compiled the model as a whole."""
        return self._wrapper is not None or id(self.model) in self._gates

    def refresh(self, model: nn.Module) -> None:
        """Move the hooks before what was compiled since: decisions are taken outside of compiled code.

        Compiled blocks are called from their hooks, instead of holding them, so that nothing is
        compiled anew for each block.

        Args:
            model: The bound one, or what ``torch.compile`` wrapped around it.
        """
        with self._lock:
            wrapper = model if model is not self.model else None
            if wrapper is not self._wrapper:
                self._unwrap()
                if wrapper is not None:
                    self._wrap(wrapper)
            for module, block_hook in self._hooks:
                self._stand_before(module, block_hook, None)
            self._stand_before(self.model, None, self.run_call)
            registry = HookRegistry.check_if_exists_or_initialize(self.model)
            registry.invalidate_child_registries_cache()

    def _stand_before(self, module: nn.Module, block_hook: Any, run: Any) -> None:
        compiled = vars(module).get("_compiled_call_impl")
        if compiled is None or isinstance(compiled, _Gate):
            return
        if find_hook(module, HOOK_NAME) is not None:
            unhook(module, HOOK_NAME)
        copy_without_hooks(module)
        self._gates[id(module)] = (module, compiled)
        vars(module)["_compiled_call_impl"] = _Gate(compiled, block_hook, run)

    def _wrap(self, wrapper: Any) -> None:
        compiled = vars(wrapper).get("forward")
        if compiled is not None:
            self._wrapper = wrapper
            vars(wrapper)["forward"] = _Gate(compiled, None, self.run_call)
            # What is compiled is all of the model's own call.
            if find_hook(self.model, HOOK_NAME) is not None:
                unhook(self.model, HOOK_NAME)
            copy_without_hooks(self.model)

    def _unwrap(self) -> None:
        if self._wrapper is None:
            return
        gate = vars(self._wrapper).get("forward")
        if isinstance(gate, _Gate):
            vars(self._wrapper)["forward"] = gate.compiled
        self._wrapper = None
        if id(self.model) not in self._gates:
            hook(self.model, _RootHook(self), HOOK_NAME)

    def compile(self, **options: Any) -> None:
        """Compile the model's forward, the step logic outside of it.

        Args:
            options: Of ``torch.compile``.
        """
        root = find_hook(self.model, HOOK_NAME)
        if root is None or self._wrapper is not None:
            raise ValueError(f"{type(self.model).__name__} is compiled already")
        self.compiled = torch.compile(root.fn_ref.original_forward, **options)
        # These modes replay CUDA graphs.
        self.copies_outputs = options.get("mode") in ("reduce-overhead", "max-autotune")

    def run_call(self, forward: Forward, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Make a call of the model: through the host that claims it, or plainly."""
        if torch.compiler.is_compiling():
            # By someone who compiled after the hooks came, and whom we could not follow.
            return self._run_uncompiled(forward, args, kwargs)
        return self._run_call(forward, args, kwargs)

    def _run_call(self, forward: Forward, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if self.current.frame is not None:
            # Within a call that was decided on already, such as that of a compiled wrapper.
            return forward(*args, **kwargs)
        host = next((host for host in self.hosts if host.claims()), None)
        if host is None:
            self.plain_calls += 1
            return forward(*args, **kwargs)
        return host.run_call(self.compiled or forward, args, kwargs)

    @torch.compiler.disable(
        reason="genaccel counts steps outside of compiled code: compile before genaccel.enable, or call "
        "handle.compile(fullgraph=True)"
    )
    def _run_uncompiled(
        self, forward: Forward, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        return self._run_call(forward, args, kwargs)

    def in_frame(
        self, frame: CallFrame, forward: Forward, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        """Run the model with the hooks doing what a frame says."""
        outer, self.current.frame = self.current.frame, frame
        try:
            return forward(*args, **kwargs)
        finally:
            self.current.frame = outer

    def _detach(self) -> None:
        if self.submodules is not None:
            self.submodules.detach()
            self.submodules = None
        if self.times is not None:
            self.times.detach()
            self.times = None
        self._unwrap()
        for module, compiled in self._gates.values():
            if isinstance(vars(module).get("_compiled_call_impl"), _Gate):
                vars(module)["_compiled_call_impl"] = compiled
        self._gates.clear()
        self.compiled = None
        registry = HookRegistry.check_if_exists_or_initialize(self.model)
        registry.invalidate_child_registries_cache()
        for module in (*(block for block, _ in self._hooks), self.model):
            if find_hook(module, HOOK_NAME) is not None:
                unhook(module, HOOK_NAME)
            copy_as_it_is(module)
        vars(self.model).pop(_ATTRIBUTE, None)
        if not registry.hooks:
            vars(self.model).pop("_diffusers_hook", None)

    def __deepcopy__(self, memo: dict[int, Any]) -> None:
        """A copy of a bound model is not bound."""


class _Gate:
    """A callable in place of compiled code, which the hook runs if it decides to compute.

    Args:
        compiled: The compiled code.
        block_hook: The hook of a block; None for a model.
        run: Makes a call of a model, given the compiled code; None for a block.
    """

    def __init__(self, compiled: Forward, block_hook: Any, run: Any) -> None:
        self.compiled = compiled
        self._hook = block_hook
        self._run = run

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if self._run is not None:
            return self._run(self.compiled, args, kwargs)
        return self._hook.run(self.compiled, args, kwargs)

    def __deepcopy__(self, memo: dict[int, Any]) -> None:
        """A copy of a compiled module is not compiled."""


def unwrapped(model: nn.Module) -> Any:
    """A model without what ``torch.compile`` wrapped around it."""
    return getattr(model, "_orig_mod", model)
