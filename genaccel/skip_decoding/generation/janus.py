# SPDX-License-Identifier: Apache-2.0
"""Pictures of transformers' Janus, whose ``generate`` has a loop of its own for them.

A picture's tokens have their own embedding and head, so the decoding reads the prompt as text and everything behind it as
picture.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from genaccel.skip_decoding.drafts.drafters import ModelDrafter
from genaccel.skip_decoding.drafts.feature_drafter import FeatureDrafter
from genaccel.skip_decoding.generation.generate import GenerationReport, warn_of_plain
from genaccel.skip_decoding.generation.logits_processors import NotSupportedError, read_processors
from genaccel.skip_decoding.generation.prompted_model import ForwardError
from genaccel.skip_decoding.preparation import PreparedDecoding
from genaccel.skip_decoding.report import DecodingReport


def is_janus(model: Any) -> bool:
    """Whether a model is transformers' Janus."""
    return any(cls.__name__ == "JanusForConditionalGeneration" for cls in type(model).__mro__)


def codebook_of_janus(model: Any) -> Tensor:
    """Code words of its picture tokens, ``[K, C]``."""
    weight: Tensor = model.model.vqmodel.quantize.embedding.weight
    return weight.detach()


class _PictureModel:
    """Janus as the decoding calls it: the first rows are text, all others picture tokens."""

    def __init__(self, model: Any) -> None:
        self._janus, self._language = model, model.model.language_model
        self.config, self.dtype = self._language.config, model.dtype
        self._cache_name = (
            "cache"
            if "cache" in inspect.signature(self._language.forward).parameters
            else "past_key_values"
        )
        self._has_read = False

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        position_ids: Tensor,
        use_cache: bool,
        logits_to_keep: int,
        output_hidden_states: bool,
        cache: Any,
    ) -> Any:
        """Read rows.

        Raises:
            ForwardError: If the model does not.
        """
        janus = self._janus
        embed = (
            janus.prepare_embeddings_for_image_generation
            if self._has_read
            else janus.get_input_embeddings()
        )
        self._has_read = True
        try:
            states = self._language(
                inputs_embeds=embed(input_ids),
                attention_mask=attention_mask,
                position_ids=position_ids,
                use_cache=use_cache,
                **{self._cache_name: cache},
            ).last_hidden_state
            logits = janus.model.generation_head(states[:, -logits_to_keep:])
        except Exception as error:
            raise ForwardError(
                f"its forward refuses rows of a tree ({type(error).__name__}: {error})"
            ) from error
        return SimpleNamespace(logits=logits, hidden_states=(states,))

    __call__ = forward


def generate_janus_images(
    model: Any,
    stock: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    *,
    prepared: PreparedDecoding,
    on_report: Callable[[GenerationReport], object],
) -> Any:
    """``model.generate(..., generation_mode="image")``, decoded speculatively.

    Args:
        model: The model.
        stock: Its own ``generate``, for what cannot be decoded so.
        args: The call's.
        kwargs: The call's.
        prepared: What drafts and what is accepted.
        on_report: Called with a report when all is drawn.

    Returns:
        As ``generate``: the tokens of the pictures, ``[B, T]``, or an output with them as ``sequences``.
    """
    try:
        tokens, report = _drawn(model, args, dict(kwargs), prepared)
    except (NotSupportedError, ForwardError) as error:
        warn_of_plain(model, str(error))
        on_report(GenerationReport(plain_because=str(error)))
        return stock(*args, **kwargs)
    on_report(GenerationReport(decoding=report))
    config = kwargs.get("generation_config") or model.generation_config
    if not kwargs.get("return_dict_in_generate", config.return_dict_in_generate):
        return tokens
    from transformers.generation.utils import GenerateDecoderOnlyOutput

    return GenerateDecoderOnlyOutput(sequences=tokens)


def _drawn(
    model: Any, args: tuple[Any, ...], kwargs: dict[str, Any], prepared: PreparedDecoding
) -> tuple[Any, DecodingReport]:
    given = inspect.signature(type(model).generate).bind(model, *args, **kwargs).arguments
    processors = given.get("logits_processor")
    if processors:
        raise NotSupportedError("logits processors are passed")
    if isinstance(prepared.prototype, FeatureDrafter | ModelDrafter):
        raise NotSupportedError("its pictures have an embedding that this drafter does not know")
    rest = dict(given.get("kwargs", {}))
    rest.pop("generation_mode")
    ids, mask = given.get("inputs", rest.pop("input_ids", None)), given.get("attention_mask")
    if ids is None or ids.ndim != 2:
        raise NotSupportedError("there are no tokens of a prompt")
    config, others = model._prepare_generation_config(rest.pop("generation_config", None), **rest)
    mode = str(config.get_generation_mode().value)
    if mode not in ("greedy_search", "sample"):
        raise NotSupportedError(f"{mode.replace('_', ' ')} is asked for")
    if any(value is not None for value in others.values()):
        raise NotSupportedError(f"{', '.join(sorted(others))} is passed")
    for name in ("output_scores", "output_logits", "output_attentions", "output_hidden_states"):
        if getattr(config, name, None):
            raise NotSupportedError(f"{name} is asked for, which belongs to single tokens")
    scale = 5.0 if config.guidance_scale is None else float(config.guidance_scale)
    if not 1 < scale < math.inf:
        raise NotSupportedError(f"guidance_scale {scale:g} is not above 1")
    device = model.device
    model._prepare_special_tokens(config, mask is not None, device=device)
    config.guidance_scale = None  # ours; transformers would make a processor of it
    listed = model._get_logits_processor(
        generation_config=config,
        input_ids_seq_length=ids.shape[1],
        encoder_input_ids=ids,
        logits_processor=[],
        device=device,
    )
    processing = read_processors(listed, is_sampled=bool(config.do_sample))
    if processing.others:
        names = ", ".join(type(processor).__name__ for processor in processing.others)
        raise NotSupportedError(f"{names} would be shown the prompt alone")
    mask = torch.ones_like(ids) if mask is None else mask
    repeats = config.num_return_sequences
    prompts = ids.to(device).repeat_interleave(repeats, 0)
    is_token = mask.to(device).bool().repeat_interleave(repeats, 0)
    if bool((is_token[:, :-1] & ~is_token[:, 1:]).any()) or not bool(is_token[:, -1:].all()):
        raise NotSupportedError("prompts are not padded on the left")
    keeps = (config.bos_token_id, config.generation_kwargs["boi_token_id"])
    is_kept = torch.isin(prompts, torch.tensor(keeps, device=device))
    count = int(model.model.vision_model.config.num_image_tokens)
    rule = replace(processing.rule, guidance_scale=scale)
    state = torch.get_rng_state()
    try:
        decoded = prepared.decode(
            _PictureModel(model),
            prompts,
            is_token,
            rule=rule,
            max_new_tokens=count,
            row_length=math.isqrt(count),
            measured=None,
            options=prepared.options.with_seed(prepared.seed() if rule.temperature > 0 else 0),
            negative_prompts=torch.where(is_kept, prompts, config.pad_token_id),
            negative_is_token=is_token,
        )
    except ForwardError:
        torch.set_rng_state(state)
        raise
    # Out of inference mode, so that callers may write to it.
    return decoded.tokens.clone().to(ids.device), decoded.report
