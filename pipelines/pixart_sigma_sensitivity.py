# SPDX-License-Identifier: Apache-2.0
"""PixArt-Sigma with the flag ``accelerate=``: text to images in fewer FLOPs (SODA, arXiv:2603.07057)."""

from __future__ import annotations

from diffusers import PixArtSigmaPipeline

from genaccel.pipelines.accelerate_mixin import SensitivityMixin


class PixArtSigmaSensitivityPipeline(SensitivityMixin, PixArtSigmaPipeline):
    """``PixArtSigmaPipeline`` that can skip blocks of its transformer.

    The file also works by its path, as ``custom_pipeline=`` of ``DiffusionPipeline.from_pretrained``.

    Example:
        >>> import torch
        >>> from genaccel.pipelines.pixart_sigma_sensitivity import PixArtSigmaSensitivityPipeline
        >>> pipe = PixArtSigmaSensitivityPipeline.from_pretrained(
        ...     "PixArt-alpha/PixArt-Sigma-XL-2-1024-MS", dtype=torch.float16
        ... ).to("cuda")
        >>> call = dict(prompt="a lighthouse in a storm", num_inference_steps=20)
        >>> plain = pipe(**call).images[0]
        >>> measured = pipe(**call, accelerate="soda").images[0]  # in full, once for a setting
        >>> faster = pipe(**call, accelerate="soda").images[0]
        >>> print(pipe.acceleration.report())
    """
