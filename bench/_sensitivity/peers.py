# SPDX-License-Identifier: Apache-2.0
"""Other people's caches on a ``DiTPipeline``, for ``bench/soda.py``.

``DiTTransformer2DModel`` lacks diffusers' ``CacheMixin`` and its pipeline opens no cache context. Both are added here
to a copy: a subclass of both on the one model, as diffusers does for its own classes, and a context around each
run. Nothing of the methods themselves is changed.
"""

from __future__ import annotations

import ast
import contextlib
import importlib
import io
import logging
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch

from bench._sensitivity.workload import Workload
from genaccel.sampling.methods import Attached, Method, Setting, settings

# Blocks of DiTTransformer2DModel, and what is in them.
_BLOCK = r"transformer_blocks\.\d+"
_ATTENTION, _FEED_FORWARD = rf"{_BLOCK}\.attn1", rf"{_BLOCK}\.ff"

# Relative changes, each a fifth above the last.
_THRESHOLDS = tuple(0.01 * 1.2**i for i in range(32))


def peers(workload: Workload) -> list[Method]:
    """The methods of other people, with the ladders of their settings."""
    steps = workload.num_steps
    return [
        Method(
            name="diffusers FirstBlockCache",
            attach=_first_block_cache,
            ladders=(settings("threshold", _THRESHOLDS),),
            adapts=True,
        ),
        *(
            Method(
                name=f"diffusers TaylorSeer, order {order}{kind}",
                attach=_taylorseer,
                ladders=(_taylorseer_ladder(steps, order, is_lite=bool(kind)),),
            )
            for kind in ("", ", lite")
            for order in (1, 2)
        ),
        Method(
            name="diffusers MagCache",
            attach=_MagCache(workload),
            ladders=(
                # The defaults, and what reaches higher speeds: 2.5x is the most of 3 skips after a fifth of the steps.
                settings("threshold", _THRESHOLDS, max_skip_steps=3, retention_ratio=0.2),
                tuple(
                    Setting(f"{s.label}, K 8, retention 0.1", s.values)
                    for s in settings(
                        "threshold", _THRESHOLDS, max_skip_steps=8, retention_ratio=0.1
                    )
                ),
            ),
        ),
        Method(
            name="diffusers PAB",
            attach=_pyramid_attention_broadcast,
            ladders=(settings("range", (2, 3, 4, 6, 8)),),
            note="attention only",
        ),
        Method(
            name="diffusers FasterCache",
            attach=_faster_cache,
            ladders=(
                settings("uncond_range", (2, 3, 5, 8), timesteps=641)
                + settings("uncond_range", (9, 12, 20), timesteps=1001),
            ),
            note="attention and the unconditional half",
        ),
        Method(
            name="cache-dit DBCache",
            attach=_CacheDit(steps, taylor_order=None),
            ladders=(settings("threshold", _THRESHOLDS),),
            adapts=True,
        ),
        Method(
            name="cache-dit DBCache + TaylorSeer",
            attach=_CacheDit(steps, taylor_order=1),
            ladders=(settings("threshold", _THRESHOLDS),),
            adapts=True,
        ),
    ]


def _enable(pipeline: Any, config: Any) -> Attached:
    """Call ``enable_cache`` on a model whose class has none."""
    from diffusers.models.cache_utils import CacheMixin

    transformer = pipeline.transformer
    kind = type(transformer)
    # The name stays: methods look classes up by it.
    transformer.__class__ = type(kind.__name__, (CacheMixin, kind), {})
    transformer.enable_cache(config)

    @contextlib.contextmanager
    def around() -> Iterator[None]:
        # A pipeline resets models at the end of a run, but not after one that failed.
        transformer._reset_stateful_cache()
        with transformer.cache_context("sample"):
            yield

    return Attached(pipeline, around=around)


def _first_block_cache(pipeline: Any, values: Mapping[str, Any]) -> Attached:
    from diffusers import FirstBlockCacheConfig

    return _enable(pipeline, FirstBlockCacheConfig(threshold=values["threshold"]))


def _taylorseer(pipeline: Any, values: Mapping[str, Any]) -> Attached:
    """TaylorSeer on attention and feed-forward, as in its paper; or, lite, on the output with all blocks left out.

    Its default patterns match no module of this class, neither do those of its lite mode.
    """
    from diffusers import TaylorSeerCacheConfig

    modules: dict[str, Any] = {"cache_identifiers": [_ATTENTION, _FEED_FORWARD]}
    if values["is_lite"]:
        modules = {"skip_predict_identifiers": [_BLOCK], "cache_identifiers": ["proj_out_2"]}
    return _enable(
        pipeline,
        TaylorSeerCacheConfig(
            cache_interval=values["interval"],
            disable_cache_before_step=values["before"],
            max_order=values["order"],
            # Of the model: its default of bfloat16 would count against it.
            taylor_factors_dtype=pipeline.transformer.dtype,
            **modules,
        ),
    )


def _taylorseer_ladder(steps: int, order: int, *, is_lite: bool) -> tuple[Setting, ...]:
    """One setting for each number of computed steps, the shortest intervals first."""
    by_count: dict[int, Setting] = {}
    for interval in range(2, 10):
        # Its default is 3; others give the speeds in between.
        for before in (3, 2, *range(4, 15)):
            if before >= steps:
                continue
            # As its hook counts.
            count = sum(s < before or (s - before - 1) % interval == 0 for s in range(steps))
            by_count.setdefault(
                count,
                Setting(
                    f"interval {interval}, from step {before}",
                    {"interval": interval, "before": before, "order": order, "is_lite": is_lite},
                    # Somewhat less, as norms and modulations are computed.
                    expected=steps / count,
                ),
            )
    return tuple(by_count[count] for count in sorted(by_count, reverse=True))


class _MagCache:
    """Measures the ratios that it needs, once, on the calibration samples."""

    def __init__(self, workload: Workload) -> None:
        self._workload = workload
        self._ratios: list[float] | None = None

    def __call__(self, pipeline: Any, values: Mapping[str, Any]) -> Attached:
        from diffusers import MagCacheConfig

        if self._ratios is None:
            self._ratios = self._measure()
        return _enable(
            pipeline,
            MagCacheConfig(
                **values, num_inference_steps=self._workload.num_steps, mag_ratios=self._ratios
            ),
        )

    def _measure(self) -> list[float]:
        from diffusers import MagCacheConfig

        workload = self._workload
        attached = _enable(
            workload.copy(),
            MagCacheConfig(calibrate=True, num_inference_steps=workload.num_steps),
        )
        # It prints them, for the user to copy.
        with contextlib.redirect_stdout(io.StringIO()) as printed:
            workload.sample(attached, workload.calibration_samples(0))
        text = printed.getvalue()
        return [float(r) for r in ast.literal_eval(text[text.index("\n[", 1) :].strip())]


def _watch_timestep(transformer: Any) -> Callable[[], int]:
    """Watch the current timestep, which ``DiTPipeline`` does not keep; returns a function that tells it."""
    current = {"timestep": 0}

    def note(_: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        current["timestep"] = int(kwargs["timestep"][0])

    transformer.register_forward_pre_hook(note, with_kwargs=True)
    return lambda: current["timestep"]


def _pyramid_attention_broadcast(pipeline: Any, values: Mapping[str, Any]) -> Attached:
    from diffusers import PyramidAttentionBroadcastConfig

    return _enable(
        pipeline,
        PyramidAttentionBroadcastConfig(
            spatial_attention_block_skip_range=values["range"],
            current_timestep_callback=_watch_timestep(pipeline.transformer),
        ),
    )


def _faster_cache(pipeline: Any, values: Mapping[str, Any]) -> Attached:
    """FasterCache, which takes the unconditional half to be the first; ``DiTPipeline`` has it second."""
    from diffusers import FasterCacheConfig

    transformer = pipeline.transformer
    last = values["timesteps"]
    attached = _enable(
        pipeline,
        FasterCacheConfig(
            spatial_attention_block_skip_range=2,
            spatial_attention_timestep_skip_range=(-1, max(681, last)),
            unconditional_batch_skip_range=values["uncond_range"],
            unconditional_batch_timestep_skip_range=(-1, last),
            tensor_format="BCHW",
            attention_weight_callback=lambda _: 0.5,  # its default, which it warns about
            current_timestep_callback=_watch_timestep(transformer),
            _unconditional_conditional_input_kwargs_identifiers=[
                "hidden_states",
                "timestep",
                "class_labels",
            ],
        ),
    )

    def swap(_: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        # The latents and the timesteps are the same in both halves.
        return args, {**kwargs, "class_labels": _swapped(kwargs["class_labels"])}

    def swap_back(_: Any, __: tuple[Any, ...], output: Any) -> Any:
        output.sample = _swapped(output.sample)
        return output

    transformer.register_forward_pre_hook(swap, with_kwargs=True)
    transformer.register_forward_hook(swap_back)
    return attached


def _swapped(tensor: torch.Tensor) -> torch.Tensor:
    return torch.cat(tensor.chunk(2)[::-1])


class _CacheDit:
    """cache-dit with the adapter that it ships for DiT; F1B0, which its documentation has for the highest speeds."""

    def __init__(self, num_steps: int, *, taylor_order: int | None) -> None:
        self._num_steps = num_steps
        self._taylor_order = taylor_order

    def __call__(self, pipeline: Any, values: Mapping[str, Any]) -> Attached:
        logging.getLogger("CACHE_DIT").setLevel(logging.ERROR)
        # It says there that it found no GPU, nvcc and so on.
        with contextlib.redirect_stdout(io.StringIO()):
            cache_dit: Any = importlib.import_module("cache_dit")  # it has no types

        for name, logger in logging.Logger.manager.loggerDict.items():
            if name.startswith(("cache_dit", "CACHE_DIT")) and isinstance(logger, logging.Logger):
                logger.setLevel(logging.ERROR)
        # It patches the pipeline's class, for all pipelines of it.
        kind = type(pipeline)
        pipeline.__class__ = type(kind.__name__, (kind,), {})
        calibrator = None
        if self._taylor_order is not None:
            calibrator = cache_dit.TaylorSeerCalibratorConfig(taylorseer_order=self._taylor_order)
        cache_dit.enable_cache(
            pipeline,
            cache_config=cache_dit.DBCacheConfig(
                Fn_compute_blocks=1,
                Bn_compute_blocks=0,
                # 8 of its own 50; fewer in a shorter run, as far as the forecasts allow.
                max_warmup_steps=max(2, min(8, self._num_steps * 8 // 50)),
                residual_diff_threshold=values["threshold"],
                num_inference_steps=self._num_steps,
            ),
            calibrator_config=calibrator,
        )
        return Attached(pipeline)
