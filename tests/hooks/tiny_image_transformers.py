# SPDX-License-Identifier: Apache-2.0
"""Toy configurations and arguments of the diffusers transformers that make images.

A row is (configuration, arguments), where `d` is tiny_transformers.Draw. Latents are 4 channels of 8x8,
which patches of 2 make 16 tokens; text is 6 tokens of 16 features; attention has 2 heads of 16 features.
"""

from collections.abc import Callable
from typing import Any

import torch
from diffusers.models.embeddings import get_2d_rotary_pos_embed_lumina

LATENT = (4, 8, 8)
TEXT = (6, 16)
HEADS = {"num_attention_heads": 2, "attention_head_dim": 16}
TINY = {**HEADS, "num_layers": 3, "in_channels": 4, "out_channels": 4}
SIZED = {"patch_size": 2, "sample_size": 8}
ROPE = (4, 6, 6)
# Flux and its kin: packed latents, blocks of two streams and then of one.
FLUX = {
    **HEADS,
    "patch_size": 1,
    "in_channels": 4,
    "num_layers": 3,
    "num_single_layers": 3,
    "joint_attention_dim": 16,
    "axes_dims_rope": ROPE,
}
COGVIEW = {
    **TINY,
    "patch_size": 2,
    "text_embed_dim": 16,
    "time_embed_dim": 32,
    "condition_dim": 4,
}
JOYIMAGE = {
    "in_channels": 4,
    "hidden_size": 32,
    "num_attention_heads": 2,
    "text_dim": 16,
    "num_layers": 3,
    "rope_dim_list": ROPE,
}


def flux_inputs(d: Any, columns: int = 3, scale: float = 1.0) -> dict[str, Any]:
    return {
        "hidden_states": d.moving(16, 4),
        "encoder_hidden_states": d.fixed(*TEXT),
        "timestep": d.time(scale),
        "img_ids": d.ids(4, 4, columns=columns),
        "txt_ids": torch.zeros(6, columns),
    }


def latent_inputs(d: Any, scale: float = 1000.0) -> dict[str, Any]:
    return {
        "hidden_states": d.moving(*LATENT),
        "encoder_hidden_states": d.fixed(*TEXT),
        "timestep": d.time(scale),
    }


def sized_inputs(d: Any) -> dict[str, Any]:
    """Those of CogView: with the sizes of the original image."""
    sizes = ("original_size", "target_size", "crop_coords")
    return {**latent_inputs(d), **{name: d.full(8, 2) for name in sizes}}


def ideogram4_inputs(d: Any) -> dict[str, Any]:
    # One sequence: 4 text tokens (indicator 3), then 4 image tokens (2), whose positions start far off.
    text = torch.arange(4)[:, None].expand(4, 3)
    image = 65536 + d.ids(2, 2).long()
    latents, words = d.moving(8, 4), d.fixed(8, 16)
    latents[:, :4] = 0
    words[:, 4:] = 0
    return {
        "hidden_states": latents,
        "encoder_hidden_states": words,
        "timestep": d.time(1.0),
        "position_ids": torch.cat([text, image]).expand(2, 8, 3),
        "segment_ids": torch.ones(2, 8, dtype=torch.long),
        "indicator": torch.tensor([3] * 4 + [2] * 4).expand(2, 8),
    }


def omnigen_inputs(d: Any) -> dict[str, Any]:
    tokens = 6 + 1 + 16  # text, time, image
    return {
        "hidden_states": d.moving(*LATENT),
        "timestep": d.time(1.0),
        "input_ids": d.index(32, 6),
        "input_img_latents": [],
        "input_image_sizes": {},
        "attention_mask": d.full(1, tokens, tokens),
        "position_ids": torch.arange(tokens).expand(2, tokens),
    }


def krea2_inputs(d: Any) -> dict[str, Any]:
    return {
        "hidden_states": d.moving(16, 4),
        "encoder_hidden_states": d.fixed(6, 3, 16),  # of 3 layers of the text encoder
        "timestep": d.time(1.0),
        "position_ids": torch.cat([torch.zeros(6, 3), d.ids(4, 4)]),
        "encoder_attention_mask": d.mask(6),
    }


Row = tuple[dict[str, Any], Callable[[Any], dict[str, Any]]]

IMAGE_TABLE: dict[str, Row] = {
    "AuraFlowTransformer2DModel": (
        {
            **HEADS,
            **SIZED,
            "in_channels": 4,
            "out_channels": 4,
            "num_mmdit_layers": 3,
            "num_single_dit_layers": 3,
            "joint_attention_dim": 16,
            "caption_projection_dim": 32,
            "pos_embed_max_size": 16,
        },
        lambda d: latent_inputs(d, 1.0),
    ),
    "BriaFibo2Transformer2DModel": (
        {
            "in_channels": 4,
            "patch_size": 2,
            "dim": 32,
            "n_layers": 3,
            "n_refiner_layers": 3,
            "n_heads": 2,
            "cap_feat_dim": 16,
            "injection_layer_ids": (1,),
            "perceiver_num_layers": 3,
            "min_num_gist_tokens": 2,
            "max_num_gist_tokens": 4,
            "gist_step": 2,
            "gist_min_text_len": 2,
            "gist_max_text_len": 8,
            "axes_dims": ROPE,
            "axes_lens": (16, 16, 16),
        },
        lambda d: {**latent_inputs(d, 1.0), "encoder_hidden_states": d.fixed(2, *TEXT)},
    ),
    "BriaFiboTransformer2DModel": (
        {**FLUX, "text_encoder_dim": 8},
        lambda d: {**flux_inputs(d, scale=1000.0), "text_encoder_layers": [d.fixed(6, 8)] * 6},
    ),
    "BriaTransformer2DModel": (FLUX, lambda d: flux_inputs(d, scale=1000.0)),
    "ChromaTransformer2DModel": (
        {
            **FLUX,
            "approximator_num_channels": 8,
            "approximator_hidden_dim": 16,
            "approximator_layers": 3,
        },
        flux_inputs,
    ),
    "CogView3PlusTransformer2DModel": ({**COGVIEW, "pos_embed_max_size": 8}, sized_inputs),
    "CogView4Transformer2DModel": ({**COGVIEW, "rope_axes_dim": (8, 8)}, sized_inputs),
    "DiTTransformer2DModel": (
        {**TINY, **SIZED, "num_embeds_ada_norm": 10},
        lambda d: {
            "hidden_states": d.moving(*LATENT),
            "timestep": d.time(),
            "class_labels": d.index(10),
        },
    ),
    "ErnieImageTransformer2DModel": (
        {
            "hidden_size": 32,
            "num_attention_heads": 2,
            "num_layers": 3,
            "ffn_hidden_size": 64,
            "in_channels": 4,
            "out_channels": 4,
            "text_in_dim": 16,
            "rope_axes_dim": ROPE,
        },
        lambda d: {
            "hidden_states": d.moving(4, 4, 4),
            "timestep": d.time(),
            "text_bth": d.fixed(*TEXT),
            "text_lens": torch.tensor([6, 4]),
        },
    ),
    "Flux2Transformer2DModel": (
        {**FLUX, "axes_dims_rope": (4, 4, 4, 4), "timestep_guidance_channels": 32},
        lambda d: {**flux_inputs(d, columns=4), "guidance": d.full(4)},
    ),
    "Flux3Transformer2DModel": (
        {
            **{k: v for k, v in FLUX.items() if k != "patch_size"},
            "axes_dims_rope": (4, 4, 4, 4),
            "cond_in_channels": 4,
            "timestep_channels": 32,
        },
        lambda d: {
            **flux_inputs(d, columns=4),
            "image_cond_hidden_states": d.fixed(4, 4),
            "image_cond_ids": d.ids(2, 2, columns=4),
        },
    ),
    "FluxTransformer2DModel": (
        {**FLUX, "pooled_projection_dim": 8, "guidance_embeds": True},
        lambda d: {**flux_inputs(d), "pooled_projections": d.fixed(8), "guidance": d.full(4)},
    ),
    "GlmImageTransformer2DModel": (
        {**COGVIEW, "prior_vq_quantizer_codebook_size": 32},
        lambda d: {
            **latent_inputs(d),
            "prior_token_id": d.index(32, 16),
            "prior_token_drop": ~d.mask(16),
            "target_size": d.full(8, 2),
            "crop_coords": d.full(0, 2),
        },
    ),
    "HiDreamImageTransformer2DModel": (
        {
            **TINY,
            "patch_size": 2,
            "num_single_layers": 3,
            "caption_channels": [16, 16],
            "text_emb_dim": 8,
            "num_routed_experts": 2,
            "num_activated_experts": 2,
            "axes_dims_rope": ROPE,
            "max_resolution": (16, 16),
            "llama_layers": (0, 1, 0, 1, 0, 1),
            "force_inference_output": True,
        },
        lambda d: {
            "hidden_states": d.moving(*LATENT),
            "timesteps": d.time(),
            "encoder_hidden_states_t5": d.fixed(*TEXT),
            "encoder_hidden_states_llama3": d.raw(2, 2, *TEXT),
            "pooled_embeds": d.fixed(8),
        },
    ),
    "HunyuanDiT2DModel": (
        {
            **HEADS,
            "in_channels": 4,
            "patch_size": 2,
            "sample_size": 8,
            "hidden_size": 32,
            "num_layers": 6,  # the second half takes skips from the first
            "mlp_ratio": 2.0,
            "cross_attention_dim": 16,
            "cross_attention_dim_t5": 16,
            "pooled_projection_dim": 8,
            "text_len": 6,
            "text_len_t5": 6,
        },
        lambda d: {
            **latent_inputs(d),
            "text_embedding_mask": d.mask(6),
            "encoder_hidden_states_t5": d.fixed(*TEXT),
            "text_embedding_mask_t5": d.mask(6),
            "image_meta_size": d.full(8, 6),
            "style": torch.zeros(2, dtype=torch.long),
            "image_rotary_emb": d.rope(16, 16),
        },
    ),
    "HunyuanImageTransformer2DModel": (
        {
            **TINY,
            "num_single_layers": 3,
            "num_refiner_layers": 3,
            "mlp_ratio": 2.0,
            "text_embed_dim": 16,
            "rope_axes_dim": (8, 8),
        },
        lambda d: {
            **latent_inputs(d),
            "hidden_states": d.moving(4, 4, 4),
            "encoder_attention_mask": d.mask(6),
        },
    ),
    "Ideogram4Transformer2DModel": (
        {
            **HEADS,
            "in_channels": 4,
            "num_layers": 3,
            "intermediate_size": 64,
            "adaln_dim": 16,
            "llm_features_dim": 16,
            "mrope_section": (4, 2, 2),
        },
        ideogram4_inputs,
    ),
    "JoyImageEditPlusTransformer3DModel": (
        JOYIMAGE,
        lambda d: {
            **latent_inputs(d),
            "hidden_states": d.moving(8, 4, 1, 2, 2),  # patches of two images
            "shape_list": [[(1, 2, 2), (1, 2, 2)]] * 2,
        },
    ),
    "JoyImageEditTransformer3DModel": (
        JOYIMAGE,
        lambda d: {**latent_inputs(d), "hidden_states": d.moving(4, 2, 4, 4)},
    ),
    "Krea2Transformer2DModel": (
        {
            **HEADS,
            "in_channels": 4,
            "num_layers": 3,
            "num_key_value_heads": 1,
            "intermediate_size": 64,
            "timestep_embed_dim": 16,
            "text_hidden_dim": 16,
            "num_text_layers": 3,
            "text_num_attention_heads": 2,
            "text_num_key_value_heads": 1,
            "text_intermediate_size": 32,
            "num_layerwise_text_blocks": 3,
            "num_refiner_text_blocks": 3,
            "axes_dims_rope": ROPE,
        },
        krea2_inputs,
    ),
    "LongCatImageTransformer2DModel": ({**FLUX, "pooled_projection_dim": 16}, flux_inputs),
    "Lumina2Transformer2DModel": (
        {
            **SIZED,
            "in_channels": 4,
            "hidden_size": 32,
            "num_layers": 3,
            "num_refiner_layers": 3,
            "num_attention_heads": 2,
            "num_kv_heads": 1,
            "multiple_of": 16,
            "axes_dim_rope": ROPE,
            "axes_lens": (32, 32, 32),
            "cap_feat_dim": 16,
        },
        lambda d: {**latent_inputs(d, 1.0), "encoder_attention_mask": d.mask(6)},
    ),
    "LuminaNextDiT2DModel": (
        {
            "sample_size": 8,
            "in_channels": 4,
            "hidden_size": 32,
            "num_layers": 3,
            "num_attention_heads": 2,
            "num_kv_heads": 1,
            "multiple_of": 16,
            "cross_attention_dim": 16,
        },
        lambda d: {
            **latent_inputs(d, 1.0),
            "encoder_mask": d.mask(6),
            "image_rotary_emb": get_2d_rotary_pos_embed_lumina(16, 8, 8),
            "cross_attention_kwargs": {},  # diffusers 0.42 unpacks it without asking
        },
    ),
    "NucleusMoEImageTransformer2DModel": (
        {
            **HEADS,
            "in_channels": 16,
            "out_channels": 4,
            "num_layers": 5,  # the first three and the last one have no experts
            "num_key_value_heads": 1,
            "joint_attention_dim": 16,
            "axes_dims_rope": ROPE,
            "mlp_ratio": 6.0,  # its dense layers round down to multiples of 128
            "num_experts": 4,
            "moe_intermediate_dim": 16,
            "capacity_factors": 2.0,
        },
        lambda d: {
            "hidden_states": d.moving(16, 16),
            "img_shapes": [(1, 4, 4)] * 2,
            "encoder_hidden_states": d.fixed(*TEXT),
            "encoder_hidden_states_mask": d.mask(6),
            "timestep": d.time(1.0),
        },
    ),
    "OmniGenTransformer2DModel": (
        {
            "in_channels": 4,
            "hidden_size": 32,
            "num_attention_heads": 2,
            "num_key_value_heads": 2,
            "intermediate_size": 32,
            "num_layers": 3,
            "pad_token_id": 0,
            "vocab_size": 32,
            "max_position_embeddings": 64,
            "original_max_position_embeddings": 64,
            "rope_scaling": {"long_factor": [1.0] * 8, "short_factor": [1.0] * 8},
            "pos_embed_max_size": 16,
            "time_step_dim": 16,
        },
        omnigen_inputs,
    ),
    "OvisImageTransformer2DModel": ({**FLUX, "out_channels": 4}, flux_inputs),
    "PRXTransformer2DModel": (
        {
            "in_channels": 4,
            "context_in_dim": 16,
            "hidden_size": 32,
            "mlp_ratio": 2.0,
            "num_heads": 2,
            "depth": 3,
            "axes_dim": [8, 8],
        },
        lambda d: {**latent_inputs(d, 1.0), "attention_mask": d.mask(6)},
    ),
    "PixArtTransformer2DModel": (
        {
            **TINY,
            **SIZED,
            "cross_attention_dim": 32,
            "caption_channels": 16,
        },
        lambda d: {
            **latent_inputs(d),
            "added_cond_kwargs": {"resolution": None, "aspect_ratio": None},
        },
    ),
    "QwenImage21Transformer2DModel": (
        {
            **TINY,
            "context_in_dim": 16,
            "mlp_ratio": 2,
            "axes_dims_rope": ROPE,
        },
        lambda d: {
            **latent_inputs(d, 1.0),
            "hidden_states": d.moving(16, 4),
            "img_shapes": [[(1, 4, 4)]] * 2,
            # After the text, one slot of the vision model per 2x2 latents.
            "img_mask": torch.tensor([False] * 6 + [True] * 4).expand(2, 10),
            "encoder_hidden_states_mask": d.mask(6),
        },
    ),
    "QwenImageTransformer2DModel": (
        {
            **HEADS,
            "in_channels": 16,
            "out_channels": 4,
            "num_layers": 3,
            "joint_attention_dim": 16,
            "axes_dims_rope": ROPE,
        },
        lambda d: {
            **latent_inputs(d, 1.0),
            "hidden_states": d.moving(16, 16),
            "encoder_hidden_states_mask": d.mask(6),
            "img_shapes": [[(1, 4, 4)]] * 2,
        },
    ),
    "SD3Transformer2DModel": (
        {
            **TINY,
            **SIZED,
            "joint_attention_dim": 16,
            "caption_projection_dim": 32,
            "pooled_projection_dim": 8,
            "pos_embed_max_size": 8,
            "dual_attention_layers": (0,),
        },
        lambda d: {**latent_inputs(d), "pooled_projections": d.fixed(8)},
    ),
    "SanaTransformer2DModel": (
        {
            **TINY,
            **SIZED,
            "num_cross_attention_heads": 2,
            "cross_attention_head_dim": 16,
            "cross_attention_dim": 32,
            "caption_channels": 16,
        },
        latent_inputs,
    ),
    "ZImageTransformer2DModel": (
        {
            "in_channels": 4,
            "dim": 32,
            "n_layers": 3,
            "n_refiner_layers": 3,
            "n_heads": 2,
            "n_kv_heads": 2,
            "cap_feat_dim": 16,
            "axes_dims": ROPE,
            "axes_lens": (128, 32, 32),
        },
        lambda d: {
            "x": list(d.moving(4, 1, 8, 8)),
            "t": d.time(1.0),
            "cap_feats": list(d.fixed(*TEXT)),
        },
    ),
}
