# SPDX-License-Identifier: Apache-2.0
"""Memory of what the submodules of blocks returned at computed steps: it makes their forecasts and chooses tokens.

Submodules are the attention modules and the feed-forward of a transformer block.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from genaccel.hooks.forecast_batch import ForecastRequest, make_forecasts
from genaccel.hooks.submodules import (
    MEASURE,
    OFF,
    PARTIAL,
    STORE,
    Layer,
    Leaves,
    PartialStep,
    SubmoduleFrame,
)
from genaccel.hooks.unused_norms import WITH_TOKENS, WITHOUT_TOKENS
from genaccel.ops.tokens import select_tokens, token_scores

TokenScore = Literal["mean", "drift", "random"]

# Layer, input and output of its feed-forward, each [B, N, C].
FeedForwardObserver = Callable[[int, Tensor, Tensor], None]


@dataclass(slots=True)
class _Kept:
    """Outputs of one layer, in one stream of calls, the newest first."""

    steps: list[int] = field(default_factory=list)
    outputs: list[dict[int, Leaves]] = field(default_factory=list)  # by place
    reference: Tensor | None = None  # input of the feed-forward at the last computed step


class SubmoduleMemory:
    """Outputs of submodules at the computed steps of a run, and the forecasts that are made of them.

    Args:
        layers: The layers that were learned from one call.
        score: How tokens are ranked: by the "mean" of their features, by its "drift" since the last
            computed step, or at "random", the baseline.
    """

    def __init__(self, layers: Sequence[Layer], *, score: TokenScore = "mean") -> None:
        self.layers = list(layers)
        self.score = score
        count = len(self.layers)
        self._groups = 1
        self._chosen: list[Tensor | None] = [None] * count
        self._random: list[Tensor | None] = [None] * count
        self._references: list[Tensor | None] = [None] * count
        self._streams: dict[Hashable, list[_Kept]] = {}
        self._stream: Hashable = None
        self._step = 0

    @property
    def bytes_held(self) -> int:
        """Bytes of what is kept between calls."""
        tensors = {
            id(t): t
            for stream in self._streams.values()
            for kept in stream
            for t in (*(t for o in kept.outputs for p in o.values() for t in p), kept.reference)
            if isinstance(t, Tensor)
        }
        return sum(t.numel() * t.element_size() for t in tensors.values())

    @property
    def depth(self) -> int:
        """Number of computed steps whose outputs are kept of a submodule, at most."""
        return max((len(k.steps) for s in self._streams.values() for k in s), default=0)

    def layers_of(self, segment: int) -> list[int]:
        """Indices of the layers in a segment."""
        return [i for i, layer in enumerate(self.layers) if layer.segment == segment]

    def steps_kept(self, segment: int, stream: Hashable) -> list[int]:
        """Steps whose outputs a segment could be forecast from, the newest first."""
        layers = [i for i in self.layers_of(segment) if self.layers[i].is_usable]
        if stream not in self._streams or not layers:
            return []
        return self._streams[stream][layers[0]].steps

    def forget(self, stream: Hashable) -> None:
        """Forget the outputs of one stream of calls."""
        self._streams.pop(stream, None)

    def drop_oldest(self) -> None:
        """Drop the oldest output of each submodule, of those that keep the most."""
        keep = self.depth - 1
        for stream in self._streams.values():
            for kept in stream:
                del kept.steps[keep:]
                del kept.outputs[keep:]

    def begin_call(
        self,
        call: SubmoduleFrame,
        stream: Hashable,
        step: int,
        states: Tensor | None,
        *,
        partial: Mapping[int, PartialStep],
        stores: Sequence[int] = (),
        measures: bool = False,
    ) -> None:
        """Make the forecasts of a call, and tell the hooks what each layer does in it.

        Args:
            call: The frame that the hooks read.
            stream: Key of the calls that follow one another over the steps, one in each.
            step: Index of the sampler's step; it seeds random scores.
            states: Input of the model: equal halves of its batch are the two sides of
                classifier-free guidance, which share their tokens.
            partial: Segments that run partially; outputs must be kept for each.
            stores: Segments whose outputs are to be kept.
            measures: Whether feed-forwards are observed.
        """
        if stream not in self._streams:
            self._streams[stream] = [_Kept() for _ in self.layers]
            if states is not None and len(states) % 2 == 0:
                first, second = states.chunk(2)
                self._groups = 2 if torch.equal(first, second) else 1
        if step != self._step or stream == 0:
            # Calls that follow in the same step share its tokens.
            self._chosen[:] = [None] * len(self._chosen)
        self._stream, self._step = stream, step
        self._random[:] = [None] * len(self._random)
        self._references[:] = [None] * len(self._references)
        call.modes[:] = [MEASURE if measures else OFF] * len(call.modes)
        for segment in stores:
            for i in self.layers_of(segment):
                call.modes[i] = STORE if self.layers[i].is_usable else OFF
        requests: list[ForecastRequest] = []
        places: list[tuple[int, int, int]] = []
        for segment, wanted in partial.items():
            for i, count in zip(self.layers_of(segment), wanted.token_counts, strict=True):
                if not self.layers[i].is_usable:
                    continue
                call.modes[i] = PARTIAL
                call.token_counts[i] = count
                call.norms[i] = WITH_TOKENS if count else WITHOUT_TOKENS
                self._add_requests(call, i, wanted.weights, requests, places)
        for (i, place, leaf), tensor in zip(places, make_forecasts(requests), strict=True):
            leaves = list(call.forecasts[i][place])
            leaves[leaf] = tensor
            call.forecasts[i][place] = tuple(leaves)

    def _add_requests(
        self,
        call: SubmoduleFrame,
        layer: int,
        weights: tuple[float, ...],
        requests: list[ForecastRequest],
        places: list[tuple[int, int, int]],
    ) -> None:
        kept = self._streams[self._stream][layer]
        for place, newest in kept.outputs[0].items():
            call.forecasts[layer][place] = newest
            for leaf, tensor in enumerate(newest):
                if isinstance(tensor, Tensor):
                    history = [o[place][leaf] for o in kept.outputs[: len(weights)]]
                    requests.append(ForecastRequest(history, weights))
                    places.append((layer, place, leaf))
        self._references[layer] = kept.reference
        if self.score == "random" and call.token_counts[layer]:
            output = kept.outputs[0][0][0]
            generator = torch.Generator().manual_seed(self._step * 1009 + layer)
            scores = torch.rand(output.shape[:2], generator=generator)
            self._random[layer] = scores.to(output.device)

    def end_call(
        self,
        call: SubmoduleFrame,
        *,
        history: int,
        updates: Sequence[int] = (),
        copies: bool = False,
    ) -> None:
        """Keep what the submodules returned in a call.

        Args:
            call: The frame that the hooks wrote to.
            history: Number of outputs to keep of each submodule.
            updates: Segments whose computed tokens replace what is kept of them.
            copies: Whether outputs live in memory that the next call uses again.
        """
        stream = self._streams.get(self._stream)
        if stream is None:
            return
        for i, (layer, kept) in enumerate(zip(self.layers, stream, strict=True)):
            made = call.made[i]
            if call.modes[i] == STORE and made:
                outputs = {place: _detached(leaves, copies) for place, leaves in made.items()}
                kept.steps.insert(0, self._step)
                kept.outputs.insert(0, outputs)
                del kept.steps[history:]
                del kept.outputs[history:]
                if self.score == "drift" and call.inputs[i] is not None:
                    kept.reference = _detached((call.inputs[i],), copies)[0]
            elif call.modes[i] == PARTIAL and layer.segment in updates and made:
                kept.outputs[0][0] = _detached(made[0], copies)

    def keep_watched(
        self, call: SubmoduleFrame, stream: Hashable, step: int, states: Tensor | None
    ) -> None:
        """Keep what the submodules returned in a call that was learned from; arguments as for :meth:`begin_call`."""
        self.begin_call(call, stream, step, states, partial={})
        call.modes[:] = [STORE if layer.is_usable else OFF for layer in self.layers]
        self.end_call(call, history=1)

    def observed(self, call: SubmoduleFrame, observer: FeedForwardObserver) -> None:
        """Hand what the feed-forwards of a measured call took and returned, ``[B, N, C]`` each, to an observer."""
        for i, (made, states) in enumerate(zip(call.made, call.inputs, strict=True)):
            if self.layers[i].num_tokens and states is not None and 0 in made:
                observer(i, states, made[0][0])

    def choose(self, layer: int, states: Tensor, count: int) -> Tensor:
        """Indices of the ``k = count`` tokens of ``states`` ``[B, N, C]`` to compute anew, ``[B, k]``, ascending (S8)."""
        count = min(count, states.shape[1])  # a plan of larger inputs may ask for more
        shared = self._chosen[layer]
        if shared is not None and shared.shape == (len(states), count):
            return shared
        groups = self._groups if len(states) % self._groups == 0 else 1
        index = select_tokens(self.scores(layer, states), count, groups=groups)
        self._chosen[layer] = index
        return index

    def scores(self, layer: int, states: Tensor) -> Tensor:
        """Importance of each token of ``states`` ``[B, N, C]``, ``[B, N]`` (S8)."""
        drawn, reference = self._random[layer], self._references[layer]
        if drawn is not None:
            return drawn
        states = states.detach().contiguous()
        if reference is None:
            return token_scores(states, "mean")
        return token_scores(states, "drift", reference)


def _detached(leaves: Leaves, copies: bool) -> Leaves:
    return tuple(
        (t.detach().clone() if copies else t.detach()) if isinstance(t, Tensor) else t
        for t in leaves
    )
