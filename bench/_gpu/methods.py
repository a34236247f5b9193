# SPDX-License-Identifier: Apache-2.0
"""SODA and other people's caches on any pipeline, eager, compiled or in CUDA graphs, for ``bench/gpu_end_to_end.py``."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

import genaccel
from bench._gpu.subjects import MODES, Mode, PipelineWorkload
from bench._sensitivity.peers import peers
from genaccel.sampling.methods import Attached, Method, Setting
from genaccel.sensitivity.enable import SensitivityHandle

PEERS = ("diffusers FirstBlockCache", "diffusers TaylorSeer, order 1", "cache-dit DBCache")


class Soda:
    """``genaccel.enable``, as a user calls it; the first run of a setting measures.

    Args:
        workload: Whose model.
        speedups: Targets.
        plans: Folder for the plans, at first empty.
    """

    def __init__(
        self, workload: PipelineWorkload, speedups: tuple[float, ...], plans: Path
    ) -> None:
        self._workload = workload
        self._plans = plans
        self._handles: dict[int, SensitivityHandle] = {}
        settings = tuple(Setting(f"speedup {s:g}", {"speedup": s}, expected=s) for s in speedups)
        self.method = Method(
            name="genaccel SODA", attach=self._attach, ladders=(settings,), role="ours"
        )

    def _attach(self, pipeline: Any, values: Mapping[str, Any]) -> Attached:
        config = genaccel.SensitivityConfig.from_dict(
            {"speedup": values["speedup"], "cache_dir": str(self._plans)}
        )
        self._handles[id(pipeline)] = genaccel.enable(pipeline, config)
        attached = Attached(pipeline, num_steps=self._workload.num_steps)
        # Once for a setting and a batch; from then on the plan is in the folder.
        self._workload.sample(attached, self._workload.calibration_samples(0))
        return attached

    def handle(self, attached: Attached) -> SensitivityHandle | None:
        """Of a pipeline that this was attached to."""
        return self._handles.get(id(attached.pipeline))


def other_methods(workload: PipelineWorkload) -> list[Method]:
    """Those of ``bench/soda.py``; models that know diffusers' caches use them as they are."""
    from diffusers.models.cache_utils import CacheMixin

    found = [method for method in peers(workload) if method.name in PEERS]
    if not isinstance(workload.pristine.transformer, CacheMixin):
        return found
    attach = {PEERS[0]: _first_block_cache, PEERS[1]: _taylorseer}
    return [
        dataclasses.replace(method, attach=attach.get(method.name, method.attach))
        for method in found
    ]


def _first_block_cache(pipeline: Any, values: Mapping[str, Any]) -> Attached:
    from diffusers import FirstBlockCacheConfig

    pipeline.transformer.enable_cache(FirstBlockCacheConfig(threshold=values["threshold"]))
    return Attached(pipeline)


def _taylorseer(pipeline: Any, values: Mapping[str, Any]) -> Attached:
    from diffusers import TaylorSeerCacheConfig

    pipeline.transformer.enable_cache(
        TaylorSeerCacheConfig(
            cache_interval=values["interval"],
            disable_cache_before_step=values["before"],
            max_order=values["order"],
            taylor_factors_dtype=pipeline.transformer.dtype,
        )
    )
    return Attached(pipeline)


def compile_for(attached: Attached, mode: Mode, handle: SensitivityHandle | None) -> None:
    """Put a pipeline into a mode.

    Ours and the plain model are compiled whole; a model with someone else's hooks block by block, as diffusers advises.

    Raises:
        KeyError: For an unknown mode.
    """
    options = MODES[mode]
    if options is None:
        return
    transformer = attached.pipeline.transformer
    if handle is not None:
        handle.compile(**options)
    elif getattr(transformer, "_diffusers_hook", None) is None and not _has_hooks(transformer):
        transformer.compile(**options)
    else:
        for block in _blocks(transformer):
            block.compile(**options)


def _has_hooks(transformer: nn.Module) -> bool:
    return any(
        getattr(module, "_diffusers_hook", None) is not None or "forward" in vars(module)
        for module in transformer.modules()
    )


def _blocks(transformer: nn.Module) -> list[nn.Module]:
    names = ("transformer_blocks", "single_transformer_blocks")
    return [block for name in names for block in getattr(transformer, name, ())]
