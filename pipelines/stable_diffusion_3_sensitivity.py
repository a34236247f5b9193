# SPDX-License-Identifier: Apache-2.0
"""Stable Diffusion 3 with the flag ``accelerate=``: text to images in fewer FLOPs (SODA, arXiv:2603.07057)."""

from __future__ import annotations

from diffusers import StableDiffusion3Pipeline

from genaccel.pipelines.accelerate_mixin import SensitivityMixin


class StableDiffusion3SensitivityPipeline(SensitivityMixin, StableDiffusion3Pipeline):
    """``StableDiffusion3Pipeline`` that can skip blocks of its transformer.

    The file also works by its path, as ``custom_pipeline=`` of ``DiffusionPipeline.from_pretrained``.

    Example:
        >>> import torch
        >>> from genaccel.pipelines.stable_diffusion_3_sensitivity import StableDiffusion3SensitivityPipeline
        >>> pipe = StableDiffusion3SensitivityPipeline.from_pretrained(
        ...     "stabilityai/stable-diffusion-3.5-medium", dtype=torch.bfloat16
        ... ).to("cuda")
        >>> call = dict(prompt="a lighthouse in a storm", num_inference_steps=28)
        >>> plain = pipe(**call).images[0]
        >>> measured = pipe(**call, accelerate="soda").images[0]  # in full, once for a setting
        >>> faster = pipe(**call, accelerate="soda").images[0]
        >>> print(pipe.acceleration.report())
    """
