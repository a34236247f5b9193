# SPDX-License-Identifier: Apache-2.0
"""Qwen-Image with the flag ``accelerate=``: text to images in fewer FLOPs (SODA, arXiv:2603.07057)."""

from __future__ import annotations

from diffusers import QwenImagePipeline

from genaccel.pipelines.accelerate_mixin import SensitivityMixin


class QwenImageSensitivityPipeline(SensitivityMixin, QwenImagePipeline):
    """``QwenImagePipeline`` that can skip blocks of its transformer.

    The file also works by its path, as ``custom_pipeline=`` of ``DiffusionPipeline.from_pretrained``.

    Example:
        >>> import torch
        >>> from genaccel.pipelines.qwen_image_sensitivity import QwenImageSensitivityPipeline
        >>> pipe = QwenImageSensitivityPipeline.from_pretrained(
        ...     "Qwen/Qwen-Image", dtype=torch.bfloat16
        ... ).to("cuda")
        >>> call = dict(prompt="a lighthouse in a storm", negative_prompt=" ", num_inference_steps=50)
        >>> plain = pipe(**call).images[0]
        >>> measured = pipe(**call, accelerate="soda").images[0]  # in full, once for a setting
        >>> faster = pipe(**call, accelerate="soda").images[0]
        >>> print(pipe.acceleration.report())
    """
