# SPDX-License-Identifier: Apache-2.0
"""A real DiTPipeline at toy size."""

import torch
from diffusers import AutoencoderKL, DDIMScheduler, DiTPipeline, DiTTransformer2DModel

STEPS = 6


def build_pipeline(layers=2, seed=0):
    torch.manual_seed(seed)
    transformer = DiTTransformer2DModel(
        sample_size=8,
        num_layers=layers,
        num_attention_heads=2,
        attention_head_dim=8,
        patch_size=2,
        in_channels=4,
        out_channels=4,
        num_embeds_ada_norm=1000,
    ).eval()
    # Zero-initialised gates would hide the blocks.
    generator = torch.Generator().manual_seed(seed + 1)
    with torch.no_grad():
        for parameter in transformer.parameters():
            parameter.copy_(0.05 * torch.randn(parameter.shape, generator=generator))
    decoder = AutoencoderKL(
        block_out_channels=(8,), norm_num_groups=4, latent_channels=4, sample_size=8
    )
    pipeline = DiTPipeline(transformer, decoder, DDIMScheduler(clip_sample=False))
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def sample(pipeline, *, steps=STEPS, guidance_scale=2.0, labels=(1,), seed=0):
    """Images of a run."""
    return torch.from_numpy(
        pipeline(
            class_labels=list(labels),
            num_inference_steps=steps,
            guidance_scale=guidance_scale,
            generator=torch.Generator().manual_seed(seed),
            output_type="np",
        ).images
    )
