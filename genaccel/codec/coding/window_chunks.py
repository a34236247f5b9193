# SPDX-License-Identifier: Apache-2.0
"""The windows of an image as its decoder goes through them: slice by slice, in each slice some windows at a time.

The order of the file asks for all windows of a slice before the next slice, so what an entropy model knows of each window
has to be kept; logits and activations are those of one chunk only. Slice 0 has nothing before it, so it is predicted
once for all windows, and nothing of the image's size is made until it has been read.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from genaccel.codec.format.limits import check_time
from genaccel.models.integer_entropy_model import IntegerEntropyModel

# Fewer are slower on two cores, and more are not faster; a GPU wants more.
_CPU_WINDOWS, _GPU_WINDOWS = 64, 1024


class WindowChunks:
    """A slice-by-slice pass over all windows.

    Args:
        model: The entropy model.
        num_windows: Windows of the image.
    """

    def __init__(self, model: IntegerEntropyModel, num_windows: int) -> None:
        most = _CPU_WINDOWS if model.embedding.device.type == "cpu" else _GPU_WINDOWS
        self.chunks = [
            slice(begin, min(begin + most, num_windows)) for begin in range(0, num_windows, most)
        ]
        self._model = model
        self._state = model.begin(1)
        self._first_logits = model.step(self._state)
        self._slices: tuple[Tensor, ...] = ()

    def predictions(self) -> Iterator[Tensor]:
        """Logits int32 ``[w, n, K]`` of the next slice, chunk by chunk; the same ones until :meth:`advance`.

        Raises:
            TimeLimitError: If the time limit is exceeded.
        """
        if not self._slices:
            for chunk in self.chunks:
                yield self._first_logits.expand(chunk.stop - chunk.start, -1, -1)
            return
        self._model.make_room(self._state)  # of all windows together
        for chunk in self.chunks:
            check_time()
            yield self._model.step(self._state.part(chunk), self._slices[-1][chunk])

    def advance(self, indices: Sequence[Tensor]) -> None:
        """Go on to the next slice, given the indices int64 ``[w, n]`` of this one, chunk by chunk."""
        if self._slices:
            self._state.slices, self._state.next_slice = self._slices, len(self._slices) + 1
        else:
            self._state = self._state.repeated(self.chunks[-1].stop)
        self._slices += (torch.cat(tuple(indices)),)

    def indices(self) -> Tensor:
        """The indices of all slices so far, int64 ``[W, tokens]``, in slice order."""
        return torch.cat(self._slices, dim=1)
