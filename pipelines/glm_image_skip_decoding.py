# SPDX-License-Identifier: Apache-2.0
"""GLM-Image with the flag ``accelerate=``: its image tokens drawn several at a time (VVS, arXiv:2511.13587)."""

from __future__ import annotations

from diffusers import GlmImagePipeline

from genaccel.pipelines.accelerate_mixin import SkipDecodingMixin


class GlmImageSkipDecodingPipeline(SkipDecodingMixin, GlmImagePipeline):
    """``GlmImagePipeline`` whose language model can draw several tokens a forward.

    The file also works by its path, as ``custom_pipeline=`` of ``DiffusionPipeline.from_pretrained``.

    Example:
        >>> import torch
        >>> from genaccel.pipelines.glm_image_skip_decoding import GlmImageSkipDecodingPipeline
        >>> pipe = GlmImageSkipDecodingPipeline.from_pretrained(
        ...     "zai-org/GLM-Image", dtype=torch.bfloat16
        ... ).to("cuda")
        >>> call = dict(prompt="a lighthouse in a storm", height=1024, width=1024)
        >>> plain = pipe(**call).images[0]
        >>> faster = pipe(**call, accelerate="vvs").images[0]
        >>> print(pipe.acceleration.report())
    """
