# SPDX-License-Identifier: Apache-2.0
"""A drafter of one layer that goes on from the target's own features (EAGLE, arXiv:2401.15077).

From the feature of a token and the token drawn after it, the layer foretells the next feature, and the target's own head
makes logits of it. Its prediction is the feature of the next guess, and so on.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from genaccel.models.saved_network import SavedNetwork
from genaccel.skip_decoding.drafts.draft_tree import TreeShape
from genaccel.skip_decoding.drafts.drafting import Draft, GuessedLevels, Noise, Round
from genaccel.skip_decoding.drafts.feature_ring import FeatureRing
from genaccel.skip_decoding.memory.cached_rows import CachedRows
from genaccel.skip_decoding.report import ModelTime


@dataclass(frozen=True, kw_only=True, slots=True)
class FeatureDrafterParams:
    """Size of the layer.

    Attributes:
        hidden_size: Channels of the target's features and embeddings.
        intermediate_size: Hidden channels of the feed-forward layer.
        num_heads: Attention heads.
        max_positions: Longest sequence.
        rope_theta: Base of the rotary positions.
        vocabulary: Tokens of the target, by which another target's drafter is recognised.
    """

    hidden_size: int
    intermediate_size: int
    num_heads: int
    max_positions: int
    rope_theta: float = 10_000.0
    vocabulary: int

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            kinds = (int, float) if name == "rope_theta" else (int,)
            if isinstance(value, bool) or not isinstance(value, kinds) or not 1 <= value <= 1 << 24:
                raise ValueError(f"{name} must be a number from 1 to 2^24, got {value!r}")
        if self.hidden_size % (2 * self.num_heads):
            raise ValueError(
                f"hidden_size must be a multiple of twice num_heads, got {self.hidden_size} and {self.num_heads}"
            )

    @classmethod
    def for_target(cls, config: Any) -> FeatureDrafterParams:
        """Those of a layer like the target's, from its configuration of transformers."""
        return cls(
            hidden_size=config.hidden_size,
            intermediate_size=config.intermediate_size,
            num_heads=config.num_attention_heads,
            max_positions=config.max_position_embeddings,
            vocabulary=config.vocab_size,
        )

    def to_dict(self) -> dict[str, Any]:
        """For ``config.json``."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> FeatureDrafterParams:
        """From ``config.json``.

        Raises:
            ValueError: If an entry is missing, unknown or out of range.
        """
        try:
            return cls(**values)
        except TypeError as error:
            raise ValueError(
                f"a feature drafter's configuration is not complete: {error}"
            ) from error


class FeatureDrafterNetwork(SavedNetwork):
    """The layer; it borrows the target's embedding and head, which are no part of it.

    Args:
        params: Its size.
    """

    model_type = "feature-drafter"
    params_class = FeatureDrafterParams
    stored_dtype = torch.float16

    def __init__(self, params: FeatureDrafterParams) -> None:
        from transformers import LlamaConfig, LlamaModel

        super().__init__()
        self.params = params
        config: Any = LlamaConfig(
            vocab_size=1,
            hidden_size=params.hidden_size,
            intermediate_size=params.intermediate_size,
            num_hidden_layers=1,
            num_attention_heads=params.num_heads,
            num_key_value_heads=params.num_heads,
            max_position_embeddings=params.max_positions,
            bos_token_id=None,
            eos_token_id=None,
            pad_token_id=None,
        )
        self.fc = nn.Linear(2 * params.hidden_size, params.hidden_size)
        self.layer: Any = LlamaModel(config)
        del self.layer.embed_tokens  # embeddings come from the target
        parameters = inspect.signature(LlamaModel.forward).parameters
        self._cache_name = "cache" if "cache" in parameters else "past_key_values"

    def forward(self, features: Tensor, embeddings: Tensor, **inputs: Any) -> Tensor:
        """Next features ``[B, T, C]``.

        Args:
            features: Of tokens, ``[B, T, C]``.
            embeddings: Of the tokens after them, ``[B, T, C]``.
            inputs: Of the layer: attention mask, positions, cache.
        """
        cache = inputs.pop("cache", None)
        if cache is not None:
            inputs[self._cache_name] = cache
        joined = self.fc(torch.cat((embeddings, features), -1))
        output: Tensor = self.layer(inputs_embeds=joined, **inputs).last_hidden_state
        return output


class _WithHead:
    """The layer with a target's embedding and head, called as a language model is."""

    def __init__(self, network: FeatureDrafterNetwork, target: Any) -> None:
        self._network, self.config = network, network.layer.config
        self._embed, self._head = target.get_input_embeddings(), target.get_output_embeddings()
        self.dtype = target.dtype

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        position_ids: Tensor,
        use_cache: bool,
        logits_to_keep: int,
        output_hidden_states: bool,
        cache: Any,
        features: Tensor,
    ) -> Any:
        predicted = self._network(
            features,
            self._embed(input_ids),
            attention_mask=attention_mask,
            position_ids=position_ids,
            use_cache=use_cache,
            cache=cache,
        )
        return SimpleNamespace(
            logits=self._head(predicted[:, -logits_to_keep:]), hidden_states=(predicted,)
        )

    __call__ = forward


class FeatureDrafter:
    """Guesses with a :class:`FeatureDrafterNetwork`.

    Args:
        network: Trained for the target, in its dtype.
        target: The model whose features it goes on from.
        widths: Children of a node at each depth, as for ``ModelDrafter``.
        staleness: Which features it goes on from after a verified round, and after an unverified one: -1 for those of the
            tokens themselves, 0 for the last ones before the round, n for those n tokens older. No others are there after
            an unverified round than old ones.

    Raises:
        ValueError: If it was trained for a model of another size, there is nothing to guess, or features cannot be as fresh.
    """

    needs_features = True
    guesses_trees = True

    def __init__(
        self,
        network: FeatureDrafterNetwork,
        target: Any,
        *,
        widths: tuple[int, ...] | TreeShape = (1, 1, 1, 1),
        staleness: tuple[int, int] = (-1, 0),
    ) -> None:
        if staleness[0] < -1 or staleness[1] < 0:
            raise ValueError(
                f"staleness must be at least -1 after a verified round and 0 after another, got {staleness}"
            )
        size, expected = (
            (config.hidden_size, vocabulary)
            for config, vocabulary in (
                (network.params, network.params.vocabulary),
                (target.config, target.config.vocab_size),
            )
        )
        if size != expected:
            raise ValueError(
                f"the drafter was trained for {size[0]} channels and {size[1]} tokens, "
                f"and this model has {expected[0]} and {expected[1]}"
            )
        self.network, self._target = network, target
        self._model, self._shape = _WithHead(network, target), TreeShape.for_drafter(widths)
        self._staleness = staleness
        self.model_time = ModelTime()

    def with_widths(self, widths: tuple[int, ...]) -> FeatureDrafter:
        """One of the same network with other widths."""
        return FeatureDrafter(self.network, self._target, widths=widths, staleness=self._staleness)

    def begin(
        self, prompts: Tensor, is_token: Tensor, noise: Noise, features: Tensor | None
    ) -> None:
        """Read the prompts, each token with the feature before it."""
        assert features is not None
        self._noise, self._branches = noise, 2 if noise.rule.is_guided else 1
        self._rows = CachedRows(self._model, with_features=True)
        self.model_time = self._rows.time
        self._has_prompt = prompts.shape[1] > 1
        if self._has_prompt:
            self._rows.prefill(prompts[:, 1:], is_token[:, :-1], features=features[:, :-1])
        else:
            self._rows.begin_empty(len(prompts), prompts.device)
        # Features before tokens that are not yet read here, as many as ``counts`` says.
        self._fresh = features[:, -1:]
        self._counts = torch.ones(
            len(prompts) // self._branches, dtype=torch.long, device=prompts.device
        )
        # No unverified round is longer than the tree is deep; a verified one has its root too.
        depth, (verified, unverified) = self._shape.max_depth, self._staleness
        length = max(depth + 1 + verified, depth + unverified)
        self._ring = FeatureRing(features, is_token.sum(1), length)

    def guess(self, history: Tensor, lengths: Tensor, depth: int) -> Draft:
        """A tree, level by level; see :class:`genaccel.skip_decoding.decoding.Drafter`."""
        shape = self._shape.cut(depth)
        branches = self._branches
        root = history.gather(1, lengths[:, None] - 1)
        # Each fresh feature with the token drawn after it; the last of these is the root.
        width = self._fresh.shape[1]
        steps = torch.arange(width, device=history.device)
        columns = (lengths - self._counts)[:, None] + steps
        following = history.gather(1, columns.clamp(max=history.shape[1] - 1))
        # What is behind a sequence's own is padding, perhaps no token at all.
        following = torch.where(steps < self._counts[:, None], following, root)
        output = self._rows.read(
            following.repeat(branches, 1), TreeShape.chain(width - 1), features=self._fresh
        )
        counts = self._counts.repeat(branches)
        self._rows.keep(steps.expand(len(counts), -1), counts)
        every = torch.arange(len(counts), device=history.device)
        logits = output.logits[every, counts - 1][:, None]  # [B, 1, V]
        assert output.features is not None
        feature = output.features[every, counts - 1][:, None]  # [B, 1, C]
        draft = GuessedLevels(root[:, 0])
        for level in shape.expansions:
            combined = self._noise.rule.combine(logits)
            positions = lengths[:, None] + shape.depths[level.begin]
            positions = positions.expand(-1, level.end - level.begin)
            guesses = draft.add(self._noise.guesses(combined, positions, level.width), level)
            if level is shape.expansions[-1]:
                break
            if not (level.takes_all and level.width == 1):
                feature = feature[:, [pick // level.width for pick in level.picks]]
            output = self._rows.read(
                guesses.repeat(branches, 1),
                TreeShape(shape.parents[: level.end + len(level.picks) - 1]),
                after=level.end,
                root_is_kept=True,
                features=feature,
            )
            assert output.features is not None
            logits, feature = output.logits, output.features
        self._rows.forget()
        return draft.draft(shape)

    def learn(self, round_: Round) -> None:
        """Take the target's features of what was drawn; after a round without verification, the last ones it gave."""
        branches = self._branches
        verified, unverified = self._staleness
        self._counts = round_.counts
        if round_.features is None:
            counts = self._counts.repeat(branches)
            self._fresh = self._ring.last(counts, round_.path.shape[1], older=unverified)
            return
        assert round_.rows is not None
        assert round_.num_rows is not None
        index = round_.rows.repeat(branches, 1)[..., None]
        features = round_.features.gather(1, index.expand(-1, -1, round_.features.shape[2]))
        counts = round_.num_rows.repeat(branches)
        if verified < 0:
            # What was read with old features is read again with those of the tokens themselves.
            if round_.num_pending:
                self._rows.take_back(torch.full_like(counts, round_.num_pending))
            self._fresh, self._counts = features, round_.num_rows
        else:
            if round_.taken_back is not None:
                self._rows.take_back(round_.taken_back.repeat(branches))
            width = round_.path.shape[1]
            self._fresh = self._ring.last(round_.counts.repeat(branches), width, older=verified)
        self._ring.append(features, counts)

    def select(self, sequences: Tensor, rows: Tensor) -> None:
        """Go on with some sequences."""
        self._noise = self._noise.select(sequences)
        self._rows.select(rows)
        self._ring.select(rows)
        self._fresh, self._counts = self._fresh[rows], self._counts[sequences]
