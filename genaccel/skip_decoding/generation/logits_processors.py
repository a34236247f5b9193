# SPDX-License-Identifier: Apache-2.0
"""transformers' list of logits processors as a rule of drawing, guidance, and what depends on the tokens before.

A tree of guesses asks for logits in many contexts at once, so only processors are taken that are functions of the tokens of
one sequence and of its logits: of transformers' own, those below; of others, those that the caller names.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from genaccel.skip_decoding.drafts.draft_tree import TreeShape
from genaccel.skip_decoding.sampling import SamplingRule

# Functions of one sequence's tokens and logits, by name, for not each version of transformers has all.
_PURE = frozenset(
    (
        "EpsilonLogitsWarper",
        "EtaLogitsWarper",
        "ExponentialDecayLengthPenalty",
        "ForcedBOSTokenLogitsProcessor",
        "ForcedEOSTokenLogitsProcessor",
        "InfNanRemoveLogitsProcessor",
        "LogitNormalization",
        "MinLengthLogitsProcessor",
        "MinNewTokensLengthLogitsProcessor",
        "MinPLogitsWarper",
        "NoBadWordsLogitsProcessor",
        "NoRepeatNGramLogitsProcessor",
        "PrefixConstrainedLogitsProcessor",
        "RepetitionPenaltyLogitsProcessor",
        "SequenceBiasLogitsProcessor",
        "SuppressTokensAtBeginLogitsProcessor",
        "SuppressTokensLogitsProcessor",
        "TemperatureLogitsWarper",
        "TopHLogitsWarper",
        "TopKLogitsWarper",
        "TopPLogitsWarper",
        "TypicalLogitsWarper",
    )
)
_GUIDANCE = "UnbatchedClassifierFreeGuidanceLogitsProcessor"


class NotSupportedError(Exception):
    """What is asked for has to be generated plainly; the message says why."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Processing:
    """What a list of processors asks for.

    Attributes:
        rule: The distribution, guidance included.
        negative_prompts: Of the unconditional branch, ``[S, K]``; None without guidance, or for the prompts' last tokens.
        negative_is_token: False for their padding; None if there is none.
        others: What depends on the tokens before, in its order.
    """

    rule: SamplingRule
    negative_prompts: Tensor | None
    negative_is_token: Tensor | None
    others: tuple[Any, ...]


def read_processors(
    processors: Sequence[Any], *, is_sampled: bool, pure: tuple[type, ...] = ()
) -> Processing:
    """Read transformers' list.

    Args:
        processors: In their order.
        is_sampled: Whether tokens are drawn; else the likeliest is taken.
        pure: Further classes that are functions of one sequence's tokens and logits.

    Raises:
        NotSupportedError: If one of them is another's, or stands where it cannot be moved.
    """
    rest = list(processors)
    scale, negative, negative_is_token = 1.0, None, None
    if rest and type(rest[0]).__name__ == _GUIDANCE:
        guidance = rest.pop(0)
        scale = float(guidance.guidance_scale)
        if not 1 <= scale < float("inf"):
            raise NotSupportedError(f"guidance_scale {scale:g} is below 1")
        context = guidance.unconditional_context
        if not context["first_pass"]:
            raise NotSupportedError("the processor of guidance has been used before")
        negative, negative_is_token = context["input_ids"], context["attention_mask"]
    for processor in rest:
        name = type(processor).__name__
        is_known = type(processor).__module__.startswith("transformers.") and name in _PURE
        if not is_known and not isinstance(processor, pure):
            raise NotSupportedError(f"{name} may depend on more than a sequence's tokens")
    values: dict[str, Any] = {}
    if is_sampled:
        # What comes last, in the rule's own order.
        for name, attribute, field in (
            ("TopPLogitsWarper", "top_p", "top_p"),
            ("TopKLogitsWarper", "top_k", "top_k"),
            ("TemperatureLogitsWarper", "temperature", "temperature"),
        ):
            if rest and type(rest[-1]).__name__ == name and _is_plain_filter(rest[-1]):
                values[field] = getattr(rest.pop(), attribute)
    else:
        values["temperature"] = 0.0
    return Processing(
        rule=SamplingRule(guidance_scale=scale, **values),
        negative_prompts=negative,
        negative_is_token=negative_is_token,
        others=tuple(rest),
    )


def _is_plain_filter(processor: Any) -> bool:
    return (
        getattr(processor, "filter_value", -float("inf")) == -float("inf")
        and getattr(processor, "min_tokens_to_keep", 1) == 1
    )


def process_tree(
    processors: Sequence[Any],
    prompts: Tensor,
    sequences: Tensor,
    history: Tensor,
    lengths: Tensor,
    shape: TreeShape,
    tokens: Tensor,
    logits: Tensor,
) -> Tensor:
    """Logits ``[S, N, V]`` after each node of a tree, processed in the context of that node.

    Args:
        processors: In their order.
        prompts: Of the whole batch, ``[B, L]``, with their padding, which processors see as ``generate`` shows it.
        sequences: Which of them go on, ``[S]``.
        history: What was drawn, ``[S, T]``, ``lengths`` of each.
        lengths: ``[S]``.
        shape: Of the tree; its root ends the history, or the prompt.
        tokens: Of the tree, ``[S, N]``.
        logits: After each node.
    """
    count = shape.num_nodes
    drawn = torch.nn.functional.pad(history, (0, shape.max_depth))
    drawn = drawn[:, None].expand(-1, count, -1).clone()  # [S, N, T + depth]
    for node in range(1, count):
        path = [node]
        while shape.parents[path[-1] - 1]:
            path.append(shape.parents[path[-1] - 1])
        places = lengths[:, None] + torch.arange(len(path), device=lengths.device)
        drawn[:, node].scatter_(1, places, tokens[:, path[::-1]])
    totals = lengths[:, None] + torch.tensor(shape.depths, device=lengths.device)
    processed = logits.clone()
    for total in totals.unique().tolist():
        rows, nodes = (totals == total).nonzero(as_tuple=True)
        numbers = sequences[rows]
        ids = torch.cat((prompts[numbers], drawn[rows, nodes, :total]), 1)
        scores = logits[rows, nodes]
        for processor in processors:
            scores = _processed(processor, numbers, ids, scores)
        processed[rows, nodes] = scores.to(processed.dtype)
    return processed


def _processed(processor: Any, numbers: Tensor, ids: Tensor, scores: Tensor) -> Tensor:
    """What a processor says about rows of the batch, several or none of a sequence."""
    name = type(processor).__name__
    if name == "PrefixConstrainedLogitsProcessor":
        rows = []
        for number, row, row_scores in zip(numbers.tolist(), ids, scores, strict=True):
            # It counts rows, so each is shown alone, under the number of its prompt.
            one, prompt = copy.copy(processor), number // processor._num_beams
            allowed, one._num_beams = processor._prefix_allowed_tokens_fn, 1
            one._prefix_allowed_tokens_fn = lambda _, sent, p=prompt, f=allowed: f(p, sent)
            rows.append(one(row[None], row_scores[None]))
        return torch.cat(rows)
    ignored = getattr(processor, "prompt_ignore_length", None)
    if isinstance(ignored, Tensor):  # one number for each row of the batch
        processor = copy.copy(processor)
        processor.prompt_ignore_length = ignored.to(numbers.device)[numbers]
    processed: Tensor = processor(ids, scores)
    return processed
