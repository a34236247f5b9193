# SPDX-License-Identifier: Apache-2.0
"""Time windows: a computed step stands for those around it, as the model gets the mean of their embedded times.

What a model returns wiggles with its timestep more than with its sample: the network that embeds the
time follows training noise. A step whose output is to serve for several is better computed with the
mean of their embedded times, as outputs are linear in that over such wiggles. Ours; the measurements
are in docs/acceleration.md.

In diffusers a time is embedded by a ``Timesteps`` (sinusoids, ``[N]`` to ``[N, C]``) and a
``TimestepEmbedding`` (a network of two layers) that follows it. The first is given the J times of a
window for each of its N rows, the second averages what it makes of the N J rows.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from diffusers.hooks.hooks import ModelHook
from diffusers.models.embeddings import TimestepEmbedding, Timesteps
from torch import Tensor, nn

from genaccel.hooks.blocks import CurrentFrame
from genaccel.hooks.unhook import PREFIX, hook, unhook

TIME_HOOK_NAME = f"{PREFIX}_time"

# Two times are one where they differ by less, relative to the schedule's 1000.
_SAME_TIME = 1e-3


@dataclass(frozen=True, slots=True)
class TimeScale:
    """Scale of the times that a model embeds in one kind of call, and the calls that embed them.

    Attributes:
        factor: Factor from the scheduler's timesteps to the times that the model embeds.
        calls: Calls of its ``Timesteps`` that embed the time: index of the pair of modules, and of
            the call among those of the pair. Others embed something else, such as the guidance scale.
    """

    factor: float
    calls: frozenset[tuple[int, int]]


class TimeWindow:
    """The times that one call of the model is given the mean of, with their weights.

    Args:
        times: Times in the units of the model's ``Timesteps``, ``[J]``, float32.
        weights: Weights of the embedded times, whose sum is 1, ``[J]``, float32.
        scale: Tells which calls of the model's ``Timesteps`` embed the time.
    """

    __slots__ = ("calls", "pending", "scale", "times", "weights")

    def __init__(self, times: Tensor, weights: Tensor, scale: TimeScale) -> None:
        self.times = times
        self.weights = weights
        self.scale = scale
        self.calls: list[int] = []  # pairs, in the order of their calls
        self.pending: list[int] = []  # pairs whose rows are to be averaged


class _PairHook(ModelHook):
    """A hook on one module of a pair, known by its index."""

    fn_ref: Any

    def __init__(self, current: CurrentFrame, pair: int) -> None:
        super().__init__()
        self.current = current
        self.pair = pair


class _SinusoidHook(_PairHook):
    """The hook on a ``Timesteps``: it embeds all times of the window for each row."""

    def new_forward(self, module: nn.Module, *args: Any, **kwargs: Any) -> Any:
        forward = self.fn_ref.original_forward
        frame = self.current.frame
        if frame is None:
            return forward(*args, **kwargs)
        if frame.seen_times is not None:
            frame.seen_times.append((self.pair, args[0] if args else None))
        window = frame.time_window
        if window is None:
            return forward(*args, **kwargs)
        call = (self.pair, window.calls.count(self.pair))
        window.calls.append(self.pair)
        if call not in window.scale.calls:
            return forward(*args, **kwargs)
        window.pending.append(self.pair)
        times = window.times.expand(len(args[0]), -1).reshape(-1)  # [N J]
        return forward(times, *args[1:], **kwargs)


class _EmbeddingHook(_PairHook):
    """The hook on the ``TimestepEmbedding`` that follows: it averages the times of each row."""

    def new_forward(self, module: nn.Module, *args: Any, **kwargs: Any) -> Any:
        output = self.fn_ref.original_forward(*args, **kwargs)
        frame = self.current.frame
        window = None if frame is None else frame.time_window
        if window is None or self.pair not in window.pending:
            return output
        window.pending.remove(self.pair)
        count = len(window.weights)
        rows = output.reshape(len(output) // count, count, -1)  # [N, J, C]
        return (rows * window.weights.to(rows.dtype)[:, None]).sum(1)


class TimeHooks:
    """Hooks on the modules that embed the time in a model; none where it embeds it in another way.

    Args:
        model: Any model.
        current: Tells the frame of the current call.

    Attributes:
        count: Number of pairs of a ``Timesteps`` and its ``TimestepEmbedding``.
    """

    def __init__(self, model: nn.Module, current: CurrentFrame) -> None:
        self._modules: list[nn.Module] = []
        self.count = 0
        for sinusoids, embedding in _pairs(model):
            hook(sinusoids, _SinusoidHook(current, self.count), TIME_HOOK_NAME)
            hook(embedding, _EmbeddingHook(current, self.count), TIME_HOOK_NAME)
            self._modules += [sinusoids, embedding]
            self.count += 1

    def scale(self, seen: Sequence[tuple[int, Any]], time: float) -> TimeScale | None:
        """Tell how a model embeds the time in a call.

        Args:
            seen: For each call of a ``Timesteps`` the index of its pair, and what it was given.
            time: The scheduler's timestep at that call of the model.

        Returns:
            The scale; None where times can't be told: the model embeds them by other modules, has a
            time for each token, or the timestep is 0.
        """
        if not seen or not time:
            return None
        first = _single_time(seen[0][1])
        if not first:
            return None
        counts: Counter[int] = Counter()
        calls = set()
        for pair, given in seen:
            value = _single_time(given)
            if value is not None and abs(value - first) <= _SAME_TIME * max(abs(first), 1.0):
                calls.add((pair, counts[pair]))
            counts[pair] += 1
        return TimeScale(first / time, frozenset(calls))

    def detach(self) -> None:
        """Remove every hook."""
        for module in self._modules:
            unhook(module, TIME_HOOK_NAME)


def _single_time(given: Any) -> float | None:
    """The one time of all rows of ``[N]``; None where they differ."""
    if not isinstance(given, Tensor) or given.ndim != 1 or not len(given):
        return None
    low, high = float(given.min()), float(given.max())
    return high if high - low <= _SAME_TIME * max(abs(high), 1.0) else None


def _pairs(model: nn.Module) -> Iterator[tuple[nn.Module, nn.Module]]:
    seen: set[int] = set()
    for parent in model.modules():
        timed = [child for name, child in parent.named_children() if "time" in name]
        sinusoids = [child for child in timed if isinstance(child, Timesteps)]
        embeddings = [child for child in timed if isinstance(child, TimestepEmbedding)]
        if len(sinusoids) == len(embeddings) == 1 and id(sinusoids[0]) not in seen:
            seen.add(id(sinusoids[0]))
            yield sinusoids[0], embeddings[0]
