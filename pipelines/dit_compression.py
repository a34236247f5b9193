# SPDX-License-Identifier: Apache-2.0
"""DiT with ``output_type="genaccel"``: classes of ImageNet as very small files (RDVQ, arXiv:2604.10546)."""

from __future__ import annotations

from diffusers import DiTPipeline

from genaccel.pipelines.compression_mixin import VQCompressionMixin


class DiTCompressionPipeline(VQCompressionMixin, DiTPipeline):
    """``DiTPipeline`` that can return compressed files instead of images.

    The file also works by its path, as ``custom_pipeline=`` of ``DiffusionPipeline.from_pretrained``.

    Example:
        >>> from pathlib import Path
        >>> import torch
        >>> from genaccel.pipelines.dit_compression import DiTCompressionPipeline
        >>> pipe = DiTCompressionPipeline.from_pretrained(
        ...     "facebook/DiT-XL-2-256", dtype=torch.float16
        ... ).to("cuda")
        >>> files = pipe(class_labels=[207, 360], output_type="genaccel").images
        >>> Path("retriever.gac").write_bytes(files[0])
    """
