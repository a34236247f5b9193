# SPDX-License-Identifier: Apache-2.0
"""Language models small enough to be decoded thousands of times, in float64 so that nothing is a near tie."""

from typing import Any

import torch

VOCABULARY = 40


def tiny_llama(*, layers: int = 2, seed: int = 0, vocabulary: int = VOCABULARY) -> Any:
    """A ``LlamaForCausalLM`` of random weights."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    config: Any = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=layers,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=256,
        bos_token_id=None,
        eos_token_id=None,
        pad_token_id=0,
        initializer_range=0.15,
    )
    return LlamaForCausalLM(config).double().eval()


def draft_of(target: Any) -> Any:
    """The first layer of a model as a model: it often guesses right."""
    draft = tiny_llama(layers=1)
    known = draft.state_dict().keys()
    draft.load_state_dict({k: v for k, v in target.state_dict().items() if k in known})
    return draft
