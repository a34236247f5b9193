# SPDX-License-Identifier: Apache-2.0
"""Toy configurations and arguments of the diffusers transformers that make videos.

A row is (configuration, arguments), where `d` is tiny_transformers.Draw. Latents are 4 channels of 3 frames
of 4x4, which patches of (1, 2, 2) make 12 tokens; text is 6 tokens of 16 features.
"""

from collections.abc import Callable
from typing import Any
from unittest import mock

import torch
from diffusers.models.transformers.transformer_sana_wm_refiner import (
    SanaWMLTX2AudioVideoRotaryPosEmbed,
)
from diffusers.models.transformers.transformer_wan_animate_2 import WanAnimate2KVCache
from torch.nn.attention.flex_attention import create_block_mask

LATENT = (4, 3, 4, 4)
FRAMES_FIRST = (3, 4, 4, 4)
TEXT = (6, 16)
TINY = {
    "num_attention_heads": 2,
    "attention_head_dim": 16,
    "in_channels": 4,
    "out_channels": 4,
    "num_layers": 3,
}
SIZE = {"sample_width": 4, "sample_height": 4}
GRID = {"num_frames": 3, "height": 2, "width": 2}  # of packed latents
ROPE = (4, 6, 6)
WAN = {
    **TINY,
    "text_dim": 16,
    "freq_dim": 16,
    "ffn_dim": 64,
}
COGVIDEOX = {
    **TINY,
    "time_embed_dim": 16,
    "text_embed_dim": 16,
    **SIZE,
    "sample_frames": 9,
    "max_text_seq_length": 6,
}
HUNYUAN = {
    **TINY,
    "num_single_layers": 3,
    "num_refiner_layers": 3,
    "mlp_ratio": 2.0,
    "text_embed_dim": 16,
    "pooled_projection_dim": 8,
    "rope_axes_dim": ROPE,
}
LTX = {
    **TINY,
    "cross_attention_dim": 32,
    "caption_channels": 16,
}
LTX2 = {
    **LTX,
    "audio_in_channels": 4,
    "audio_out_channels": 4,
    "audio_num_attention_heads": 2,
    "audio_attention_head_dim": 8,
    "audio_cross_attention_dim": 16,
    "rope_double_precision": False,
}
KANDINSKY = {
    "in_visual_dim": 4,
    "out_visual_dim": 4,
    "in_text_dim": 16,
    "in_text_dim2": 8,
    "time_dim": 16,
    "patch_size": (1, 2, 2),
    "model_dim": 32,
    "ff_dim": 64,
    "num_text_blocks": 3,
    "num_visual_blocks": 3,
    "axes_dims": ROPE,
}


def video_inputs(d: Any, scale: float = 1000.0) -> dict[str, Any]:
    return {
        "hidden_states": d.moving(*LATENT),
        "encoder_hidden_states": d.fixed(*TEXT),
        "timestep": d.time(scale),
    }


def anyflow_inputs(d: Any) -> dict[str, Any]:
    return {
        **video_inputs(d),
        "hidden_states": d.moving(*FRAMES_FIRST),
        "timestep": d.time(1000.0, 3),  # one per frame, as r_timestep, where the step leads
        "r_timestep": d.time(800.0, 3),
    }


def consisid_inputs(d: Any) -> dict[str, Any]:
    return {
        **video_inputs(d),
        "hidden_states": d.moving(*FRAMES_FIRST),
        "id_cond": d.fixed(8),
        "id_vit_hidden": [d.fixed(4, 8) for _ in range(2)],
    }


def cosmos3_inputs(d: Any) -> dict[str, Any]:
    # One sequence without a batch axis: 6 text tokens, then 3x2x2 patches of the video.
    video = torch.arange(6, 18)
    text = torch.arange(6).expand(3, 6)
    return {
        "input_ids": torch.arange(6),
        "text_indexes": torch.arange(6),
        "position_ids": torch.cat([text, 6 + d.ids(3, 2, 2).long().T], dim=1),
        "und_len": 6,
        "sequence_length": 18,
        "vision_tokens": [d.moving(*LATENT)[:1]],
        "vision_token_shapes": [(3, 2, 2)],
        "vision_sequence_indexes": video,
        "vision_mse_loss_indexes": video,
        "vision_timesteps": d.time(1000.0, 6).flatten(),
        "vision_noisy_frame_indexes": [torch.arange(3)],
    }


def helios_inputs(d: Any) -> dict[str, Any]:
    # Seven frames of history, the oldest ones in the largest patches, then the three to denoise.
    frames = torch.arange(10).expand(2, 10)
    return {
        **video_inputs(d),
        "indices_hidden_states": frames[:, 7:],
        "indices_latents_history_short": frames[:, 6:7],
        "indices_latents_history_mid": frames[:, 4:6],
        "indices_latents_history_long": frames[:, :4],
        "latents_history_short": d.fixed(4, 1, 4, 4),
        "latents_history_mid": d.fixed(4, 2, 4, 4),
        "latents_history_long": d.fixed(4, 4, 4, 4),
    }


def hunyuan_inputs(d: Any) -> dict[str, Any]:
    return {
        **video_inputs(d),
        "encoder_attention_mask": d.mask(6),
        "pooled_projections": d.fixed(8),
        "guidance": d.full(4000),
    }


def framepack_inputs(d: Any) -> dict[str, Any]:
    return {
        **hunyuan_inputs(d),
        "image_embeds": d.fixed(4, 8),
        "indices_latents": torch.arange(8, 11),
        "latents_clean": d.fixed(4, 2, 4, 4),
        "indices_latents_clean": torch.arange(6, 8),
        "latents_history_2x": d.fixed(4, 2, 4, 4),
        "indices_latents_history_2x": torch.arange(4, 6),
        "latents_history_4x": d.fixed(4, 4, 4, 4),
        "indices_latents_history_4x": torch.arange(0, 4),
    }


def packed_inputs(d: Any) -> dict[str, Any]:
    return {**video_inputs(d), "hidden_states": d.moving(12, 4)}


def ltx2_inputs(d: Any) -> dict[str, Any]:
    return {
        **packed_inputs(d),
        "timestep": d.time(1000.0, 12),
        "audio_timestep": d.time(1000.0, 5),
        "sigma": d.time(1000.0),
        "audio_hidden_states": d.moving(5, 4),
        "audio_encoder_hidden_states": d.fixed(*TEXT),
        "encoder_attention_mask": d.mask(6),
        "audio_encoder_attention_mask": d.mask(6),
        **GRID,
        "audio_num_frames": 5,
    }


def refiner_inputs(d: Any) -> dict[str, Any]:
    rope = SanaWMLTX2AudioVideoRotaryPosEmbed(
        dim=32, scale_factors=(8, 32, 32), modality="video", num_attention_heads=2
    )
    return {
        **packed_inputs(d),
        "timestep": d.time(1000.0, 12),
        "video_rotary_emb": rope(rope.prepare_video_coords(2, 3, 2, 2, device="cpu")),
        "encoder_attention_mask": d.mask(6, dtype=torch.float32),
    }


def sana_wm_inputs(d: Any) -> dict[str, Any]:
    # A camera moving ahead: its pose, 4x4, then its focal lengths and centre.
    pose = torch.eye(4).repeat(2, 3, 1, 1)
    pose[..., 2, 3] = 0.1 * torch.arange(3)
    lens = torch.tensor([4.0, 4.0, 2.0, 2.0]).expand(2, 3, 4)
    return {
        **video_inputs(d),
        "timestep": d.time(1000.0, 1, 3),
        "encoder_hidden_states": d.fixed(1, *TEXT),
        "encoder_attention_mask": d.mask(6, dtype=torch.long),
        "camera_conditions": torch.cat([pose.flatten(-2), lens], dim=-1),
        "chunk_plucker": d.fixed(8, 3, 4, 4),
    }


def wan_animate_inputs(d: Any) -> dict[str, Any]:
    return {
        **video_inputs(d),
        "hidden_states": d.moving(12, 3, 4, 4),
        "encoder_hidden_states_image": d.fixed(4, 16),
        "pose_hidden_states": d.fixed(4, 2, 4, 4),
        "face_pixel_values": d.fixed(3, 5, 16, 16),
    }


def wan_animate_2_inputs(d: Any) -> dict[str, Any]:
    # One denoising step: 3 frames against 2 of the driving video, whose pass has filled the cache.
    cache = WanAnimate2KVCache(3)
    for layer in cache.layer_caches:
        layer.store(d.raw(1, 8, 2, 16), d.raw(1, 8, 2, 16))
    return {
        "hidden_states": list(d.moving(*LATENT)[:1]),
        "timestep": d.time()[:1],
        "encoder_hidden_states": list(d.fixed(*TEXT)[:1]),
        "condition_latents": list(d.fixed(*LATENT)[:1]),
        "encoder_hidden_states_image": d.fixed(4, 1280)[:1],
        "kv_cache": cache,
        "kv_cache_mode": "cached",
        "seq_len": 12,
        "reference_grid_sizes": torch.tensor([[2, 2, 2]]),
        "origin_len": 5,
        "origin_area": [32, 32],
    }


def wan_animate_2_mask(model: Any) -> None:
    """Put the mask of wan_animate_2_inputs where the model keeps it: left to itself it compiles one."""
    module = "diffusers.models.transformers.transformer_wan_animate_2.create_block_mask"
    with mock.patch(
        module, lambda *args, **options: create_block_mask(*args, **{**options, "_compile": False})
    ):
        model.block_masks[2, 4] = model.create_mask(2, 4, torch.device("cpu"))


Row = tuple[dict[str, Any], Callable[[Any], dict[str, Any]]]

VIDEO_TABLE: dict[str, Row] = {
    "AllegroTransformer3DModel": (
        {
            **TINY,
            "cross_attention_dim": 32,
            "caption_channels": 16,
            **SIZE,
            "sample_frames": 3,
        },
        video_inputs,
    ),
    "AnyFlowFARTransformer3DModel": (
        {**WAN, "chunk_partition": (1, 2), "full_chunk_limit": 3},
        lambda d: {**anyflow_inputs(d), "chunk_partition": [1, 2]},
    ),
    "AnyFlowTransformer3DModel": (WAN, anyflow_inputs),
    "ChronoEditTransformer3DModel": (WAN, video_inputs),
    "CogVideoXTransformer3DModel": (
        COGVIDEOX,
        lambda d: {**video_inputs(d), "hidden_states": d.moving(*FRAMES_FIRST)},
    ),
    "ConsisIDTransformer3DModel": (
        {
            **COGVIDEOX,
            "is_train_face": True,
            "cross_attn_interval": 1,
            "cross_attn_dim_head": 16,
            "cross_attn_num_heads": 2,
            "LFE_id_dim": 8,
            "LFE_vit_dim": 8,
            "LFE_depth": 4,
            "LFE_dim_head": 8,
            "LFE_num_heads": 2,
            "LFE_num_id_token": 2,
            "LFE_num_querie": 4,
            "LFE_output_dim": 21,  # two thirds of the width, as diffusers computes it
            "LFE_ff_mult": 2,
            "LFE_num_scale": 2,
        },
        consisid_inputs,
    ),
    "Cosmos3OmniTransformer": (
        {
            "head_dim": 16,
            "hidden_size": 32,
            "intermediate_size": 64,
            "latent_channel": 4,
            "patch_latent_dim": 16,
            "num_attention_heads": 2,
            "num_hidden_layers": 3,
            "num_key_value_heads": 1,
            "rope_axes_dim": (4, 2, 2),
            "vocab_size": 32,
        },
        cosmos3_inputs,
    ),
    "CosmosTransformer3DModel": (
        {
            **TINY,
            "mlp_ratio": 2.0,
            "text_embed_dim": 16,
            "adaln_lora_dim": 4,
            "max_size": (4, 8, 8),
        },
        lambda d: {**video_inputs(d, 1.0), "fps": 24, "padding_mask": torch.zeros(1, 1, 4, 4)},
    ),
    "EasyAnimateTransformer3DModel": (
        {
            **TINY,
            "patch_size": 2,
            **SIZE,
            "mmdit_layers": 2,  # from there on, text and video share weights
            "time_embed_dim": 16,
            "text_embed_dim": 16,
        },
        video_inputs,
    ),
    "HeliosTransformer3DModel": ({**WAN, "rope_dim": ROPE}, helios_inputs),
    "HunyuanVideo15Transformer3DModel": (
        {
            **{k: v for k, v in HUNYUAN.items() if "single" not in k and "pooled" not in k},
            "text_embed_2_dim": 8,
            "image_embed_dim": 12,
            "target_size": 16,
            "task_type": "t2v",
        },
        lambda d: {
            **video_inputs(d),
            "encoder_attention_mask": d.mask(6),
            "encoder_hidden_states_2": d.fixed(4, 8),
            "encoder_attention_mask_2": d.mask(4),
            "image_embeds": d.fixed(4, 12),
        },
    ),
    "HunyuanVideoFramepackTransformer3DModel": (
        {**HUNYUAN, "has_image_proj": True, "image_proj_dim": 8, "has_clean_x_embedder": True},
        framepack_inputs,
    ),
    "HunyuanVideoTransformer3DModel": (HUNYUAN, hunyuan_inputs),
    "Kandinsky5Transformer3DModel": (
        KANDINSKY,
        lambda d: {
            **video_inputs(d),
            "hidden_states": d.moving(3, 4, 4, 4),
            "pooled_projections": d.fixed(8),
            "visual_rope_pos": [torch.arange(n) for n in (3, 2, 2)],
            "text_rope_pos": torch.arange(6),
        },
    ),
    "Kandinsky6SRTransformer3DModel": (
        {k: v for k, v in KANDINSKY.items() if "text" not in k},
        # Latent, anchor and mask; the sparse attention works on blocks of 8x8 patches.
        lambda d: {"hidden_states": d.moving(2, 16, 16, 9), "timestep": d.time()},
    ),
    "Kandinsky6Transformer3DModel": (
        {**KANDINSKY, "in_audio_dim": 4, "out_audio_dim": 4},
        lambda d: {
            **video_inputs(d),
            "hidden_states": d.moving(3, 4, 4, 9),  # latent, condition and mask
            "audio_hidden_states": d.moving(5, 4),
            "pooled_projections": d.fixed(8),
        },
    ),
    "LTX2VideoTransformer3DModel": (LTX2, ltx2_inputs),
    "LTXVideoTransformer3DModel": (
        LTX,
        lambda d: {
            **packed_inputs(d),
            "encoder_attention_mask": d.mask(6),
            **GRID,
        },
    ),
    "LatteTransformer3DModel": (
        {
            **TINY,
            "caption_channels": 16,
            "cross_attention_dim": 32,
            "norm_type": "ada_norm_single",
            "num_embeds_ada_norm": 1000,
            "norm_elementwise_affine": False,
            "sample_size": 4,
            "patch_size": 2,
            "video_length": 3,
        },
        video_inputs,
    ),
    "MochiTransformer3DModel": (
        {
            **TINY,
            "pooled_projection_dim": 16,
            "text_embed_dim": 16,
            "time_embed_dim": 16,
            "max_sequence_length": 6,
        },
        lambda d: {**video_inputs(d), "encoder_attention_mask": d.mask(6)},
    ),
    "MotifVideoTransformer3DModel": (
        {
            **{k: v for k, v in HUNYUAN.items() if "refiner" not in k and "pooled" not in k},
            "num_decoder_layers": 2,
            "image_embed_dim": 12,
        },
        lambda d: {
            **video_inputs(d),
            "encoder_attention_mask": d.mask(6),
            "image_embeds": d.fixed(4, 12),
        },
    ),
    "SanaVideoTransformer3DModel": (
        {
            **TINY,
            "num_cross_attention_heads": 2,
            "cross_attention_head_dim": 16,
            "cross_attention_dim": 32,
            "caption_channels": 16,
            "sample_size": 4,
            "rope_max_seq_len": 32,
        },
        video_inputs,
    ),
    "SanaWMLTX2RefinerTransformer3DModel": (LTX2, refiner_inputs),
    "SanaWMTransformer3DModel": (
        {
            "in_channels": 4,
            "num_layers": 4,
            "hidden_size": 32,
            "num_attention_heads": 2,
            "softmax_every_n": 2,  # every second block attends, the others recur
            "linear_head_dim": 16,
            "caption_channels": 16,
            "mlp_ratio": 2.0,
            "chunk_plucker_channels": 8,
            "chunk_plucker_post_attn_blocks": 4,
        },
        sana_wm_inputs,
    ),
    "SkyReelsV2Transformer3DModel": (WAN, video_inputs),
    "WanAnimate2Transformer3DModel": (
        {
            "text_len": 6,
            "in_dim": 8,
            "dim": 32,
            "ffn_dim": 64,
            "freq_dim": 16,
            "text_dim": 16,
            "out_dim": 4,
            "num_heads": 2,
            "num_layers": 3,
        },
        wan_animate_2_inputs,
    ),
    "WanAnimateTransformer3DModel": (
        {
            **WAN,
            "in_channels": 12,
            "latent_channels": 4,
            "image_dim": 16,
            "motion_encoder_channel_sizes": {"4": 16, "8": 16, "16": 16},
            "motion_encoder_size": 16,
            "motion_style_dim": 8,
            "motion_dim": 4,
            "motion_encoder_dim": 16,
            "face_encoder_hidden_dim": 16,
            "face_encoder_num_heads": 2,
            "inject_face_latents_blocks": 1,
        },
        wan_animate_inputs,
    ),
    "WanTransformer3DModel": (WAN, video_inputs),
    "WanVACETransformer3DModel": (
        {**WAN, "vace_layers": [0, 1, 2], "vace_in_channels": 8},
        lambda d: {**video_inputs(d), "control_hidden_states": d.fixed(8, 3, 4, 4)},
    ),
}

# What has to be done to a model once it is built.
PREPARE: dict[str, Callable[[Any], None]] = {"WanAnimate2Transformer3DModel": wan_animate_2_mask}
