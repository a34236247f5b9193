# SPDX-License-Identifier: Apache-2.0
"""The draft of a base: a copy with every third block, each of which also reads what the base's block took.

Before a kept block the base's feature F and the draft's own stream x are fused, ``W [F; x] + b``. F is the same in all steps
of a run, so that ``W [F; x] + b = (A F + b) + B x``: the first term is computed once. A fresh draft has ``A = 1, B = 0``:
each of its blocks sees what the base's saw, and as the last one is kept, given the base's inputs it returns what the base
returned, bit for bit.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from genaccel.hooks.blocks import find_block_lists
from genaccel.hooks.clock import Clock, Tick, TimestepClock
from genaccel.hooks.features import FeatureTap

INTERVAL = 3  # as published

# The base's share of each fusion in the call of a draft that this context is in; modules of others hand nothing down.
_PROJECTED: ContextVar[Sequence[Tensor]] = ContextVar("genaccel_projected_features")


def kept_blocks(count: int, interval: int = INTERVAL) -> tuple[int, ...]:
    """Indices of the blocks that a draft keeps: the last of every ``interval``, and the last one of all.

    Raises:
        ValueError: If ``interval`` is not within 1 to ``count``.

    Example:
        >>> kept_blocks(12)
        (2, 5, 8, 11)
    """
    if not 1 <= interval <= count:
        raise ValueError(f"interval must be within 1 to {count}, got {interval}")
    # Counted from the end, so that the last block is kept of any number; of published ones all count alike.
    return tuple(reversed(range(count - 1, -1, -interval)))


class FusedBlock(nn.Module):
    """A block of a draft and the fusion before it.

    Args:
        block: Takes its hidden states first, and returns them.
        width: Channels of the hidden states, C.
        place: Index of the block in the draft.
    """

    def __init__(self, block: nn.Module, width: int, place: int) -> None:
        super().__init__()
        self.block = block
        self.place = place
        like = next(block.parameters())
        options: dict[str, Any] = {"device": like.device, "dtype": like.dtype}
        self.base_weight = nn.Parameter(torch.eye(width, **options))
        self.own_weight = nn.Parameter(torch.zeros(width, width, **options))
        self.bias = nn.Parameter(torch.zeros(width, **options))

    def project(self, feature: Tensor) -> Tensor:
        """The base's share of the fusion, ``A F + b``, ``[B, N, C]``."""
        return functional.linear(feature, self.base_weight, self.bias)

    def forward(self, hidden_states: Tensor, *args: Any, **kwargs: Any) -> Any:
        """The block on ``A F + b + B x``."""
        own = functional.linear(hidden_states, self.own_weight)
        fused = _PROJECTED.get()[self.place] + own
        return self.block(fused.to(hidden_states.dtype), *args, **kwargs)


class Draft(nn.Module):
    """A draft of a model.

    Args:
        model: The base, which is copied and stays as it is: of diffusers' DiT or Wan class, or any other with one list of
            blocks that take hidden states first and return them.
        interval: One of so many blocks is kept; 1 keeps all.

    Attributes:
        model: The pruned copy.
        kept: Indices of its blocks in the base.

    Raises:
        ValueError: If the model has not one list of blocks, or not so many.

    Example:
        >>> from diffusers import DiTTransformer2DModel
        >>> base = DiTTransformer2DModel(
        ...     num_attention_heads=1, attention_head_dim=8, num_layers=3, sample_size=4
        ... ).eval()
        >>> draft = Draft(base).eval()
        >>> call = {"timestep": torch.tensor([700]), "class_labels": torch.tensor([1])}
        >>> capture = BaseFeatures(base, draft.kept)
        >>> expected = base(torch.ones(1, 4, 4, 4), **call).sample
        >>> projected = draft.project(capture.features)
        >>> torch.equal(draft(torch.ones(1, 4, 4, 4), projected=projected, **call).sample, expected)
        True
        >>> capture.detach()
    """

    def __init__(self, model: nn.Module, *, interval: int = INTERVAL) -> None:
        super().__init__()
        lists = find_block_lists(model)
        if len(lists) != 1:
            raise ValueError(
                f"a draft needs a model with one list of blocks, and {type(model).__name__} has {len(lists)}"
            )
        (found,) = lists
        self.kept = kept_blocks(len(found.blocks), interval)
        self.model: Any = copy.deepcopy(model)
        blocks: Any = self.model.get_submodule(found.name)
        width = _width(model)
        fused = [FusedBlock(blocks[i], width, place) for place, i in enumerate(self.kept)]
        # DiT embeds the time of its last layer in its first block, which may be pruned.
        first_norm: Any = getattr(blocks[0], "norm1", None)
        if hasattr(first_norm, "emb"):
            fused[0].norm1 = first_norm
        owner, _, name = found.name.rpartition(".")
        setattr(self.model.get_submodule(owner), name, nn.ModuleList(fused))
        self._list_name = found.name

    @property
    def blocks(self) -> Sequence[FusedBlock]:
        """Its blocks."""
        blocks: Any = self.model.get_submodule(self._list_name)
        return tuple(blocks)

    def project(self, features: Sequence[Tensor]) -> list[Tensor]:
        """The base's share of each fusion; computed once a run.

        Args:
            features: What the kept blocks took in the base, ``[B, N, C]`` each.

        Raises:
            ValueError: If there are not as many as kept blocks.
        """
        if len(features) != len(self.kept):
            raise ValueError(f"features must be of {len(self.kept)} blocks, got {len(features)}")
        return [
            block.project(feature) for block, feature in zip(self.blocks, features, strict=True)
        ]

    def forward(self, *args: Any, projected: Sequence[Tensor], **kwargs: Any) -> Any:
        """What the model returns for its arguments, given the base's share of each fusion."""
        token = _PROJECTED.set(projected)
        try:
            return self.model(*args, **kwargs)
        finally:
            _PROJECTED.reset(token)


class BaseFeatures:
    """Captures what some blocks of a model take in its calls, until :meth:`detach`; of the last call.

    Args:
        model: The base.
        blocks: Indices of the blocks.
        clock: Tells which calls count; by default all of them do.

    Attributes:
        features: ``[B, N, C]`` for each block, in their order.

    Raises:
        ValueError: If the model has not such blocks.
    """

    def __init__(
        self, model: nn.Module, blocks: Sequence[int], *, clock: Clock | None = None
    ) -> None:
        self.features: list[Tensor] = []
        self._blocks = tuple(blocks)
        self._tap = FeatureTap(
            model, clock or TimestepClock(model, 1), self._blocks, self._observe, inputs=True
        )

    def _observe(self, tick: Tick, taken: Mapping[int, Any]) -> None:
        self.features = [taken[i].detach() for i in self._blocks]

    def detach(self) -> None:
        """Leave the model as it was."""
        self._tap.detach()


def _width(model: Any) -> int:
    """Channels of a model's hidden states."""
    if isinstance(getattr(model, "hidden_size", None), int):
        return int(model.hidden_size)
    return int(model.config.num_attention_heads * model.config.attention_head_dim)
