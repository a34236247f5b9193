# SPDX-License-Identifier: Apache-2.0
"""A model of transformers as the decoding calls it: rows in, logits out, whatever else its own ``generate`` would pass."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor


class ForwardError(Exception):
    """The model's forward failed on rows of the decoding; the cause is chained."""


class PromptedModel:
    """Gives the first forward what belongs to the prompt alone, such as pictures that are a part of it.

    Args:
        model: A decoder-only language model of transformers.
        prompt_inputs: Further arguments of the first forward.
        is_normalized: Give logits as logarithms of probabilities, as transformers' guidance combines them.
    """

    def __init__(
        self,
        model: Any,
        *,
        prompt_inputs: Mapping[str, Any] | None = None,
        is_normalized: bool = False,
    ) -> None:
        parameters = inspect.signature(model.forward).parameters
        self._model, self.config, self.dtype = model, model.config, model.dtype
        self._prompt_inputs, self._is_normalized = dict(prompt_inputs or {}), is_normalized
        self._cache_name = "cache" if "cache" in parameters else "past_key_values"
        self._keeps_logits = "logits_to_keep" in parameters
        self._has_read = False

    def positions(self, positions: Tensor, row_numbers: Tensor, *, is_prompt: bool) -> Tensor:
        """Positions that the model wants of tokens of which these count from 0, ``[B, R]``.

        Args:
            positions: Places in each sequence, padding not counted.
            row_numbers: Which rows of the prompt's batch these are, ``[B]``.
            is_prompt: Whether the rows are the prompt's own.
        """
        return positions

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        position_ids: Tensor,
        use_cache: bool,
        logits_to_keep: int,
        output_hidden_states: bool,
        cache: Any,
        row_numbers: Tensor,
    ) -> Any:
        """Read rows.

        Raises:
            ForwardError: If the model does not.
        """
        is_prompt = not self._has_read
        inputs: dict[str, Any] = dict(self._prompt_inputs) if is_prompt else {}
        self._has_read = True
        if self._keeps_logits:
            inputs["logits_to_keep"] = logits_to_keep
        if output_hidden_states:
            inputs["output_hidden_states"] = True
        inputs[self._cache_name] = cache
        try:
            output = self._model(
                input_ids=input_ids,
                attention_mask=attention_mask,
                position_ids=self.positions(position_ids, row_numbers, is_prompt=is_prompt),
                use_cache=use_cache,
                return_dict=True,
                **inputs,
            )
        except Exception as error:
            raise ForwardError(
                f"its forward refuses rows of a tree ({type(error).__name__}: {error})"
            ) from error
        output.logits = output.logits[:, -logits_to_keep:]
        if self._is_normalized:
            dtype = torch.float64 if output.logits.dtype == torch.float64 else torch.float32
            output.logits = output.logits.log_softmax(-1, dtype=dtype)
        return output

    __call__ = forward


class GlmImagePromptedModel(PromptedModel):
    """GLM-Image, whose positions are of three axes: a token of a picture has that of its place in the picture.

    Args:
        model: A ``GlmImageForConditionalGeneration``.
        prompts: ``[B, L]``.
        is_token: False for their padding, ``[B, L]``.
        image_grid_thw: Sizes of the pictures, those to be drawn included, ``[n, 3]``.
        images_per_sample: How many of them each prompt has, ``[B]``; None if there is one prompt.
        prompt_inputs: As for :class:`PromptedModel`.
    """

    def __init__(
        self,
        model: Any,
        prompts: Tensor,
        is_token: Tensor,
        image_grid_thw: Tensor,
        images_per_sample: Tensor | None,
        prompt_inputs: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(model, prompt_inputs=prompt_inputs)
        inner = model.model
        # The model keeps the places of what it is about to draw; they are ours, and its own stay as they are.
        names = ("_cached_decode_position_ids", "_prefill_len")
        kept = {name: getattr(inner, name) for name in names}
        try:
            self._prompt_positions, _ = inner.get_rope_index(
                prompts,
                image_grid_thw=image_grid_thw,
                images_per_sample=images_per_sample,
                attention_mask=is_token.long(),
            )
            self._places: Tensor = inner._cached_decode_position_ids  # [B, 3, T]
        finally:
            for name, value in kept.items():
                setattr(inner, name, value)
        self._prompt_lengths = is_token.sum(1)

    def positions(self, positions: Tensor, row_numbers: Tensor, *, is_prompt: bool) -> Tensor:
        """Positions on three axes, ``[3, B, R]``."""
        if is_prompt:
            return self._prompt_positions
        steps = positions - self._prompt_lengths[row_numbers][:, None]
        # Rows behind the last place are guesses that nobody will look at.
        steps = steps.clamp(0, self._places.shape[2] - 1)[:, None].expand(-1, 3, -1)
        return self._places[row_numbers].gather(2, steps).permute(1, 0, 2)


def row_length_of_grids(image_grid_thw: Tensor) -> int:
    """Tokens of a row of the largest picture of ``[n, 3]``."""
    sizes = image_grid_thw.tolist()
    return int(max(sizes, key=lambda size: size[1] * size[2])[2])
