# SPDX-License-Identifier: Apache-2.0
"""diffusers' GlmImagePipeline in small: the real classes, with random weights and a tokenizer of letters."""

from typing import Any

import torch

CODE_WORDS = 24
LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789 "
SPECIAL = ("<pad>", "<image>", "<sop>", "<eop>", "<start>", "<end>")


def tiny_tokenizer() -> Any:
    """One token a letter; the special ones come behind the code words."""
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    # GLM-Image's pictures have the first numbers.
    words = [f"<code {number}>" for number in range(CODE_WORDS)]
    vocabulary = {word: number for number, word in enumerate([*words, *SPECIAL, *LETTERS])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=" "))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex("."), "isolated")
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        bos_token="<start>",
        unk_token=" ",
        padding_side="left",
        extra_special_tokens={
            "image_token": "<image>",
            "grid_bos_token": "<sop>",
            "grid_eos_token": "<eop>",
            "image_end_token": "<end>",
        },
    )


def tiny_language_model() -> Any:
    """A ``GlmImageForConditionalGeneration``."""
    from transformers import GlmImageConfig, GlmImageForConditionalGeneration

    names = tiny_tokenizer().convert_tokens_to_ids
    config: Any = GlmImageConfig(
        text_config={
            "vocab_size": CODE_WORDS + len(SPECIAL) + len(LETTERS),
            "vision_vocab_size": CODE_WORDS,
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "num_key_value_heads": 1,
            "max_position_embeddings": 512,
            "initializer_range": 0.2,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 10000.0,
                "partial_rotary_factor": 1.0,
                "mrope_section": [2, 3, 3],
            },
            "eos_token_id": None,
            "pad_token_id": names("<pad>"),
        },
        vision_config={
            "depth": 1,
            "hidden_size": 16,
            "num_heads": 2,
            "intermediate_size": 16,
            "image_size": 64,
        },
        vq_config={"embed_dim": 4, "num_embeddings": CODE_WORDS, "latent_channels": 16},
        image_token_id=names("<image>"),
        image_start_token_id=names("<start>"),
        image_end_token_id=names("<end>"),
    )
    torch.manual_seed(0)
    model: Any = GlmImageForConditionalGeneration(config).eval()
    model.generation_config.pad_token_id = names("<pad>")
    return model


def tiny_glm_image(pipeline_class: Any) -> Any:
    """The pipeline."""
    from diffusers import (
        AutoencoderKL,
        FlowMatchEulerDiscreteScheduler,
        GlmImageTransformer2DModel,
    )
    from transformers import (
        ByT5Tokenizer,
        GlmImageImageProcessor,
        GlmImageProcessor,
        T5Config,
        T5EncoderModel,
    )

    language_model = tiny_language_model()
    torch.manual_seed(1)
    pipe = pipeline_class(
        tokenizer=ByT5Tokenizer(),
        processor=GlmImageProcessor(
            GlmImageImageProcessor(),
            tiny_tokenizer(),
            chat_template=(
                "{% for message in messages %}{% for part in message['content'] %}"
                "{% if part['type'] == 'text' %}{{ part['text'] }}{% else %}<image>{% endif %}"
                "{% endfor %}{% endfor %}"
            ),
        ),
        text_encoder=T5EncoderModel(
            T5Config(d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2, vocab_size=400)
        ).eval(),
        vision_language_encoder=language_model,
        vae=AutoencoderKL(
            block_out_channels=(4, 4, 4, 4),
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            layers_per_block=1,
            norm_num_groups=2,
            latent_channels=4,
            latents_mean=[0.0] * 4,
            latents_std=[1.0] * 4,
            sample_size=64,
        ).eval(),
        transformer=GlmImageTransformer2DModel(
            num_layers=1,
            in_channels=4,
            out_channels=4,
            attention_head_dim=8,
            num_attention_heads=2,
            text_embed_dim=16,
            time_embed_dim=16,
            condition_dim=8,
            prior_vq_quantizer_codebook_size=CODE_WORDS,
        ).eval(),
        scheduler=FlowMatchEulerDiscreteScheduler(),
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe
