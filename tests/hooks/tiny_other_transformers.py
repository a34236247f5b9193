# SPDX-License-Identifier: Apache-2.0
"""Toy configurations and arguments of the other diffusers transformers: those of sound, with video or
without, of embeddings and molecules, and those inside U-Nets. Rows are as in the image table.
"""

from collections.abc import Callable
from typing import Any

import torch
from diffusers.models.embeddings import get_1d_rotary_pos_embed

LENGTH = 16
TEXT = (6, 16)
HEADS = {"num_attention_heads": 2, "attention_head_dim": 16}
# U-Nets give these feature maps of 32 channels and no timestep, which others of their blocks add.
UNET = {
    **HEADS,
    "in_channels": 32,
    "norm_num_groups": 4,
    "num_layers": 3,
    "cross_attention_dim": 16,
}


def unet_inputs(d: Any) -> dict[str, Any]:
    return {"hidden_states": d.moving(32, 4, 4), "encoder_hidden_states": d.fixed(*TEXT)}


def rfd4_inputs(d: Any) -> dict[str, Any]:
    return {
        "bb_ca": d.moving(8, 3),
        "local_latents": d.moving(8, 4),
        "bb_ca_time": d.time(1.0),
        "local_latents_time": d.time(1.0),
        "padding_mask": d.mask(8),
        "token_type": d.index(7, 8),
        "conditioning": {
            "is_in_context_conditioning": ~d.mask(8),
            "supports_local_latent": d.mask(8),
        },
    }


def minimax_h3_inputs(d: Any) -> dict[str, Any]:
    # One layout for the batch: 6 text tokens (tag 1), 4 of sound (2), 12 patches of the video (0).
    tags = torch.tensor([1] * 6 + [2] * 4 + [0] * 12)
    return {
        "encoder_hidden_states": d.fixed(*TEXT),
        "timestep": d.time(1.0),
        "hidden_states": d.moving(12, 16),
        "audio_hidden_states": d.moving(4, 4),
        "timestep_indices": (tags == 2).long(),  # the two of `timestep`: video's and sound's
        "token_tags": tags,
        "position_ids": torch.cat([d.ids(10), 10 + d.ids(3, 2, 2)]),
        "video_indices": torch.arange(10, 22),
        "audio_indices": torch.arange(6, 10),
        "text_indices": torch.arange(6),
    }


Row = tuple[dict[str, Any], Callable[[Any], dict[str, Any]]]

OTHER_TABLE: dict[str, Row] = {
    "AceStepTransformer1DModel": (
        {
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 3,
            "num_attention_heads": 2,
            "num_key_value_heads": 1,
            "head_dim": 16,
            "in_channels": 12,  # 4 of the noise and 8 of the context
            "audio_acoustic_hidden_dim": 4,
            "sliding_window": 4,
            "encoder_hidden_size": 16,
        },
        lambda d: {
            "hidden_states": d.moving(LENGTH, 4),
            "timestep": d.time(1.0),
            "timestep_r": d.time(1.0),
            "encoder_hidden_states": d.fixed(*TEXT),
            "context_latents": d.fixed(LENGTH, 8),
        },
    ),
    "DreamLiteTransformer2DModel": (UNET, unet_inputs),
    "LongCatAudioDiTTransformer": (
        {
            "dit_dim": 32,
            "dit_depth": 3,
            "dit_heads": 2,
            "dit_text_dim": 16,
            "latent_dim": 4,
            "ff_mult": 2.0,
        },
        lambda d: {
            "hidden_states": d.moving(LENGTH, 4),
            "encoder_hidden_states": d.fixed(*TEXT),
            "encoder_attention_mask": d.mask(6),
            "timestep": d.time(1.0),
            "attention_mask": d.mask(LENGTH),
            "latent_cond": d.fixed(LENGTH, 4),
        },
    ),
    "MiniMaxH3Transformer3DModel": (
        {
            **HEADS,
            "hidden_size": 24,
            "num_layers": 3,
            "num_refiner_layers": 3,
            "ffn_dim": 64,
            "in_channels": 4,
            "audio_in_channels": 4,
            "text_dim": 16,
            "freq_dim": 16,
            "time_embed_hidden_dim": 32,
            "time_embed_dim": 16,
            "rope_freq_dim": 2,
        },
        minimax_h3_inputs,
    ),
    "MiniMaxMusic3Transformer1DModel": (
        {
            **HEADS,
            "in_channels": 4,
            "condition_dim": 8,
            "num_layers": 3,
            "ff_inner_dim": 64,
            "rotary_dim": 8,
            "fourier_embedding_dim": 16,
        },
        lambda d: {
            "hidden_states": d.moving(4, LENGTH),
            "timestep": d.time(1.0),
            "encoder_hidden_states": d.fixed(LENGTH, 8),
        },
    ),
    "PriorTransformer": (
        {**HEADS, "num_layers": 3, "embedding_dim": 16, "num_embeddings": 6},
        lambda d: {
            "hidden_states": d.moving(16),
            "timestep": d.time(),
            "proj_embedding": d.fixed(16),
            "encoder_hidden_states": d.fixed(*TEXT),
        },
    ),
    "RFD4ProteinaTransformer": (
        {
            "nlayers": 3,
            "token_dim": 32,
            "nheads": 2,
            "dim_cond": 16,
            "pair_repr_dim": 16,
            "latent_dim": 4,
            "token_type_emb_dim": 8,
            "t_emb_dim": 16,
            "seq_sep_dim": 8,
            "xt_pair_dist_dim": 8,
            "feats_seq": ("xt_bb_ca", "xt_local_latents", "token_type"),
            "feats_cond_seq": ("time_emb_bb_ca", "time_emb_local_latents"),
            "feats_pair_repr": ("xt_bb_ca_pair_dists",),
            "tri_mult_c": 8,
            "num_sequence_classes": 8,
        },
        rfd4_inputs,
    ),
    "StableAudio3DiTModel": (
        {
            "io_channels": 4,
            "embed_dim": 32,
            "depth": 3,
            "num_heads": 2,
            "cond_token_dim": 16,
            "global_cond_dim": 16,
            "local_add_cond_dim": 5,
            "timestep_features_dim": 16,
            "ff_mult": 2.0,
            "num_memory_tokens": 2,
        },
        lambda d: {
            "hidden_states": d.moving(4, LENGTH),
            "timestep": d.time(1.0),
            "encoder_hidden_states": d.fixed(*TEXT),
            "global_hidden_states": d.fixed(16),
            "local_add_cond": d.fixed(5, LENGTH),
        },
    ),
    "StableAudioDiTModel": (
        {
            **HEADS,
            "sample_size": LENGTH,
            "in_channels": 4,
            "out_channels": 4,
            "num_layers": 3,
            "num_key_value_attention_heads": 1,
            "cross_attention_dim": 16,
            "cross_attention_input_dim": 16,
            "time_proj_dim": 16,
            "global_states_input_dim": 16,
        },
        lambda d: {
            "hidden_states": d.moving(4, LENGTH),
            "timestep": d.time(1.0),
            "encoder_hidden_states": d.fixed(*TEXT),
            "global_hidden_states": d.fixed(1, 16),
            # The global state goes before the sound as one more token; half of a head turns.
            "rotary_embedding": get_1d_rotary_pos_embed(
                8, LENGTH + 1, use_real=True, repeat_interleave_real=False
            ),
        },
    ),
    "T5FilmDecoder": (
        {
            "input_dims": 4,
            "targets_length": LENGTH,
            "d_model": 32,
            "num_layers": 3,
            "num_heads": 2,
            "d_kv": 16,
            "d_ff": 64,
        },
        lambda d: {
            "encodings_and_masks": [(d.fixed(6, 32), d.mask(6))],
            "decoder_input_tokens": d.moving(LENGTH, 4),
            "decoder_noise_time": d.time(1.0),
        },
    ),
    "Transformer2DModel": (UNET, unet_inputs),
    "TransformerTemporalModel": (
        {k: v for k, v in UNET.items() if k != "cross_attention_dim"},
        # Two videos of three frames, all in the batch axis.
        lambda d: {"hidden_states": d.moving(3, 32, 4, 4).flatten(0, 1), "num_frames": 3},
    ),
}
