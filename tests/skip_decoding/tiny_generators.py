# SPDX-License-Identifier: Apache-2.0
"""Emu3 and Janus of transformers at tiny size, and calls that make them draw pictures."""

from typing import Any

import torch

from tests.skip_decoding.tiny_models import VOCABULARY

EMU3_PROMPTS = torch.tensor([[0, 4, 5], [6, 7, 5]])
JANUS_PROMPTS = torch.tensor([[0, 1, 8, 9, 3], [1, 5, 6, 7, 3]])


def allowed_by_emu3(number: int, ids: Any) -> list[int]:
    """Rows of four, each behind an end of line; as Emu3's own processor does it."""
    place = len(ids) - EMU3_PROMPTS.shape[1]
    if place >= 15:
        return [2]
    return [9] if place % 5 == 4 else list(range(10, 18))


EMU3_CALL: dict[str, Any] = {
    "attention_mask": (EMU3_PROMPTS > 0).long(),
    "max_new_tokens": 40,
    "do_sample": False,
    "prefix_allowed_tokens_fn": allowed_by_emu3,
    "guidance_scale": 3.0,
    "negative_prompt_ids": torch.tensor([[5], [5]]),
}
JANUS_CALL: dict[str, Any] = {
    "attention_mask": (JANUS_PROMPTS > 0).long(),
    "generation_mode": "image",
    "guidance_scale": 4.0,
    "do_sample": False,
}


def tiny_emu3() -> Any:
    """An ``Emu3ForConditionalGeneration``, in float64."""
    from transformers import Emu3Config, Emu3ForConditionalGeneration

    torch.manual_seed(0)
    config: Any = Emu3Config(
        text_config={
            "vocab_size": VOCABULARY,
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "num_key_value_heads": 1,
            "max_position_embeddings": 128,
            "initializer_range": 0.2,
            "pad_token_id": 0,
            "bos_token_id": 1,
            "eos_token_id": 2,
        },
        vq_config={
            "codebook_size": 8,
            "base_channels": 32,
            "channel_multiplier": [1, 1],
            "num_res_blocks": 1,
            "hidden_size": 4,
            "attn_resolutions": [],
        },
        vocabulary_map={"<image>": 3, **{f"<|visual token {n:06d}|>": 10 + n for n in range(8)}},
    )
    return Emu3ForConditionalGeneration(config).double().eval()


def tiny_janus() -> Any:
    """A ``JanusForConditionalGeneration``, in float64."""
    from transformers import JanusConfig, JanusForConditionalGeneration

    torch.manual_seed(0)
    config: Any = JanusConfig(
        text_config={
            "model_type": "llama",
            "vocab_size": VOCABULARY,
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "num_key_value_heads": 1,
            "max_position_embeddings": 128,
            "initializer_range": 0.2,
        },
        vision_config={
            "hidden_size": 16,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "image_size": 16,
            "patch_size": 4,
            "projection_dim": 32,
            "num_image_tokens": 16,
        },
        vq_config={
            "num_embeddings": 12,
            "embed_dim": 4,
            "base_channels": 32,
            "channel_multiplier": (1, 1),
            "latent_channels": 4,
            "num_res_blocks": 1,
            "projection_dim": 32,
            "image_token_embed_dim": 32,
        },
        image_token_id=39,
    )
    model: Any = JanusForConditionalGeneration(config).double().eval()
    for weight in model.model.generation_head.parameters():
        weight.data.mul_(20)
    own = model.generation_config
    own.bos_token_id, own.pad_token_id, own.eos_token_id = 1, 0, 2
    own.generation_kwargs = {"boi_token_id": 3}
    return model
