# SPDX-License-Identifier: Apache-2.0
"""A tiny ``AutoregressiveImagePipeline``: 64 tokens of 16 code words, two classes."""

from typing import Any

import torch

from genaccel.training.recipes.token_transformer import TokenTransformerConfig
from genaccel.training.recipes.vector_quantized_autoencoder import (
    VectorQuantizedAutoencoderConfig,
)


def tiny_autoregressive(pipeline_class: Any) -> Any:
    """One of this class; its weights are always the same."""
    torch.manual_seed(0)
    tokenizer: Any = VectorQuantizedAutoencoderConfig(
        image_size=16, channels=(8, 16), codebook_size=16, perceptual_weight=0
    ).build()
    tokenizer.quantize.embedding.weight.data.normal_()
    transformer: Any = TokenTransformerConfig(
        num_layers=1, num_heads=2, head_dim=8, mlp_dim=16
    ).build(vocabulary=16 + 3, length=64)
    for weight in transformer.parameters():
        weight.data.mul_(4)
    pipe = pipeline_class(transformer.eval(), tokenizer.eval(), ["beach", "sky"])
    pipe.set_progress_bar_config(disable=True)
    return pipe
