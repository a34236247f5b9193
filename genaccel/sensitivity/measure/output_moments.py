# SPDX-License-Identifier: Apache-2.0
"""Inner products of a model's outputs at each two steps: all that plans of outputs are made of.

A step costs one projection, and an inner product with each step before it; the outputs themselves are
not kept.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils._pytree import tree_leaves

from genaccel.sensitivity.measure.output_sketch import OutputSketch

_NAME = "gram"


class OutputMoments:
    """Inner products of a model's outputs at each two steps, summed over samples and runs.

    Args:
        num_steps: Steps of the sampler, S.

    Example:
        >>> moments = OutputMoments(2)
        >>> moments.observe(0, torch.tensor([[3.0, 4.0]]))
        >>> moments.observe(1, torch.tensor([[1.0, 0.0]]))
        >>> moments.gram.tolist()
        [[25.0, 3.0], [3.0, 1.0]]
    """

    def __init__(self, num_steps: int) -> None:
        self.num_steps = num_steps
        self._sketch = OutputSketch(num_steps=num_steps, num_segments=1, num_tensors=1)
        self._seen: set[tuple[int, Hashable]] = set()

    @property
    def gram(self) -> NDArray[np.float64]:
        """Inner products, ``[S, S]``; 0 for steps at which the model was not called."""
        return self._sketch.gram[0, 0].numpy().copy()

    @torch.no_grad()
    def observe(self, step: int, output: Any, *, stream: Hashable = None) -> None:
        """Take the output of the model at a step.

        Args:
            step: From 0; later ones, and a step that was seen, do not count.
            output: Anything with a floating-point tensor ``[B, ...]`` in it; the first one counts.
            stream: Tells calls of the same step apart.

        Raises:
            ValueError: If it is not finite.
        """
        if step >= self.num_steps or (step, stream) in self._seen:
            return
        tensor = next(
            (v for v in tree_leaves(output) if isinstance(v, Tensor) and v.is_floating_point()),
            None,
        )
        if tensor is None or not tensor.ndim:
            return
        self._seen.add((step, stream))
        self._sketch.observe(step, 0, 0, tensor, stream=stream)
        if not bool(torch.isfinite(self._sketch.gram[0, 0, step, step])):
            raise ValueError(f"the output of the model at step {step} is not finite")

    def start_generation(self) -> None:
        """Forget the projections of this run; the sums stay."""
        self._sketch.start_generation()
        self._seen.clear()

    def merge(self, other: OutputMoments) -> None:
        """Add the sums of another run.

        Raises:
            ValueError: If it has another number of steps.
        """
        if other.num_steps != self.num_steps:
            raise ValueError(f"runs of {self.num_steps} and {other.num_steps} steps can't be added")
        self._sketch.gram = self._sketch.gram + other._sketch.gram

    def state_dict(self) -> dict[str, Tensor]:
        """A copy of the sums."""
        return {_NAME: self._sketch.gram.clone()}

    def add(self, state: Mapping[str, Tensor]) -> None:
        """Add the sums of :meth:`state_dict`.

        Raises:
            ValueError: If they are of another size, or incomplete.
        """
        gram = state.get(_NAME)
        if gram is None or gram.shape != self._sketch.gram.shape:
            raise ValueError(f"the sums are not of outputs of {self.num_steps} steps; measure anew")
        # Not in place: they may have been made in inference mode, and this is outside of it.
        self._sketch.gram = self._sketch.gram + gram.to("cpu", torch.float64)

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Replace the sums."""
        kept = self.state_dict()[_NAME]
        self.add(state)
        self._sketch.gram = self._sketch.gram - kept
