# SPDX-License-Identifier: Apache-2.0
"""The flag ``accelerate=`` for any diffusers pipeline.

The acceleration is that of ``genaccel.enable``; the mixin only decides, at the beginning of every call,
whether it should be there.
"""

from __future__ import annotations

from typing import Any, ClassVar

from genaccel.acceleration import config_of_flag, enable
from genaccel.hooks.handle import Acceleration
from genaccel.pipelines.pipeline_mixin import Flag, PipelineMixin
from genaccel.sensitivity.config import SensitivityConfig
from genaccel.sensitivity.enable import SensitivityHandle
from genaccel.skip_decoding.config import SkipDecodingConfig
from genaccel.skip_decoding.enable import SkipDecodingHandle


class AccelerateMixin(PipelineMixin):
    """Adds ``accelerate=`` to the call of a diffusers pipeline; the two below say of which method it is.

    It goes before the pipeline in the list of bases. Without the flag a call is the stock
    pipeline's, bit for bit. With it, the acceleration is attached on first use and stays until the flag
    changes.

    Pipelines that share a model (``from_pipe``) do not see each other's flag. What
    ``genaccel.enable`` attached to this one is the caller's and stays.
    """

    # Not set in __init__, which must stay the stock one: diffusers reads the components off its signature.
    _accelerated: ClassVar[tuple[Any, Any] | None] = None

    def __call__(self, *args: Any, accelerate: Any = None, **kwargs: Any) -> Any:
        """Generate, accelerated or not; all other arguments are the stock pipeline's.

        Raises:
            ValueError: If ``accelerate`` is no known name.
            TypeError: If it is nothing of the kind.
        """
        _switch(self, config_of_flag(accelerate))
        call = super().__call__  # type: ignore[misc]  # the pipeline's, behind the mixin
        handle: Any = self.acceleration
        return call(*args, **kwargs) if handle is None else handle.run(self, call, args, kwargs)

    @property
    def acceleration(self) -> Acceleration | None:
        """Handle of the acceleration: ``report()``, ``doctor()``, ``disable()``; None while off."""
        if self._accelerated is None or not self._accelerated[1].is_enabled:
            return None
        handle: Acceleration = self._accelerated[1]
        return handle

    def disable_acceleration(self) -> None:
        """Take the acceleration away at once; a call without the flag does the same."""
        if self._accelerated is not None:
            self._accelerated[1].disable()
            del self._accelerated


class SensitivityMixin(AccelerateMixin):
    """Adds ``accelerate="soda"`` (SODA, arXiv:2603.07057) to the call of a diffusers pipeline.

    The first call of a new setting measures, unless a plan is kept for it already.

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

    _accelerated: ClassVar[tuple[SensitivityConfig, SensitivityHandle] | None] = None

    flags = (
        Flag(
            name="accelerate",
            annotation=str | SensitivityConfig | None,
            documentation=(
                "accelerate (`str` or `SensitivityConfig`, *optional*):",
                '    `"soda"` halves the FLOPs of the transformer, `"soda:3"` leaves a third of them; a',
                "    `genaccel.SensitivityConfig` says more. `None` and `False` run the plain pipeline.",
            ),
        ),
    )


class SkipDecodingMixin(AccelerateMixin):
    """Adds ``accelerate="vvs"`` (VVS, arXiv:2511.13587) to the call of a pipeline that draws image tokens.

    Such are those of a language model of transformers, as diffusers' ``GlmImagePipeline``, and
    ``AutoregressiveImagePipeline``.

    Example:
        >>> from diffusers import GlmImagePipeline
        >>> class AcceleratedGlmImagePipeline(SkipDecodingMixin, GlmImagePipeline):
        ...     pass
        >>> pipe = AcceleratedGlmImagePipeline.from_pretrained("zai-org/GLM-Image")  # doctest: +SKIP
        >>> image = pipe("a lighthouse", accelerate="vvs").images[0]  # doctest: +SKIP
    """

    _accelerated: ClassVar[tuple[SkipDecodingConfig, SkipDecodingHandle] | None] = None

    flags = (
        Flag(
            name="accelerate",
            annotation=str | SkipDecodingConfig | None,
            documentation=(
                "accelerate (`str` or `SkipDecodingConfig`, *optional*):",
                '    `"vvs"` draws several image tokens a forward, distributed as ever; `"vvs:lantern"`, `"vvs:uniform"`',
                '    and `"vvs:dynamic"` trade likeness for speed; a `genaccel.SkipDecodingConfig` says more. `None` and',
                "    `False` run the plain pipeline.",
            ),
        ),
    )


def _switch(pipeline: Any, config: Any) -> None:
    """Attach, keep, replace or detach."""
    handle = pipeline.acceleration
    if handle is not None and config == pipeline._accelerated[0]:
        return
    pipeline.disable_acceleration()
    if config is not None:
        pipeline._accelerated = (config, enable(pipeline, config))
