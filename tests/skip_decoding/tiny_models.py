# SPDX-License-Identifier: Apache-2.0
"""Language models small enough to be decoded thousands of times, in float64 so that nothing is a near tie."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from genaccel.skip_decoding.drafts.draft_tree import TreeShape
from genaccel.skip_decoding.drafts.drafters import JacobiDrafter, ModelDrafter
from genaccel.skip_decoding.drafts.drafting import Drafter
from genaccel.skip_decoding.drafts.feature_drafter import (
    FeatureDrafter,
    FeatureDrafterNetwork,
    FeatureDrafterParams,
)

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


def feature_network(target: Any) -> FeatureDrafterNetwork:
    torch.manual_seed(7)
    return FeatureDrafterNetwork(FeatureDrafterParams.for_target(target.config)).double().eval()


DRAFTERS: dict[str, Callable[[Any], Drafter]] = {
    "jacobi": lambda target: JacobiDrafter(4),
    "row above": lambda target: JacobiDrafter(6, row_length=4),
    "model, chain": lambda target: ModelDrafter(draft_of(target)),
    "model, tree": lambda target: ModelDrafter(draft_of(target), widths=(3, 2, 1)),
    "features, chain": lambda target: FeatureDrafter(feature_network(target), target),
    "features, tree": lambda target: FeatureDrafter(
        feature_network(target), target, widths=(3, 2, 1)
    ),
    "features, uneven tree": lambda target: FeatureDrafter(
        feature_network(target), target, widths=TreeShape((0, 0, 0, 1, 1, 2, 4))
    ),
    "another model": lambda target: ModelDrafter(
        tiny_llama(layers=1, seed=9), widths=TreeShape((0, 0, 1, 3))
    ),
}


def prompts_of(count: int, length: int = 6) -> tuple[Tensor, Tensor]:
    """Prompts of unequal length, padded on the left."""
    generator = torch.Generator().manual_seed(count)
    prompts = torch.randint(1, VOCABULARY, (count, length), generator=generator)
    is_token = torch.ones_like(prompts, dtype=torch.bool)
    for number in range(count):
        is_token[number, : 2 * number % length] = False
    return prompts, is_token
