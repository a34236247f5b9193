# SPDX-License-Identifier: Apache-2.0
"""Loads a network's tensors: their file bounds what the network is built of, and has just these."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn
from torch.overrides import TorchFunctionMode

from genaccel.files.untrusted import require_tensors, stored_tensors

# What a network's floating-point tensors may be stored as.
_FLOATS = ("F16", "BF16", "F32", "F64")
_OTHERS = {
    torch.bool: "BOOL",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.int16: "I16",
    torch.int32: "I32",
    torch.int64: "I64",
}
# What networks make their tensors by.
_FACTORIES = frozenset({torch.empty, torch.ones, torch.rand, torch.randn, torch.zeros})
# Numbers in what follows from the configuration, such as masks.
_NOT_STORED = 2**24

Model = TypeVar("Model", bound=nn.Module)


def load_network(weights: Path, build: Callable[[], Model]) -> Model:
    """A network with its tensors; no more memory is taken than for what the file holds, and 64 MiB.

    Args:
        weights: File of its ``state_dict``.
        build: Makes the network.

    Raises:
        ValueError: If the file is damaged, or a tensor is missing, left over, of another type or shape, or not finite.
        OSError: If it cannot be read.
    """
    stored = stored_tensors(weights)
    with _Budget(sum(math.prod(tensor.shape) for tensor in stored.values())):
        model = build()
    expected = {
        name: (
            _FLOATS if tensor.is_floating_point() else (_OTHERS[tensor.dtype],),
            tuple(tensor.shape),
        )
        for name, tensor in model.state_dict().items()
    }
    try:
        require_tensors(weights, expected)
    except ValueError as error:
        raise ValueError(f"the weights do not fit its config.json: {error}") from error
    try:
        tensors = load_file(weights)
    except SafetensorError as error:
        raise ValueError(f"{weights} is damaged: {error}") from error
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
            raise ValueError(f"{weights} has values in {name} that are not finite")
    model.load_state_dict(tensors)
    return model


class _Budget(TorchFunctionMode):
    """Refuses to make tensors of more numbers together; the meta device would tell, too, after seconds of imports.

    Args:
        elements: Numbers in the tensors that are stored.
    """

    def __init__(self, elements: int) -> None:
        super().__init__()
        self._left = elements + _NOT_STORED

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        options = dict(kwargs or {})
        if func in _FACTORIES:
            size = args or (options.get("size", ()),)
            self._left -= math.prod(size[0] if isinstance(size[0], Sequence) else size)
            if self._left < 0:
                raise ValueError(
                    "the weights do not fit its config.json, which asks for more than the file has"
                )
        return func(*args, **options)
