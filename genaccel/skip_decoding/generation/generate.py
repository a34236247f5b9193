# SPDX-License-Identifier: Apache-2.0
"""Speculative decoding as transformers' ``generate(custom_generate=...)``.

What cannot be decoded so is generated plainly, with one warning that says why.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from genaccel.skip_decoding.config import SkipDecodingConfig
from genaccel.skip_decoding.decoding import Decoded
from genaccel.skip_decoding.drafts.draft_tree import TreeShape
from genaccel.skip_decoding.generation.logits_processors import (
    NotSupportedError,
    Processing,
    process_tree,
    read_processors,
)
from genaccel.skip_decoding.generation.prompted_model import (
    ForwardError,
    GlmImagePromptedModel,
    PromptedModel,
    row_length_of_grids,
)
from genaccel.skip_decoding.memory.cached_rows import CachedRows
from genaccel.skip_decoding.preparation import PreparedDecoding, prepare
from genaccel.skip_decoding.report import DecodingReport

_logger = logging.getLogger(__name__)

# What generate always hands on, and the decoding makes itself.
_OWN_INPUTS = frozenset(
    ("attention_mask", "position_ids", "cache", "past_key_values", "logits_to_keep", "use_cache")
)
_GLM_INPUTS = ("image_grid_thw", "images_per_sample")
# Attention that takes a mask of four dimensions.
_MASKED_ATTENTION = (None, "eager", "sdpa")


@dataclass(frozen=True, kw_only=True, slots=True)
class GenerationReport:
    """What became of a call of ``generate``.

    Attributes:
        decoding: What it cost; None if it was generated plainly.
        plain_because: Why it was; empty if it was not.
    """

    decoding: DecodingReport | None = None
    plain_because: str = ""

    def __str__(self) -> str:
        if self.decoding is None:
            return f"generated plainly: {self.plain_because}"
        report = self.decoding
        chosen = "" if report.choice is None else f"; {report.choice}"
        return (
            f"{report.generated_tokens} tokens in {report.target_forwards} forwards, "
            f"{report.mean_acceptance_length:.2f} tokens a round, "
            f"{report.unverified_fraction:.0%} unverified, {report.total_seconds:.2f} s{chosen}"
        )


def speculative_generate(
    model: Any,
    input_ids: Tensor,
    *,
    logits_processor: Sequence[Any],
    stopping_criteria: Sequence[Any],
    generation_config: Any,
    streamer: Any = None,
    skip_decoding: SkipDecodingConfig | PreparedDecoding | None = None,
    pure_processors: tuple[type, ...] = (),
    on_report: Callable[[GenerationReport], object] | None = None,
    **model_kwargs: Any,
) -> Any:
    """Generate by speculative decoding: ``model.generate(**inputs, custom_generate=speculative_generate)``.

    ``generate`` prepares the arguments but the three below, which it hands on as they are. It gives no ``streamer`` to a
    function of the caller's; a model that ``genaccel.enable`` accelerates streams.

    Guidance (``guidance_scale``, ``negative_prompt_ids``) is a batch twice as large, in which the unconditional half forgets
    rejected guesses too. Temperature, ``top_k`` and ``top_p`` become the rule of drawing; transformers' other processors
    are applied in the context of each guess.

    Args:
        model: The model, which ``generate`` passes.
        input_ids: Prompts, ``[B, L]``, already one for each sequence that is returned.
        logits_processor: ``generate``'s.
        stopping_criteria: ``generate``'s; they are asked after each token, though drawn several at a time.
        generation_config: ``generate``'s.
        streamer: Gets the prompts, and tokens as they are drawn.
        skip_decoding: What drafts and what is accepted; by default ``SkipDecodingConfig()``, which is exact.
        pure_processors: Classes of the caller's logits processors that are functions of one sequence's tokens and logits.
        on_report: Called with a report when all is drawn.
        model_kwargs: What else the model's forward takes.

    Returns:
        As ``generate``: tokens ``[B, T]``, prompts included, or with ``return_dict_in_generate`` an output with
        ``sequences``, and without a cache, whose rows are not those of a plain one.

    Raises:
        ValueError: If the config does not fit the model, or logits are not numbers.
        TypeError: If it is no config.
    """
    call = _Call(model, input_ids, logits_processor, stopping_criteria, generation_config, streamer)
    call.kwargs = model_kwargs
    report = on_report or (lambda _: None)
    try:
        call.check()
        processing = read_processors(
            logits_processor, is_sampled=bool(generation_config.do_sample), pure=pure_processors
        )
        if not isinstance(skip_decoding, SkipDecodingConfig | PreparedDecoding | None):
            raise TypeError(
                f"skip_decoding must be a SkipDecodingConfig, got {type(skip_decoding).__name__}"
            )
        if isinstance(skip_decoding, PreparedDecoding):
            prepared = skip_decoding
        else:
            prepared = prepare(skip_decoding or SkipDecodingConfig(), model)
        decoded = call.decode(prepared, processing)
    except (NotSupportedError, ForwardError) as error:
        warn_of_plain(model, str(error))
        report(GenerationReport(plain_because=str(error)))
        return call.plainly()
    report(GenerationReport(decoding=decoded.report))
    return call.result(decoded)


def warn_of_plain(model: Any, reason: str) -> None:
    """Say that a call is generated plainly, and why."""
    _logger.warning("%s generates without speculative decoding: %s", type(model).__name__, reason)


class _Call:
    """One call of ``generate``, as its arguments were prepared."""

    def __init__(
        self,
        model: Any,
        input_ids: Tensor,
        logits_processor: Sequence[Any],
        stopping_criteria: Sequence[Any],
        generation_config: Any,
        streamer: Any,
    ) -> None:
        self.model, self.input_ids, self.config = model, input_ids, generation_config
        self.processors, self.criteria = logits_processor, stopping_criteria
        self.streamer = streamer
        self.kwargs: dict[str, Any] = {}

    def check(self) -> None:
        """Refuse what has to be generated plainly.

        Raises:
            NotSupportedError: Saying why.
        """
        model, config, kwargs = self.model, self.config, self.kwargs
        mode = str(config.get_generation_mode().value)
        if mode not in ("greedy_search", "sample"):
            raise NotSupportedError(f"{mode.replace('_', ' ')} is asked for")
        for name in ("output_scores", "output_logits", "output_attentions", "output_hidden_states"):
            if getattr(config, name, None):
                raise NotSupportedError(f"{name} is asked for, which belongs to single tokens")
        if config.use_cache is False:
            raise NotSupportedError("it is to run without a cache")
        if model.config.is_encoder_decoder:
            raise NotSupportedError("it has an encoder")
        text_config = model.config.get_text_config(decoder=True)
        attention = getattr(text_config, "_attn_implementation", None)
        if attention not in _MASKED_ATTENTION:
            raise NotSupportedError(f"{attention} attention takes no mask of a tree")
        cache = kwargs.get("cache", kwargs.get("past_key_values"))
        if cache is not None and (
            getattr(cache, "_is_user_defined", False) or int(cache.get_seq_length())
        ):
            raise NotSupportedError("a cache is passed")
        if self.input_ids.ndim != 2 or self.input_ids.shape[1] < 1:
            raise NotSupportedError("there are no tokens of a prompt")
        try:
            CachedRows(model)
        except TypeError as error:
            raise NotSupportedError(str(error)) from error
        parameters = inspect.signature(model.forward).parameters
        if hasattr(getattr(model, "model", None), "rope_deltas") and (
            "images_per_sample" not in parameters
        ):
            raise NotSupportedError("its positions have several axes that are not known here")

    def decode(self, prepared: PreparedDecoding, processing: Processing) -> Decoded:
        """Draw the tokens.

        Raises:
            NotSupportedError: If arguments do not fit.
            ForwardError: If the model does not read rows of a tree, and nothing was streamed.
        """
        model, prompts = self.model, self.input_ids.to(self.model.device)
        is_token = self._is_token()
        rule = processing.rule
        prompted, row_length = self._prompted(
            prompts, is_token, is_normalized=rule.is_guided and bool(processing.others)
        )
        if rule.is_guided and self._prompt_inputs():
            raise NotSupportedError("guidance goes with prompts of tokens alone")
        negative = negative_mask = None
        if rule.is_guided:
            negative, negative_mask = processing.negative_prompts, processing.negative_is_token
            # transformers' processor takes the last token of each prompt where there is no negative one.
            negative = prompts[:, -1:] if negative is None else negative.to(prompts.device)
            negative_mask = (
                None if negative_mask is None else negative_mask.bool().to(prompts.device)
            )
            negative, negative_mask = _one_for_each(negative, negative_mask, len(prompts))
            if negative_mask is not None and not _is_left_padded(negative_mask):
                raise NotSupportedError("negative prompts are not padded on the left")
        limit, ends, others = _ends_of(self.criteria)
        if limit is None:
            raise NotSupportedError("there is no limit to its length")
        pad = self.config._pad_token_tensor
        pad_token = 0 if pad is None else int(pad)
        watch = _Watch(
            prompts,
            processing.others,
            others,
            ends_alone=bool(ends),
            pad_token=pad_token,
            limit=limit - prompts.shape[1],
            streamer=self.streamer,
        )
        if watch.limit < 1:
            raise NotSupportedError("there is no room for a token")
        # Of both branches, of which the shorter prompts are padded.
        length = max(prompts.shape[1], 0 if negative is None else negative.shape[1])
        state = torch.get_rng_state()
        seed = prepared.seed() if rule.temperature > 0 else 0
        options = prepared.options.for_call(seed=seed, end_tokens=ends, pad_token=pad_token)
        try:
            decoded = prepared.decode(
                prompted,
                prompts,
                is_token,
                rule=rule,
                max_new_tokens=watch.limit,
                row_length=row_length,
                measured=model
                if type(prompted) is PromptedModel
                and not self._prompt_inputs()
                and hasattr(model.config, "vocab_size")
                else None,
                options=options,
                negative_prompts=negative,
                negative_is_token=negative_mask,
                steering=watch if watch.is_needed else None,
                cache=self._static_cache(prepared.most_rows, length + watch.limit),
            )
        except ForwardError as error:
            if watch.has_streamed:
                raise RuntimeError(
                    f"{type(model).__name__} cannot go on with what was streamed: {error}"
                ) from error
            torch.set_rng_state(state)
            raise
        watch.finish(decoded.tokens)
        return decoded

    def result(self, decoded: Decoded) -> Any:
        """What ``generate`` returns."""
        # Out of inference mode, so that callers may write to it.
        sequences: Any = torch.cat((self.input_ids, decoded.tokens.to(self.input_ids.device)), 1)
        if not self.config.return_dict_in_generate:
            return sequences
        from transformers.generation.utils import GenerateDecoderOnlyOutput

        return GenerateDecoderOnlyOutput(sequences=sequences)

    def plainly(self) -> Any:
        """Generate as the model does without us."""
        from transformers.generation.utils import GENERATION_MODES_MAPPING

        mode = self.config.get_generation_mode()
        method = getattr(type(self.model), GENERATION_MODES_MAPPING[mode])
        further: dict[str, Any] = {}
        if "inputs_tensor" in inspect.signature(method).parameters:  # assisted generation
            further["inputs_tensor"] = self.input_ids
        if self.streamer is not None:
            further["streamer"] = self.streamer
        return method(
            self.model,
            self.input_ids,
            logits_processor=self.processors,
            stopping_criteria=self.criteria,
            generation_config=self.config,
            **further,
            **self.kwargs,
        )

    def _static_cache(self, rows: int | None, limit: int) -> Any:
        """A static cache where one is asked for, which transformers' own would be too small for; else None.

        Args:
            rows: Of one forward at most, or None if that is not known.
            limit: Tokens of a sequence, its prompt's and padding counted.
        """
        if self.config.cache_implementation != "static" or rows is None:
            return None
        from transformers import StaticCache

        return StaticCache(config=self.model.config, max_cache_len=limit + rows)

    def _is_token(self) -> Tensor:
        """False for padding, ``[B, L]``."""
        prompts, mask = self.input_ids, self.kwargs.get("attention_mask")
        if mask is None:
            mask = torch.ones_like(prompts)
        if mask.shape != prompts.shape:
            raise NotSupportedError("the attention mask has not the prompts' shape")
        is_token: Tensor = mask.bool()
        if not _is_left_padded(is_token):
            raise NotSupportedError("prompts are not padded on the left")
        positions = self.kwargs.get("position_ids")
        if positions is not None:
            expected = (is_token.long().cumsum(1) - 1).masked_fill(~is_token, 0)
            if positions.ndim != 2 or not bool(
                (positions.to(expected.device) == expected)[is_token].all()
            ):
                raise NotSupportedError("position_ids are passed")
        return is_token.to(self.model.device)

    def _prompt_inputs(self) -> dict[str, Any]:
        """What belongs to the prompt alone."""
        from transformers.generation.utils import MULTIMODAL_INPUTS_TO_DROP_OUTSIDE_PREFILL

        found: dict[str, Any] = {}
        for name, value in self.kwargs.items():
            is_empty = value is None or value is False or (isinstance(value, Mapping) and not value)
            if name in _OWN_INPUTS or name in _GLM_INPUTS or is_empty:
                continue
            if name not in MULTIMODAL_INPUTS_TO_DROP_OUTSIDE_PREFILL:
                raise NotSupportedError(f"{name} is passed")
            found[name] = value
        return found

    def _prompted(
        self, prompts: Tensor, is_token: Tensor, *, is_normalized: bool
    ) -> tuple[PromptedModel, int]:
        """The model as the decoding calls it, and the length of its pictures' rows."""
        inputs = self._prompt_inputs()
        grids = self.kwargs.get("image_grid_thw")
        if grids is None:
            made = PromptedModel(self.model, prompt_inputs=inputs, is_normalized=is_normalized)
            return made, 0
        if is_normalized:
            raise NotSupportedError("guidance goes with prompts of tokens alone")
        samples = self.kwargs.get("images_per_sample")
        glm = GlmImagePromptedModel(self.model, prompts, is_token, grids, samples, inputs)
        return glm, row_length_of_grids(grids)


class _Watch:
    """Applies processors, asks criteria and feeds a streamer while tokens are drawn.

    Attributes:
        limit: New tokens at most.
        is_needed: Whether there is any of these.
        has_streamed: Whether a streamer has got tokens.
    """

    def __init__(
        self,
        prompts: Tensor,
        processors: Sequence[Any],
        criteria: Sequence[Any],
        *,
        ends_alone: bool,
        pad_token: int,
        limit: int,
        streamer: Any,
    ) -> None:
        self._prompts, self._processors, self._criteria = prompts, processors, criteria
        self._ends_alone, self._streamer, self.limit = ends_alone, streamer, limit
        shape = (len(prompts), max(limit, 0))
        self._drawn = torch.full(shape, pad_token, dtype=torch.long, device=prompts.device)
        # Tokens that criteria have seen of each sequence, and how many it had when one of them was met.
        self._seen = torch.zeros(len(prompts), dtype=torch.long)
        self._met = torch.full((len(prompts),), -1, dtype=torch.long)
        self._num_streamed = 0

    @property
    def is_needed(self) -> bool:
        return bool(self._processors or self._criteria or self._streamer is not None)

    @property
    def has_streamed(self) -> bool:
        return self._num_streamed > 0

    def adjust(
        self,
        sequences: Tensor,
        history: Tensor,
        lengths: Tensor,
        shape: TreeShape,
        tokens: Tensor,
        logits: Tensor,
    ) -> Tensor:
        """See :class:`genaccel.skip_decoding.generation.steering.Steering`."""
        if not self._processors:
            return logits
        return process_tree(
            self._processors, self._prompts, sequences, history, lengths, shape, tokens, logits
        )

    def ends(self, sequences: Tensor, tokens: Tensor, lengths: Tensor) -> Tensor:
        """See :class:`genaccel.skip_decoding.generation.steering.Steering`."""
        kept = torch.full_like(lengths, -1)
        if self._criteria:
            kept = self._asked(sequences, tokens, lengths)
        if self._streamer is not None:
            counts = torch.where(kept >= 0, kept, lengths)
            is_drawn = torch.arange(self.limit, device=counts.device) < counts[:, None]
            self._drawn[sequences] = torch.where(is_drawn, tokens, self._drawn[sequences])
            self._stream(self._drawn[:, : int(counts.min())])
        return kept

    def finish(self, tokens: Tensor) -> None:
        """Stream what is left of all that was drawn, ``[B, T]``."""
        if self._streamer is not None:
            self._stream(tokens)
            self._streamer.end()

    def _asked(self, sequences: Tensor, tokens: Tensor, lengths: Tensor) -> Tensor:
        for row, number in enumerate(sequences.tolist()):
            length = int(lengths[row])
            while self._met[number] < 0 and self._seen[number] < length:
                self._seen[number] += 1
                drawn = tokens[row, : self._seen[number]]
                ids = torch.cat((self._prompts[number], drawn))[None]
                if any(bool(criterion(ids, None).all()) for criterion in self._criteria):
                    self._met[number] = self._seen[number]
        met = self._met.to(lengths.device)
        if self._ends_alone:
            return met[sequences]
        # Without a token that ends sequences, generate goes on with all of them until the last one may stop.
        if int(met.min()) < 0:
            return torch.full_like(lengths, -1)
        return torch.where(lengths >= met.max(), met.max(), -1)

    def _stream(self, tokens: Tensor) -> None:
        for place in range(self._num_streamed, tokens.shape[1]):
            self._streamer.put(tokens[:, place].cpu())
        self._num_streamed = max(self._num_streamed, tokens.shape[1])


def _ends_of(criteria: Sequence[Any]) -> tuple[int | None, tuple[int, ...], list[Any]]:
    """The length that ends sequences, the tokens that do, and what else may."""
    limits: list[int] = []
    ends: list[int] = []
    others = []
    for criterion in criteria:
        if type(criterion).__name__ == "MaxLengthCriteria":
            limits.append(int(criterion.max_length))
        elif type(criterion).__name__ == "EosTokenCriteria":
            ends += criterion.eos_token_id.flatten().tolist()
        else:
            others.append(criterion)
    return min(limits, default=None), tuple(dict.fromkeys(ends)), others


def _is_left_padded(is_token: Tensor) -> bool:
    return bool(is_token[:, -1].all()) and not bool((is_token[:, :-1] & ~is_token[:, 1:]).any())


def _one_for_each(
    negative: Tensor, is_token: Tensor | None, count: int
) -> tuple[Tensor, Tensor | None]:
    """Negative prompts for each of the sequences, of which generate has made several of a prompt."""
    if len(negative) == count or not len(negative) or count % len(negative):
        return negative, is_token
    repeats = count // len(negative)
    if is_token is not None:
        is_token = is_token.repeat_interleave(repeats, 0)
    return negative.repeat_interleave(repeats, 0), is_token
