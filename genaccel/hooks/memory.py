# SPDX-License-Identifier: Apache-2.0
"""Outputs of a run's computed steps, kept for the forecasts of later ones."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor
from torch.utils._pytree import TreeSpec, tree_flatten, tree_unflatten

from genaccel.hooks.forecast_batch import ForecastRequest, make_forecasts


@dataclass(slots=True)
class Memory:
    """Tensors that one segment added to its inputs at its last computed steps, in one stream of calls.

    Attributes:
        steps: Those steps, the newest first.
        added: The tensors of each of these steps.
        submodule_steps: Computed steps whose outputs of attention and feed-forwards are kept, the
            newest first.
    """

    steps: list[int] = field(default_factory=list)
    added: list[tuple[Tensor, ...]] = field(default_factory=list)
    submodule_steps: list[int] = field(default_factory=list)

    @property
    def bytes_held(self) -> int:
        """Bytes of the tensors."""
        return sum(t.numel() * t.element_size() for tensors in self.added for t in tensors)

    def keep(self, step: int, tensors: tuple[Tensor, ...], *, history: int) -> None:
        """Keep the tensors of a step, and no more than ``history`` of them in all."""
        self.steps.insert(0, step)
        self.added.insert(0, tensors)
        self.shorten(history)

    def shorten(self, history: int) -> None:
        """Keep ``history`` steps at most."""
        del self.steps[history:]
        del self.added[history:]


@dataclass(slots=True)
class OutputMemory:
    """Outputs of the model at its last computed steps, in one stream of calls.

    Attributes:
        steps: Those steps, the newest first.
        leaves: The flattened output of each; tensors are copies, as pipelines may change theirs.
        spec: How to build the output from its leaves.
    """

    steps: list[int] = field(default_factory=list)
    leaves: list[list[Any]] = field(default_factory=list)
    spec: TreeSpec | None = None

    @property
    def bytes_held(self) -> int:
        """Bytes of the tensors."""
        kept = (t for leaves in self.leaves for t in leaves if isinstance(t, Tensor))
        return sum(t.numel() * t.element_size() for t in kept)

    def keep(self, step: int, output: Any, *, history: int) -> None:
        """Keep the output of a step, and no more than ``history`` of them in all."""
        leaves, spec = tree_flatten(output)
        if self.spec is not None and spec != self.spec:
            self.steps.clear()
            self.leaves.clear()
        self.spec = spec
        self.steps.insert(0, step)
        self.leaves.insert(
            0, [leaf.detach().clone() if isinstance(leaf, Tensor) else leaf for leaf in leaves]
        )
        self.shorten(history)

    def shorten(self, history: int) -> None:
        """Keep ``history`` steps at most."""
        del self.steps[history:]
        del self.leaves[history:]

    def combine(self, weights: Sequence[float]) -> Any:
        """The weighted sum of the kept outputs, the newest first, built as the model returns it."""
        assert self.spec is not None
        newest = self.leaves[0]
        places = [
            i
            for i, leaf in enumerate(newest)
            if isinstance(leaf, Tensor) and leaf.is_floating_point()
        ]
        made = make_forecasts(
            [
                ForecastRequest([leaves[i] for leaves in self.leaves[: len(weights)]], weights)
                for i in places
            ]
        )
        result = list(newest)
        for i, tensor in zip(places, made, strict=True):
            if tensor.shape != newest[i].shape:
                raise ValueError(
                    f"a forecast is {list(tensor.shape)} and the output {list(newest[i].shape)}"
                )
            # Plain reuse gives the very tensor that is kept.
            result[i] = tensor.clone() if tensor is newest[i] else tensor
        return tree_unflatten(result, self.spec)


@dataclass(slots=True)
class Stream:
    """Calls of a run that follow one another over the steps, one in each.

    Attributes:
        kind: Kind of the calls; those of another kind can't be forecast from these.
        memories: One for each segment.
        outputs: Outputs of the model as a whole.
    """

    kind: Hashable
    memories: list[Memory]
    outputs: OutputMemory = field(default_factory=OutputMemory)

    @property
    def bytes_held(self) -> int:
        """Bytes of all tensors, except those of submodules."""
        return sum(memory.bytes_held for memory in self.memories) + self.outputs.bytes_held

    @property
    def depth(self) -> int:
        """Number of steps that are kept of a segment or of the output, at most."""
        kept = [memory.steps for memory in self.memories]
        return max(len(steps) for steps in (*kept, self.outputs.steps))

    def shorten(self, history: int) -> None:
        """Keep ``history`` steps at most."""
        for memory in self.memories:
            memory.shorten(history)
        self.outputs.shorten(history)
