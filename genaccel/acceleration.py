# SPDX-License-Identifier: Apache-2.0
"""``enable`` and ``disable``: the method is found by the type of its config, or by its name in a flag.

A new method registers with one entry in ``METHODS``; its modules are imported when it is first used.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, overload

if TYPE_CHECKING:
    from genaccel.hooks.handle import Acceleration
    from genaccel.sensitivity.config import SensitivityConfig
    from genaccel.sensitivity.enable import SensitivityHandle
    from genaccel.skip_decoding.config import SkipDecodingConfig
    from genaccel.skip_decoding.enable import SkipDecodingHandle

# Where a pipeline or model keeps the handles of what accelerates it, by method.
_ATTRIBUTE = "_genaccel_handles"


@dataclass(frozen=True, slots=True)
class Method:
    """A method of acceleration, by the paths of its parts, which are imported when they are used.

    Attributes:
        name: Name of the method in flags.
        config: Path of its config's class, as ``module:name``; those below are of the same form.
        enabler: Path of the function ``(target, config, *, num_inference_steps)`` that enables it.
        from_text: Path of the function that makes a config of the value behind the name in a flag,
            an empty text if there is none.
        allowed: Allowed flags, for messages.
    """

    name: str
    config: str
    enabler: str
    from_text: str
    allowed: str


METHODS = (
    Method(
        "soda",
        "genaccel.sensitivity.config:SensitivityConfig",
        "genaccel.sensitivity.enable:enable_sensitivity",
        "genaccel.sensitivity.flag:config_from_text",
        '"soda" or "soda:<speedup>" such as "soda:3"',
    ),
    Method(
        "vvs",
        "genaccel.skip_decoding.config:SkipDecodingConfig",
        "genaccel.skip_decoding.enable:enable_skip_decoding",
        "genaccel.skip_decoding.config:config_from_text",
        '"vvs" or "vvs:<mode>" such as "vvs:uniform"',
    ),
)


@overload
def enable(
    target: Any, config: SensitivityConfig, *, num_inference_steps: int | None = None
) -> SensitivityHandle: ...
@overload
def enable(target: Any, config: SkipDecodingConfig) -> SkipDecodingHandle: ...
def enable(target: Any, config: Any, *, num_inference_steps: int | None = None) -> Any:
    """Accelerate a diffusers pipeline, or a model of one, or a language model of transformers.

    Nothing else about them changes, and ``handle.disable()`` undoes it bit for bit. Only calls of this
    pipeline are accelerated: others on the same weights, direct calls of the model and training steps
    compute as ever. A generation never fails because of it.

    Args:
        target: A pipeline or a model of the kind that the method accelerates: a diffusion transformer, or a language
            model that draws image tokens.
        config: Config of a method: ``SensitivityConfig(speedup=2.0)`` or ``SkipDecodingConfig()``.
        num_inference_steps: Steps of each run, where ``target`` is a bare model.

    Returns:
        A handle: ``paused()``, ``report()``, ``doctor()``, ``disable()``, and ``compile()`` of diffusion transformers.

    Raises:
        ValueError: If there is nothing to accelerate in it, or it is accelerated already.
        TypeError: If the config is none of genaccel's.
    """
    method = method_of(config)
    handle = _load(method.enabler)(target, config, num_inference_steps=num_inference_steps)
    handles: dict[str, Acceleration] = vars(target).setdefault(_ATTRIBUTE, {})
    handles[method.name] = handle
    handle.disabled = lambda: _forget(target, method.name)
    return handle


def disable(target: Any) -> None:
    """Undo whatever accelerates a pipeline or model, also where its handle was lost.

    Nothing happens if nothing does.
    """
    for handle in list(handles_of(target).values()):
        handle.disable()


def is_enabled(target: Any) -> bool:
    """Whether anything accelerates a pipeline or model."""
    return any(handle.is_enabled for handle in handles_of(target).values())


def handles_of(target: Any) -> Mapping[str, Acceleration]:
    """Handles of what accelerates a pipeline or model, by method."""
    found: Mapping[str, Acceleration] = vars(target).get(_ATTRIBUTE, {})
    return found


def method_of(config: Any) -> Method:
    """The method that a config belongs to.

    Raises:
        TypeError: If it is none of genaccel's.
    """
    names = []
    for method in METHODS:
        module, _, name = method.config.partition(":")
        if type(config).__module__ == module and type(config).__name__ == name:
            return method
        names.append(name)
    raise TypeError(f"config must be a {' or '.join(names)}, got {type(config).__name__}")


def config_of_flag(flag: Any) -> Any:
    """The config that a pipeline's flag ``accelerate=`` means; None for the plain pipeline.

    Args:
        flag: None, False, a config, or a text ``"name"`` or ``"name:value"``.

    Raises:
        TypeError: If it is nothing of the kind.
        ValueError: If there is no such method, or it does not know the value.
    """
    if flag is None or flag is False:
        return None
    if not isinstance(flag, str):
        try:
            method_of(flag)
        except TypeError:
            raise TypeError(f"{_allowed()}; got {flag!r}") from None
        return flag
    name, colon, value = flag.partition(":")
    for method in METHODS:
        if method.name == name and (not colon or value):
            try:
                return _load(method.from_text)(value)
            except ValueError as error:
                raise ValueError(f"{_allowed()}: {error}; got {flag!r}") from None
    raise ValueError(f"{_allowed()}; got {flag!r}")


def _allowed() -> str:
    names = ", ".join(method.allowed for method in METHODS)
    configs = " or a ".join(method.config.rpartition(":")[2] for method in METHODS)
    return f"accelerate must be None or False for the plain pipeline, {names}, or a {configs}"


def _load(path: str) -> Callable[..., Any]:
    module, _, name = path.partition(":")
    found: Callable[..., Any] = getattr(importlib.import_module(module), name)
    return found


def _forget(target: Any, name: str) -> None:
    handles = vars(target).get(_ATTRIBUTE)
    if handles is not None:
        handles.pop(name, None)
        if not handles:
            del vars(target)[_ATTRIBUTE]
