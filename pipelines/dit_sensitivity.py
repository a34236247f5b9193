# SPDX-License-Identifier: Apache-2.0
"""DiT with the flag ``accelerate=``: classes of ImageNet in fewer FLOPs (SODA, arXiv:2603.07057)."""

from __future__ import annotations

from diffusers import DiTPipeline

from genaccel.pipelines.accelerate_mixin import SensitivityMixin


class DiTSensitivityPipeline(SensitivityMixin, DiTPipeline):
    """``DiTPipeline`` that can skip blocks of its transformer.

    The file also works by its path, as ``custom_pipeline=`` of ``DiffusionPipeline.from_pretrained``.

    Example:
        >>> import torch
        >>> from genaccel.pipelines.dit_sensitivity import DiTSensitivityPipeline
        >>> pipe = DiTSensitivityPipeline.from_pretrained(
        ...     "facebook/DiT-XL-2-256", dtype=torch.float16
        ... ).to("cuda")
        >>> call = dict(class_labels=[207, 360], num_inference_steps=50)
        >>> plain = pipe(**call).images[0]
        >>> measured = pipe(**call, accelerate="soda").images[0]  # in full, once for a setting
        >>> faster = pipe(**call, accelerate="soda").images[0]
        >>> print(pipe.acceleration.report())
    """
