# SPDX-License-Identifier: Apache-2.0
"""From a config and a model to a drafter and options of decoding."""

from __future__ import annotations

import copy
import operator
import os
from collections.abc import Callable
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from genaccel.skip_decoding.config import SkipDecodingConfig
from genaccel.skip_decoding.decoding import Decoded, decode
from genaccel.skip_decoding.drafts.drafters import JacobiDrafter, ModelDrafter
from genaccel.skip_decoding.drafts.drafting import Drafter
from genaccel.skip_decoding.drafts.feature_drafter import FeatureDrafter, FeatureDrafterNetwork
from genaccel.skip_decoding.generation.steering import Steering
from genaccel.skip_decoding.options import DecodingOptions, SkipRule
from genaccel.skip_decoding.sampling import SamplingRule
from genaccel.skip_decoding.tuning.auto import MAX_DEPTH, MAX_NODES, AutoDrafting
from genaccel.skip_decoding.tuning.budget import tune
from genaccel.skip_decoding.verifying.acceptance import Relaxation, nearest_code_words

# Guesses of a round where nothing is measured; where paths are compared, there must be several.
_LENGTH = 4
_WIDTHS = (2, 2, 1)
_DRAFTER_FOLDER = "drafter"
_LARGEST_SEED = 2**63 - 1


@dataclass(frozen=True, kw_only=True, slots=True)
class PreparedDecoding:
    """What a config means for one model.

    Attributes:
        config: The config.
        model: The model as it was prepared for.
        place: That model's dtype and device then.
        prototype: The drafter, of which each decoding takes a copy; None to draw one by one.
        options: Without the seed and the ends of a call.
    """

    config: SkipDecodingConfig
    model: Any
    place: tuple[torch.dtype, torch.device]
    prototype: Drafter | None
    options: DecodingOptions

    def is_for(self, model: Any) -> bool:
        """Whether it still holds: for this very model, in the same dtype and on the same device."""
        return model is self.model and (model.dtype, model.device) == self.place

    @property
    def is_automatic(self) -> bool:
        """Whether the tree is chosen by what it costs; that of a ``Drafter`` which the user made is the user's."""
        return self.config.tree == "auto" and self.prototype not in (None, self.config.drafter)

    @property
    def most_rows(self) -> int | None:
        """Of one forward at most: a tree, and behind a skipped round a path before it. None if the user's drafter decides."""
        tree = self.config.tree
        if self.prototype is None:
            return 1
        if self.prototype is self.config.drafter:
            return None
        if tree == "auto":
            return 1 + MAX_NODES + MAX_DEPTH
        widths = (1,) * tree if isinstance(tree, int) else tree
        return 1 + sum(accumulate(widths, operator.mul)) + len(widths)

    def drafter(self, *, row_length: int = 0) -> Drafter | None:
        """A drafter for one decoding, so that two at a time do not share their memory.

        Args:
            row_length: Tokens of a row of the picture, if the config names none.
        """
        drafter = copy.copy(self.prototype)
        if isinstance(drafter, JacobiDrafter) and not drafter.row_length:
            chosen = self.config.row_length
            drafter.row_length = row_length if chosen is None else chosen
        return drafter

    def seed(self) -> int:
        """The config's, or one from torch's global generator."""
        if self.config.seed is not None:
            return self.config.seed
        return int(torch.randint(_LARGEST_SEED, (1,)))

    def decode(
        self,
        model: Any,
        prompts: Tensor,
        is_token: Tensor | None = None,
        *,
        rule: SamplingRule,
        options: DecodingOptions,
        max_new_tokens: int,
        row_length: int,
        measured: nn.Module | None,
        negative_prompts: Tensor | None = None,
        negative_is_token: Tensor | None = None,
        on_tokens: Callable[[int, int], object] | None = None,
        steering: Steering | None = None,
        cache: Any = None,
    ) -> Decoded:
        """Draw tokens as the config says: within its budget, with the tree that pays.

        Args:
            model: As for :func:`~genaccel.skip_decoding.decoding.decode`, as are the others not named here.
            prompts: ``[S, L]``.
            is_token: False for padding.
            rule: The distribution.
            options: Those of the call.
            max_new_tokens: At most.
            row_length: Tokens of a row of the picture, if the config names none.
            measured: The network by itself, on which costs and budgets are measured with prompts of tokens alone. Without it
                ``tree="auto"`` is a chain of four, or for ``skip="dynamic"`` a tree of widths 2, 2, 1.
            negative_prompts: Of the unconditional branch.
            negative_is_token: False for their padding.
            on_tokens: Called after each round.
            steering: What else has a say.
            cache: An empty cache of transformers; by default a new ``DynamicCache``.

        Raises:
            ValueError: If there is a budget and nothing can be measured, or tokens can be drawn that have no code word.
        """
        if self.config.codebook is not None and measured is not None and steering is None:
            vocabulary: Any = measured.config
            last = vocabulary.vocab_size if rule.allowed is None else rule.allowed[1]
            if self.config.needs_codebook and len(self.config.codebook) < last:
                raise ValueError(
                    f"codebook has {len(self.config.codebook)} code words, and {last} tokens can be drawn: it needs one for each"
                )
        drafter = self.drafter(row_length=row_length)
        if drafter is not None and self.config.max_nll_gap is not None and len(prompts):
            if measured is None:
                raise ValueError(
                    "max_nll_gap cannot be measured for a model whose prompts are more than tokens: "
                    "give relaxed_delta and skip_interval"
                )
            found = tune(
                measured,
                drafter,
                prompts,
                is_token,
                rule=rule,
                options=options,
                max_new_tokens=max_new_tokens,
                max_nll_gap=self.config.max_nll_gap,
                negative_prompts=negative_prompts,
                negative_is_token=negative_is_token,
            ).options
            options = found.for_call(
                seed=options.seed, end_tokens=options.end_tokens, pad_token=options.pad_token
            )
            drafter = self.drafter(row_length=row_length)
        automatic = None
        if self.is_automatic and measured is not None:
            automatic = AutoDrafting(
                measured,
                drafter,
                sequences=len(prompts),
                rule=rule,
                options=options,
                max_new_tokens=max_new_tokens,
            )
            drafter = automatic.drafter
        decoded = decode(
            model,
            prompts,
            is_token,
            rule=rule,
            max_new_tokens=max_new_tokens,
            drafter=drafter,
            options=options,
            negative_prompts=negative_prompts,
            negative_is_token=negative_is_token,
            on_tokens=on_tokens,
            steering=steering,
            cache=cache,
        )
        if automatic is not None:
            automatic.finish(decoded.report)
        return decoded


def prepare(
    config: SkipDecodingConfig,
    model: Any,
    *,
    codebook: Tensor | None = None,
    folder: str | os.PathLike[str] | None = None,
) -> PreparedDecoding:
    """Make what a config means for a model; what is on disk is read here, once.

    Args:
        config: The config.
        model: A language model of transformers.
        codebook: Code words ``[K, C]`` of its tokens 0 to K - 1, if the config has none.
        folder: That the model is from, in which ``drafter="auto"`` looks for its drafter; by default its own.

    Raises:
        ValueError: If the drafter is another model's, or something is missing that the config asks for.
        TypeError: If the drafter is nothing of the kind.
    """
    drafter = _drafter(config, model, folder)
    if config.skip != "none" and config.drafter == "auto" and isinstance(drafter, JacobiDrafter):
        raise ValueError(
            "skip commits guesses unseen, and those of Jacobi decoding are copies of other tokens: give a drafter that "
            "was trained for this model"
        )
    codes = config.codebook if config.codebook is not None else codebook
    if config.needs_codebook:
        asked = 'acceptance="lantern"' if config.acceptance == "lantern" else 'skip="dynamic"'
        if codes is None:
            raise ValueError(f"{asked} needs the code words of the tokens: pass codebook=")
        tokens = getattr(model.config, "vocab_size", len(codes))
        if config.codebook is not None and len(codes) > tokens:
            raise ValueError(f"codebook has {len(codes)} code words, and the model {tokens} tokens")
    more: dict[str, Any] = {}
    if config.is_stochastic:
        more["guessing"] = "drawn"
    if config.acceptance == "ensemble":
        more["ensemble_weight"] = config.assistant_ensemble_weight
    skips: dict[str, Any] = {
        name: getattr(config, name)
        for name in ("max_unverified", "rollback_below")
        if getattr(config, name) is not None
    }
    relaxation = skip = None
    if config.acceptance == "lantern":
        assert codes is not None
        # One code word more than lend, as the authors strike it out too.
        count = min(config.relaxed_topk, len(codes) - 2)
        relaxation = Relaxation(
            neighbours=nearest_code_words(codes, count + 1).to(model.device),
            count=count,
            delta=config.relaxed_delta,
        )
    if config.skip == "uniform":
        skip = SkipRule(interval=config.skip_interval, **skips)
    elif config.skip == "dynamic":
        assert codes is not None
        unit = nn.functional.normalize(codes.detach().float(), dim=1).to(model.device)
        skip = SkipRule(interval=None, threshold=config.skip_similarity, unit_codes=unit, **skips)
    return PreparedDecoding(
        config=config,
        model=model,
        place=(model.dtype, model.device),
        prototype=drafter,
        options=DecodingOptions(relaxation=relaxation, skip=skip, **more),
    )


def _drafter(
    config: SkipDecodingConfig, model: Any, folder: str | os.PathLike[str] | None
) -> Drafter | None:
    chosen = config.drafter
    if chosen is None:
        return None
    if isinstance(chosen, str) and chosen == "auto":
        own = _own_drafter(model, folder)
        if own is None:
            return JacobiDrafter(_chain_length(config), row_length=config.row_length or 0)
        chosen = own
    if isinstance(chosen, str | os.PathLike):
        chosen = FeatureDrafterNetwork.from_pretrained(chosen)
    if isinstance(chosen, FeatureDrafterNetwork):
        if not hasattr(model.config, "vocab_size"):
            raise ValueError(
                f"{type(model).__name__} is made of several models, which a feature drafter does not go on from"
            )
        network = chosen
        if next(network.parameters()).dtype != model.dtype or network.fc.weight.device != (
            model.device
        ):
            network = copy.deepcopy(chosen).to(device=model.device, dtype=model.dtype)
        return FeatureDrafter(network, model, widths=_widths(config))
    if isinstance(chosen, nn.Module) and hasattr(chosen, "generate"):
        size, own_size = _vocabulary(chosen), _vocabulary(model)
        if size != own_size:
            raise ValueError(
                f"the drafter has {size} tokens and the model {own_size}: they are of other tokenisers"
            )
        return ModelDrafter(chosen, widths=_widths(config))
    if all(hasattr(chosen, name) for name in ("begin", "guess", "learn", "select")):
        drafter: Drafter = chosen
        return drafter
    raise TypeError(
        'drafter must be "auto", a folder, a FeatureDrafterNetwork, a language model of transformers, a Drafter or None, '
        f"got {type(chosen).__name__}"
    )


def _widths(config: SkipDecodingConfig) -> tuple[int, ...]:
    if config.tree == "auto":
        return _WIDTHS if config.skip == "dynamic" else (1,) * _LENGTH
    return (1,) * config.tree if isinstance(config.tree, int) else config.tree


def _chain_length(config: SkipDecodingConfig) -> int:
    widths = (1,) * _LENGTH if config.tree == "auto" else _widths(config)
    if max(widths) > 1:
        raise ValueError(
            f"Jacobi decoding guesses chains, and tree={config.tree} is none: give a length, or a drafter"
        )
    return len(widths)


def _own_drafter(model: Any, folder: str | os.PathLike[str] | None) -> Path | None:
    """The drafter in a model's folder, or in that of the pipeline which the model is a part of."""
    names = [folder, getattr(model.config, "_name_or_path", None)]
    for name in names:
        if name:
            for place in (Path(name), Path(name).parent):
                if (place / _DRAFTER_FOLDER / "config.json").is_file():
                    return place / _DRAFTER_FOLDER
    return None


def _vocabulary(model: Any) -> int:
    return int(model.config.get_text_config(decoder=True).vocab_size)
