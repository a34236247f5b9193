# SPDX-License-Identifier: Apache-2.0
"""Errors of every forecaster at every step and interval, measured on unaccelerated runs.

The offline fine-grained sensitivity (OFS) of SODA, arXiv:2603.07057, algorithm 1: each fresh output
is compared with what the forecasters would have made of the last few, which a ring holds. Nothing
is computed twice, and memory is bounded by the depth of the ring.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from genaccel.sensitivity.measure.output_sketch import OutputSketch
from genaccel.sensitivity.run.forecast import Taylor, affine_fit

Metric = Literal["cosine", "l1", "l2"]

METRICS: tuple[Metric, ...] = ("cosine", "l1", "l2")
_MOMENTS = ("n", "x", "y", "xx", "xy", "yy")
_TENSORS = ("errors", "counts", "moments", "gram")


@dataclass(frozen=True, kw_only=True, slots=True)
class _Entry:
    """A past output in its own dtype, with the sum of its values and of their squares."""

    step: int
    output: Tensor
    x: float
    xx: float


class CalibrationMoments:
    """Streaming sums over steps, intervals, segments and tensors.

    Errors are of one sample each (over its whole flattened tensor) and then averaged: "cosine" is
    one minus the cosine (S1), "l1" and "l2" are norms of the difference over the norm of the true
    output. An error relative to a zero output counts as 1, or 0 if the forecast is zero as well.

    Taylor forecasters at interval ``k`` are measured from outputs ``k`` steps apart, as on a
    schedule of even spacing, and closer together where the ring or the run holds no older ones.
    What a forecast from any other history is worth follows from :meth:`gram`.

    Args:
        num_steps: Steps of the sampler, S.
        max_interval: Largest interval, K.
        num_segments: Number of segments, G.
        num_tensors: Tensors that each returns, M.
        taylor_orders: Orders of Taylor to measure besides reuse.
        ring_depth: Past outputs kept for each segment, tensor and stream, at least
            ``max_interval``; by default as many as evenly spaced Taylor needs at the largest
            interval. Fewer take less memory.

    Raises:
        ValueError: If a size is below 1, an order is unknown, or the ring is shorter than the
            largest interval.

    Example:
        >>> calibration = CalibrationMoments(num_steps=3, max_interval=2, taylor_orders=(1,))
        >>> for step in range(3):
        ...     calibration.observe(step, 0, 0, torch.full((1, 4), 1.0 + step))
        >>> calibration.errors("reuse", "l1")[2, :, 0, 0].round(3).tolist()
        [0.333, 0.667]
        >>> calibration.errors("taylor1", "l1")[2, :, 0, 0].tolist()
        [0.0, nan]
    """

    def __init__(
        self,
        *,
        num_steps: int,
        max_interval: int,
        num_segments: int = 1,
        num_tensors: int = 1,
        taylor_orders: tuple[int, ...] = (1, 2),
        ring_depth: int | None = None,
    ) -> None:
        for name, size in (
            ("num_steps", num_steps),
            ("max_interval", max_interval),
            ("num_segments", num_segments),
            ("num_tensors", num_tensors),
        ):
            if size < 1:
                raise ValueError(f"{name} must be at least 1, got {size}")
        self._taylors = tuple(Taylor(order) for order in taylor_orders)
        self.forecasters = ("reuse", *(t.name for t in self._taylors))
        self.ring_depth = ring_depth or max_interval * (1 + max(taylor_orders, default=0))
        if self.ring_depth < max_interval:
            raise ValueError(
                f"ring_depth must be at least max_interval, {max_interval}, got {self.ring_depth}"
            )
        self.shape = (num_steps, max_interval, num_segments, num_tensors)
        # Sums over samples: [F, metric, S, K, G, M], [F, S, K, G, M], [moment, S, K, G, M].
        count = len(self.forecasters)
        self._errors = torch.zeros(count, len(METRICS), *self.shape, dtype=torch.float64)
        self._counts = torch.zeros(count, *self.shape, dtype=torch.float64)
        self._moments = torch.zeros(len(_MOMENTS), *self.shape, dtype=torch.float64)
        self._sketch = OutputSketch(
            num_steps=num_steps, num_segments=num_segments, num_tensors=num_tensors
        )
        self._rings: dict[tuple[int, int, Hashable], deque[_Entry]] = {}

    @property
    def num_steps(self) -> int:
        """Number of steps of the sampler, S."""
        return self.shape[0]

    @property
    def _gram(self) -> Tensor:
        return self._sketch.gram

    @_gram.setter
    def _gram(self, gram: Tensor) -> None:
        self._sketch.gram = gram

    @property
    def bytes_held(self) -> int:
        """Bytes of the outputs in the rings, and of the projections of older ones."""
        outputs = [entry.output for ring in self._rings.values() for entry in ring]
        return sum(t.numel() * t.element_size() for t in outputs) + self._sketch.bytes_held

    def start_generation(self) -> None:
        """Forget past outputs, before another prompt or batch begins. Sums stay."""
        self._rings.clear()
        self._sketch.start_generation()

    @torch.no_grad()
    def observe(
        self, step: int, segment: int, tensor: int, output: Tensor, *, stream: Hashable = None
    ) -> None:
        """Take a tensor that a segment added at a step, and measure the errors of forecasts of it.

        Args:
            step: Index of the step, from 0. Steps of a segment, tensor and stream must follow one another without
                gaps.
            segment: Index of the segment, below ``num_segments``.
            tensor: Index among the tensors of the segment, below ``num_tensors``.
            output: The tensor, ``[B, ...]``; copied into the ring in its own dtype.
            stream: Tells calls of the same step apart, such as the halves of classifier-free
                guidance in two calls.

        Raises:
            ValueError: If an index is out of range, steps are skipped or repeated, the shape
                changed within a generation, or the output is not finite. Nothing is counted then.
        """
        for name, index, size in zip(
            ("step", "segment", "tensor"),
            (step, segment, tensor),
            (self.shape[0], *self.shape[2:]),
            strict=True,
        ):
            if not 0 <= index < size:
                raise ValueError(f"{name} must be from 0 to {size - 1}, got {index}")
        ring = self._rings.get((segment, tensor, stream))
        if ring is None:
            ring = deque(maxlen=self.ring_depth)
        elif step != ring[-1].step + 1:
            raise ValueError(
                f"step {step} of segment {segment}, tensor {tensor} does not follow step {ring[-1].step}; "
                "call start_generation before a new run"
            )
        elif output.shape != ring[-1].output.shape:
            raise ValueError(
                f"an output of segment {segment}, tensor {tensor} was {list(ring[-1].output.shape)} and is "
                f"{list(output.shape)} at step {step}; call start_generation before a new run"
            )
        # Differences of outputs lose nothing in float32, which is faster; their sums would.
        wide = torch.promote_types(output.dtype, torch.float32)
        fresh = output.detach().to(wide).reshape(len(output), -1)  # [B, D]
        x, xx = float(fresh.sum(dtype=torch.float64)), _dot(fresh, fresh)
        if not math.isfinite(xx):
            raise ValueError(
                f"the output of segment {segment}, tensor {tensor} at step {step} is not finite"
            )
        past = {step - entry.step: entry for entry in ring}  # by age
        for interval in range(1, min(self.shape[1], len(past)) + 1):
            place = (step, interval - 1, segment, tensor)
            entry = past[interval]
            cached = entry.output.to(wide).reshape(fresh.shape)
            sums = (float(fresh.numel()), entry.x, x, entry.xx, _dot(cached, fresh), xx)
            self._moments[(slice(None), *place)] += torch.tensor(sums, dtype=torch.float64)
            self._add_errors(0, place, cached, fresh)
            for row, taylor in enumerate(self._taylors, start=1):
                spacing = min(interval, (len(past) - interval) // taylor.order)
                if spacing < 1:
                    continue  # no output old enough
                ages = [interval + i * spacing for i in range(taylor.history)]
                weights = taylor.coefficients(0, [-age for age in ages])
                forecast = cached * weights[0]
                for age, weight in zip(ages[1:], weights[1:], strict=True):
                    older = past[age].output.to(wide).reshape(fresh.shape)
                    forecast.add_(older, alpha=weight)
                self._add_errors(row, place, forecast, fresh)
        self._sketch.observe(step, segment, tensor, output, stream=stream)
        # The sampler may reuse the memory of its output.
        ring.append(_Entry(step=step, output=output.detach().clone(), x=x, xx=xx))
        self._rings[segment, tensor, stream] = ring

    def _add_errors(
        self, row: int, place: tuple[int, int, int, int], forecast: Tensor, fresh: Tensor
    ) -> None:
        self._errors[(row, slice(None), *place)] += relative_errors(forecast, fresh).sum(1).cpu()
        self._counts[(row, *place)] += len(fresh)

    def merge(self, other: CalibrationMoments) -> None:
        """Add the sums of another run over other prompts.

        Raises:
            ValueError: If it measures something else.
        """
        if (other.shape, other.forecasters) != (self.shape, self.forecasters):
            raise ValueError(
                f"cannot merge sums of {other.forecasters} over {list(other.shape)} steps, intervals, segments and "
                f"tensors into those of {self.forecasters} over {list(self.shape)}"
            )
        self._errors = self._errors + other._errors
        self._counts = self._counts + other._counts
        self._moments = self._moments + other._moments
        # Not in place: they may have been made in inference mode, and this is outside of it.
        self._gram = self._gram + other._gram

    def state_dict(self) -> dict[str, Tensor]:
        """Copies of the sums, all float64, without the rings: resume with a new generation."""
        return {name: getattr(self, f"_{name}").clone() for name in _TENSORS}

    def add(self, state: Mapping[str, Tensor]) -> None:
        """Add the sums of :meth:`state_dict` of other runs.

        Raises:
            ValueError: If they are of other sizes, or incomplete.
        """
        kept = self.state_dict()
        self.load_state_dict(state)
        for name, sums in kept.items():
            setattr(self, f"_{name}", getattr(self, f"_{name}") + sums)

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Replace the sums by those of :meth:`state_dict`, and forget past outputs.

        Raises:
            ValueError: If they are of other sizes, or incomplete.
        """
        if sorted(state) != sorted(_TENSORS):
            raise ValueError(
                f"calibration state must hold {sorted(_TENSORS)}, got {sorted(state)}: it is of another "
                "genaccel; measure anew"
            )
        for name in _TENSORS:
            expected = getattr(self, f"_{name}").shape
            if state[name].shape != expected:
                raise ValueError(
                    f"{name} of the calibration state must be {list(expected)}, got {list(state[name].shape)}"
                )
        for name in _TENSORS:
            setattr(self, f"_{name}", state[name].to("cpu", torch.float64, copy=True))
        self.start_generation()

    def errors(self, forecaster: str, metric: Metric = "cosine") -> NDArray[np.float64]:
        """Mean error, ``[S, K, G, M]``; NaN where nothing was measured.

        Args:
            forecaster: "reuse", "taylor1", "taylor2", or "affine", whose error on the values it was
                fitted to follows from the moments, over all samples together instead of one by one.
            metric: "cosine", "l1" or "l2"; not "l1" for "affine", which the moments do not tell.
        """
        if metric not in METRICS:
            raise ValueError(f"metric must be one of {METRICS}, got {metric!r}")
        if forecaster == "affine":
            return self._affine_errors(metric)
        if forecaster not in self.forecasters:
            raise ValueError(
                f'forecaster must be "affine" or one of {self.forecasters}, got {forecaster!r}'
            )
        row = self.forecasters.index(forecaster)
        counts = self._counts[row]
        mean = self._errors[row, METRICS.index(metric)] / torch.where(counts > 0, counts, torch.nan)
        return mean.numpy()

    def moments(self) -> dict[str, NDArray[np.float64]]:
        """Sums over the cached values x and true values y, by name, ``[S, K, G, M]`` each."""
        return dict(zip(_MOMENTS, self._moments.clone().numpy(), strict=True))

    def gram(self) -> NDArray[np.float64]:
        """Inner products of the outputs at each two steps, summed over samples, ``[G, M, S, S]``.

        Large outputs are projected first; see :mod:`genaccel.sensitivity.measure.output_sketch`.
        """
        return self._gram.numpy().copy()

    def affine(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Slope and intercept, ``[S, K, G, M]`` each; 1 and 0 where nothing was measured."""
        sums = self.moments()
        return affine_fit(*(sums[name] for name in ("n", "x", "y", "xx", "xy")))

    def _affine_errors(self, metric: Metric) -> NDArray[np.float64]:
        if metric == "l1":
            raise ValueError('the affine corrector has errors "cosine" and "l2", not "l1"')
        n, x, y, xx, xy, yy = self._moments.numpy()
        a, b = self.affine()
        forecast = np.maximum(a * a * xx + 2 * a * b * x + n * b * b, 0.0)
        product = a * xy + b * y
        if metric == "l2":
            square = np.maximum(forecast - 2 * product + yy, 0.0)
            error = np.sqrt(square / np.where(yy > 0, yy, 1.0))
        else:
            norm = np.sqrt(forecast * yy)
            error = np.maximum(1 - product / np.where(norm > 0, norm, 1.0), 0.0)
            error = np.where((norm > 0) | (forecast + yy == 0), error, 1.0)
            error = np.where(forecast + yy == 0, 0.0, error)
        measured: NDArray[np.float64] = np.where(n > 0, error, np.nan)
        return measured


def relative_errors(forecast: Tensor, fresh: Tensor) -> Tensor:
    """Errors of each sample: one minus the cosine, relative L1 and relative L2.

    Args:
        forecast: ``[B, D]``.
        fresh: The true values, ``[B, D]``.

    Returns:
        ``[3, B]``, float64, in the order of ``METRICS``.

    Example:
        >>> relative_errors(torch.tensor([[3.0, 0.0]]), torch.tensor([[0.0, 4.0]])).tolist()
        [[1.0], [1.75], [1.25]]
    """
    difference = forecast - fresh
    l2, size, true_size = (_norm(v, 2) for v in (difference, forecast, fresh))
    # The squared distance of the unit vectors is twice one minus the cosine: from the norms of the
    # difference, no digits cancel where the cosine is nearly 1.
    product = 2 * size * true_size
    apart = (l2.square() - (size - true_size).square()).clamp(min=0)
    cosine = torch.where(
        product > 0, apart / torch.where(product > 0, product, 1.0), (l2 > 0).double()
    )
    l1 = _ratio(_norm(difference, 1), _norm(fresh, 1))
    return torch.stack([cosine, l1, _ratio(l2, true_size)])


def _norm(values: Tensor, order: int) -> Tensor:
    """Norm of each row of ``[B, D]``, summed in float64, ``[B]``."""
    return torch.linalg.vector_norm(values, order, dim=1, dtype=torch.float64)


def _ratio(difference: Tensor, size: Tensor) -> Tensor:
    ratio = difference / torch.where(size > 0, size, 1.0)
    return torch.where(size > 0, ratio, (difference > 0).to(ratio.dtype))


def _dot(a: Tensor, b: Tensor) -> float:
    return float(a.double().reshape(-1) @ b.double().reshape(-1))
