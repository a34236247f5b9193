# SPDX-License-Identifier: Apache-2.0
"""Flux with the flag ``accelerate=``: text to images in fewer FLOPs (SODA, arXiv:2603.07057)."""

from __future__ import annotations

from diffusers import FluxPipeline

from genaccel.pipelines.accelerate_mixin import SensitivityMixin


class FluxSensitivityPipeline(SensitivityMixin, FluxPipeline):
    """``FluxPipeline`` that can skip blocks of its transformer.

    The file also works by its path, as ``custom_pipeline=`` of ``DiffusionPipeline.from_pretrained``.

    Example:
        >>> import torch
        >>> from genaccel.pipelines.flux_sensitivity import FluxSensitivityPipeline
        >>> pipe = FluxSensitivityPipeline.from_pretrained(
        ...     "black-forest-labs/FLUX.1-dev", dtype=torch.bfloat16
        ... ).to("cuda")
        >>> call = dict(prompt="a lighthouse in a storm", num_inference_steps=28)
        >>> plain = pipe(**call).images[0]
        >>> measured = pipe(**call, accelerate="soda").images[0]  # in full, once for a setting
        >>> faster = pipe(**call, accelerate="soda").images[0]
        >>> print(pipe.acceleration.report())
    """
