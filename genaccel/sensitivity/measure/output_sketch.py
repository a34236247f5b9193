# SPDX-License-Identifier: Apache-2.0
"""Inner products of outputs at any two steps, without keeping the outputs.

A random projection of each output is kept instead (a count sketch: Charikar, Chen and
Farach-Colton, 2002). It is linear and keeps lengths, so the length of any combination of outputs
follows, such as the error that a forecast from any history makes, or the sum of many of them.
"""

from __future__ import annotations

from collections.abc import Hashable

import torch
from torch import Tensor

# Values that an output is projected to. The square of a length is off by a factor of 1 with
# standard deviation sqrt(2 / size), 4 %, or 0.2 dB, and less over several samples. A prime: value
# i goes to i modulo the size, and the few channels that hold most of the energy are not to meet.
SKETCH_SIZE = 1021


class OutputSketch:
    """Sums of inner products over the samples, for each tensor that each segment returns.

    Args:
        num_steps: Steps of the sampler, S.
        num_segments: Number of segments, G.
        num_tensors: Tensors that each segment returns, M.
        size: Values kept of each output; outputs that are not larger are kept as they are.

    Example:
        >>> sketch = OutputSketch(num_steps=2, num_segments=1, num_tensors=1)
        >>> sketch.observe(0, 0, 0, torch.tensor([[3.0, 4.0]]))
        >>> sketch.observe(1, 0, 0, torch.tensor([[1.0, 0.0]]))
        >>> sketch.gram[0, 0].tolist()
        [[25.0, 3.0], [3.0, 1.0]]
    """

    def __init__(
        self, *, num_steps: int, num_segments: int, num_tensors: int, size: int = SKETCH_SIZE
    ) -> None:
        self._size = size
        # Inner products.
        self.gram = torch.zeros(
            num_segments, num_tensors, num_steps, num_steps, dtype=torch.float64
        )  # [G, M, S, S]
        self._signs: dict[tuple[int, torch.device], Tensor] = {}
        # Of this generation: [n, B, size], and the steps of the n rows.
        self._rows: dict[tuple[int, int, Hashable], tuple[list[int], list[Tensor]]] = {}

    @property
    def bytes_held(self) -> int:
        """Bytes of the projections of this generation."""
        rows = [row for _, kept in self._rows.values() for row in kept]
        return sum(row.numel() * row.element_size() for row in rows)

    def start_generation(self) -> None:
        """Forget the projections; the sums stay."""
        self._rows.clear()

    def observe(
        self, step: int, segment: int, tensor: int, output: Tensor, *, stream: Hashable = None
    ) -> None:
        """Take an output ``[B, ...]`` of a step; each step once in a generation and stream."""
        key = (segment, tensor, stream)
        gram = self.gram[segment, tensor]
        steps, rows = self._rows.setdefault(key, ([], []))
        row = self._project(output)
        steps.append(step)
        rows.append(row)
        # Doubles: what is sought are differences of outputs that are nearly alike.
        products = torch.stack([(r.double() * row.double()).sum() for r in rows]).cpu()
        gram[step, steps] += products
        gram[steps[:-1], step] += products[:-1]

    def _project(self, output: Tensor) -> Tensor:
        """Projection of each sample, ``[B, size]``, in float32 or better."""
        wide = torch.promote_types(output.dtype, torch.float32)
        flat = output.detach().to(wide).reshape(len(output), -1)  # [B, D]
        length = flat.shape[1]
        signed = flat * self._signs_of(length, flat.device).to(wide)
        if length <= self._size:
            return signed
        padded = torch.nn.functional.pad(signed, (0, -length % self._size))
        return padded.reshape(len(flat), -1, self._size).sum(dim=1)

    def _signs_of(self, length: int, device: torch.device) -> Tensor:
        """1 or -1 for each value, always the same, ``[length]``."""
        key = (length, device)
        if key not in self._signs:
            generator = torch.Generator().manual_seed(length)
            drawn = torch.randint(0, 2, (length,), generator=generator, dtype=torch.int8)
            self._signs[key] = (2 * drawn - 1).to(device)
        return self._signs[key]
