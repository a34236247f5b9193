# SPDX-License-Identifier: Apache-2.0
"""The one way to put our hooks on a module, to copy the module without them, and to take them off again."""

from __future__ import annotations

import functools
from typing import Any

from diffusers.hooks.hooks import HookRegistry, ModelHook
from torch import nn

# Begins the names of all our hooks, and with an underscore of what else we leave at a module.
PREFIX = "genaccel"

# Both copy and pickle ask the instance for it.
_COPIER = "__reduce_ex__"


def hook(module: nn.Module, ours: ModelHook, name: str) -> None:
    """Register a hook of ours in a module's chain.

    A deep copy of the module comes without it, and computes what the module did before: diffusers'
    hooks hold the module that they were made for, so that a copy would go on running the original.

    Raises:
        ValueError: If the chain has one of that name.
    """
    HookRegistry.check_if_exists_or_initialize(module).register_hook(ours, name)
    copy_without_hooks(module)


def copy_without_hooks(module: nn.Module) -> None:
    """Let deep copies of a module come without what is ours, until :func:`copy_as_it_is`."""
    vars(module).setdefault(_COPIER, functools.partial(_reduced, module))


def copy_as_it_is(module: nn.Module) -> None:
    """Undo :func:`copy_without_hooks`."""
    vars(module).pop(_COPIER, None)


def find_hook(module: nn.Module, name: str) -> Any:
    """The hook of that name, or None."""
    registry = vars(module).get("_diffusers_hook")
    return registry.get_hook(name) if isinstance(registry, HookRegistry) else None


def unhook(module: nn.Module, name: str) -> None:
    """Take a hook out of a module's chain; nothing of it is left behind.

    diffusers hands what we wrapped to the hook above as its ``forward``, even where that hook has a
    forward of its own, which is then lost.
    """
    registry: Any = module._diffusers_hook
    place = registry._hook_order.index(name)
    above = registry._fn_refs[place + 1] if place + 1 < len(registry._fn_refs) else None
    if above is None or above.original_forward is None:
        registry.remove_hook(name, recurse=False)
    else:
        kept = above.forward
        registry.remove_hook(name, recurse=False)
        above.forward, above.original_forward = kept, above.forward
    if not any(other.startswith(PREFIX) for other in registry.hooks):
        copy_as_it_is(module)
    if registry.hooks:
        return
    del module._diffusers_hook
    # Hooks leave the method of the class behind as an attribute of the instance.
    forward = vars(module).get("forward")
    if getattr(forward, "__func__", None) is type(module).forward:
        del module.forward


def _reduced(module: nn.Module, protocol: Any) -> tuple[Any, ...]:
    """Reduce a module, as copy and pickle ask for it, to a copy without our hooks and attributes."""
    ours = f"_{PREFIX}"
    state = {k: v for k, v in vars(module).items() if k != _COPIER and not k.startswith(ours)}
    registry = state.get("_diffusers_hook")
    if registry is not None and all(name.startswith(PREFIX) for name in registry.hooks):
        del state["_diffusers_hook"]
        state.pop("forward", None)
    state.pop("_compiled_call_impl", None)  # as in a copy that torch makes
    return new_instance, (type(module),), state


def new_instance(cls: type, *args: Any) -> Any:
    """An instance of a class that is still to get its state; pickles name this function."""
    return cls.__new__(cls, *args)
