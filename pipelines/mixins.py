# SPDX-License-Identifier: Apache-2.0
"""The flag ``accelerate=`` for any diffusers pipeline.

The hooks are those of ``genaccel.enable``; the mixin only decides, at the beginning of every call,
whether they should be there.
"""

from __future__ import annotations

import re
from typing import Any, ClassVar

from diffusers.hooks.hooks import HookRegistry
from torch import nn

from genaccel.hooks.block_hook import HOOK_NAME
from genaccel.pipelines.pipeline_mixin import Flag, PipelineMixin
from genaccel.sensitivity.config import SensitivityConfig
from genaccel.sensitivity.enable import SensitivityHandle, enable_sensitivity

_SODA_SPEEDUP = 2.0

_ALLOWED = (
    'accelerate must be None or False for the plain pipeline, "soda" or "soda:<speedup>" '
    'such as "soda:3", or a SensitivityConfig'
)

_FLAG = Flag(
    name="accelerate",
    annotation=str | SensitivityConfig | None,
    documentation=(
        "accelerate (`str` or `SensitivityConfig`, *optional*):",
        '    `"soda"` halves the FLOPs of the transformer, `"soda:3"` leaves a third of them; a',
        "    `genaccel.SensitivityConfig` says more. `None` and `False` run the plain pipeline.",
    ),
)


class SensitivityMixin(PipelineMixin):
    """Adds ``accelerate=`` (SODA, arXiv:2603.07057) to the call of a diffusers pipeline.

    It goes before the pipeline in the list of bases. Without the flag a call is the stock
    pipeline's, bit for bit. With it, hooks are attached on first use and stay until the flag
    changes; the first call of a new setting measures, unless a plan is kept for it already.

    Pipelines that share a transformer (``from_pipe``) do not see each other's flag: the one that
    is called takes the other's hooks away, and the other attaches its own again when its turn
    comes. What ``genaccel.enable`` attached is the caller's and stays.

    Example:
        >>> from diffusers import AutoencoderKL, DDIMScheduler, DiTPipeline, DiTTransformer2DModel
        >>> class AcceleratedDiTPipeline(SensitivityMixin, DiTPipeline):
        ...     pass
        >>> transformer = DiTTransformer2DModel(
        ...     sample_size=8, num_layers=3, num_attention_heads=2, attention_head_dim=8, out_channels=4
        ... )
        >>> pipe = AcceleratedDiTPipeline(transformer, AutoencoderKL(), DDIMScheduler())
        >>> pipe.acceleration is None
        True
    """

    # Not set in __init__, which must stay the stock one: diffusers reads the components off its signature.
    _accelerated: ClassVar[tuple[SensitivityConfig, SensitivityHandle] | None] = None

    flags = (_FLAG,)

    def __call__(
        self, *args: Any, accelerate: str | SensitivityConfig | bool | None = None, **kwargs: Any
    ) -> Any:
        """Generate, accelerated or not; all other arguments are the stock pipeline's.

        Raises:
            ValueError: If ``accelerate`` is no known name.
            TypeError: If it is nothing of the kind.
        """
        _switch(self, _config_of(accelerate))
        return super().__call__(*args, **kwargs)

    @property
    def acceleration(self) -> SensitivityHandle | None:
        """Handle of the acceleration: ``report()``, ``doctor()``, ``compile()``; None while off."""
        if self._accelerated is None or not self._accelerated[1].is_enabled:
            return None
        return self._accelerated[1]

    def disable_acceleration(self) -> None:
        """Take the hooks away at once; a call without the flag does the same."""
        if self._accelerated is not None:
            self._accelerated[1].disable()
            del self._accelerated


def _config_of(accelerate: str | SensitivityConfig | bool | None) -> SensitivityConfig | None:
    """What a user's flag means; None is plain."""
    if accelerate is None or accelerate is False:
        return None
    if isinstance(accelerate, SensitivityConfig):
        return accelerate
    if not isinstance(accelerate, str):
        raise TypeError(f"{_ALLOWED}; got {accelerate!r}")
    if accelerate == "soda":
        return SensitivityConfig(speedup=_SODA_SPEEDUP)
    found = re.fullmatch(r"soda:(\d+(?:\.\d*)?)", accelerate)
    if found is None or not float(found[1]) > 1:
        raise ValueError(f"{_ALLOWED}, where a speedup is above 1; got {accelerate!r}")
    return SensitivityConfig(speedup=float(found[1]))


def _switch(pipeline: Any, config: SensitivityConfig | None) -> None:
    """Attach, keep, replace or detach."""
    if config is not None and _is_attached(pipeline, config):
        return
    pipeline.disable_acceleration()
    hooks = _hooks(pipeline)
    for hook in hooks:
        other: SensitivityHandle | None = getattr(hook, "flag_handle", None)
        if other is not None:
            other.disable()
    if config is None:
        return
    handle = enable_sensitivity(pipeline, config)
    for hook in _hooks(pipeline):
        # A model carries this itself, so that no list of all pipelines need be kept anywhere.
        hook.flag_handle = handle
    pipeline._accelerated = (config, handle)


def _is_attached(pipeline: Any, config: SensitivityConfig) -> bool:
    """Whether just this is in place, on the models that the pipeline has now."""
    handle: SensitivityHandle | None = pipeline.acceleration
    if handle is None or pipeline._accelerated[0] != config:
        return False
    hooked = [hook.attachment for hook in _hooks(pipeline)]
    held = list(handle.attachments.values())
    return len(hooked) == len(held) and all(any(a is b for b in held) for a in hooked)


def _hooks(pipeline: Any) -> list[Any]:
    """genaccel's hooks on the models of a pipeline, whoever placed them."""
    found: list[Any] = []
    for module in pipeline.components.values():
        # torch.compile(model) wraps it; the hooks are inside.
        registry = getattr(getattr(module, "_orig_mod", module), "_diffusers_hook", None)
        if isinstance(module, nn.Module) and isinstance(registry, HookRegistry):
            hook = registry.get_hook(HOOK_NAME)
            if hook is not None:
                found.append(hook)
    return found
