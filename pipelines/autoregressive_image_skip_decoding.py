# SPDX-License-Identifier: Apache-2.0
"""AutoregressiveImagePipeline with the flag ``accelerate=``: image tokens drawn several at a time (VVS, arXiv:2511.13587)."""

from __future__ import annotations

from genaccel.pipelines.accelerate_mixin import SkipDecodingMixin
from genaccel.pipelines.autoregressive_image_pipeline import AutoregressiveImagePipeline


class AutoregressiveImageSkipDecodingPipeline(SkipDecodingMixin, AutoregressiveImagePipeline):
    """``AutoregressiveImagePipeline`` that can draw several tokens a forward.

    The file also works by its path, as ``custom_pipeline=`` of ``DiffusionPipeline.from_pretrained``.

    Example:
        >>> import torch
        >>> from genaccel import zoo
        >>> from genaccel.pipelines.autoregressive_image_skip_decoding import (
        ...     AutoregressiveImageSkipDecodingPipeline,
        ... )
        >>> pipe = AutoregressiveImageSkipDecodingPipeline.from_pretrained(
        ...     zoo.path("photo-ar"), dtype=torch.float32
        ... )
        >>> call = dict(class_labels=[pipe.labels["mountain"]], guidance_scale=2.0, seed=7)
        >>> plain = pipe(**call).images[0]
        >>> same = pipe(**call, accelerate="vvs").images[0]  # the same picture in fewer forwards
        >>> print(pipe.acceleration.report())
    """
