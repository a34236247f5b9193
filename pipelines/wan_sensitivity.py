# SPDX-License-Identifier: Apache-2.0
"""Wan with the flag ``accelerate=``: text to video in fewer FLOPs (SODA, arXiv:2603.07057)."""

from __future__ import annotations

from diffusers import WanPipeline

from genaccel.pipelines.accelerate_mixin import SensitivityMixin


class WanSensitivityPipeline(SensitivityMixin, WanPipeline):
    """``WanPipeline`` that can skip blocks of its transformer.

    The file also works by its path, as ``custom_pipeline=`` of ``DiffusionPipeline.from_pretrained``.

    Example:
        >>> import torch
        >>> from genaccel.pipelines.wan_sensitivity import WanSensitivityPipeline
        >>> pipe = WanSensitivityPipeline.from_pretrained(
        ...     "Wan-AI/Wan2.1-T2V-1.3B-Diffusers", dtype=torch.bfloat16
        ... ).to("cuda")
        >>> call = dict(prompt="a lighthouse in a storm", num_inference_steps=50)
        >>> plain = pipe(**call).frames[0]
        >>> measured = pipe(**call, accelerate="soda").frames[0]  # in full, once for a setting
        >>> faster = pipe(**call, accelerate="soda").frames[0]
        >>> print(pipe.acceleration.report())
    """
