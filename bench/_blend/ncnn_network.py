# SPDX-License-Identifier: Apache-2.0
"""Convolutional networks of ncnn's files, run by torch: as many layer types as SPAN and Real-ESRGAN have."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

# In front of a convolution's weights, where they are fp16.
_HALF_TAG = 0x01306B47


@dataclass(frozen=True, slots=True)
class _Layer:
    kind: str
    name: str
    inputs: list[str]
    outputs: list[str]
    options: dict[int, Any]


def _layers(text: str) -> list[_Layer]:
    layers = []
    for line in text.splitlines()[2:]:
        words = line.split()
        if not words:
            continue
        num_inputs, num_outputs = int(words[2]), int(words[3])
        names = words[4 : 4 + num_inputs + num_outputs]
        options: dict[int, Any] = {}
        for word in words[4 + num_inputs + num_outputs :]:
            key, value = word.split("=")
            if int(key) <= -23300:  # an array, whose length comes first
                options[-23300 - int(key)] = [float(part) for part in value.split(",")[1:]]
            else:
                options[int(key)] = float(value) if set(".e") & set(value) else int(value)
        layers.append(_Layer(words[0], words[1], names[:num_inputs], names[num_inputs:], options))
    return layers


class NcnnNetwork:
    """A network of ncnn.

    Args:
        param: Its layers, a text file; the weights are the file of the same name that ends in ``.bin``.

    Raises:
        ValueError: If the weights are not as many as the layers take.
        ValueError: If it has a layer, or a way to store weights, that is not known here.
    """

    def __init__(self, param: Path) -> None:
        self._layers = _layers(param.read_text())
        self._data = param.with_suffix(".bin").read_bytes()
        self._position = 0
        self._weights: dict[str, tuple[Tensor, Tensor | None]] = {}
        for layer in self._layers:
            if layer.kind == "Convolution":
                self._weights[layer.name] = self._convolution(layer.options)
            elif layer.kind == "MemoryData":
                width, height, channels = (layer.options.get(i, 1) for i in range(3))
                numbers = self._numbers(width * height * channels)
                self._weights[layer.name] = numbers.view(1, channels, height, width), None
        if self._position != len(self._data):
            raise ValueError(f"{param} does not take all weights of its .bin")

    def _numbers(self, count: int) -> Tensor:
        found = np.frombuffer(self._data, np.float32, count, self._position)
        self._position += 4 * count
        return torch.from_numpy(found.copy())

    def _convolution(self, options: dict[int, Any]) -> tuple[Tensor, Tensor | None]:
        outputs, width, height = options[0], options[1], options.get(11, options[1])
        count = options[6]
        tag = int.from_bytes(self._data[self._position : self._position + 4], "little")
        self._position += 4
        if tag == _HALF_TAG:
            half = np.frombuffer(self._data, np.float16, count, self._position)
            weight = torch.from_numpy(half.astype(np.float32))
            self._position += (2 * count + 3) // 4 * 4
        elif tag == 0:
            weight = self._numbers(count)
        else:
            raise ValueError(f"weights stored as {tag:#x}")
        bias = self._numbers(outputs) if options.get(5, 0) else None
        return weight.view(outputs, -1, height, width), bias

    @torch.inference_mode()
    def __call__(self, x: Tensor) -> Tensor:
        """Output ``[1, 3, s H, s W]`` of an image ``[1, 3, H, W]`` in [0, 1]."""
        values: dict[str, Tensor] = {}
        for layer in self._layers:
            if layer.kind == "Input":
                values[layer.outputs[0]] = x
                continue
            result = self._run(layer, [values[name] for name in layer.inputs])
            values |= dict.fromkeys(layer.outputs, result)
        return result

    def _run(self, layer: _Layer, inputs: Sequence[Tensor]) -> Tensor:
        if layer.kind == "MemoryData":
            return self._weights[layer.name][0]
        first, options = inputs[0], layer.options
        if layer.kind == "Split":
            return first
        if layer.kind == "Convolution":
            weight, bias = self._weights[layer.name]
            made = functional.conv2d(first, weight, bias, padding=options.get(4, 0))
            activation = options.get(9, 0)
            if activation not in (0, 1, 2):
                raise ValueError(f"activation {activation}")
            slope = options[10][0] if activation == 2 else 0.0
            return functional.leaky_relu(made, slope) if activation else made
        if layer.kind == "Sigmoid":
            return torch.sigmoid(first)
        if layer.kind == "Swish":
            return functional.silu(first)
        if layer.kind == "Concat":
            return torch.cat(list(inputs), 1)
        if layer.kind == "Eltwise" and options.get(0) == 1:
            factors = options.get(1, [1.0] * len(inputs))
            parts = (factor * value for factor, value in zip(factors, inputs, strict=True))
            return sum(parts, torch.zeros(()))
        if layer.kind == "BinaryOp":
            other = inputs[1] if len(inputs) > 1 else options[2]
            operation = (torch.add, torch.sub, torch.mul)[options.get(0, 0)]
            return operation(first, other)
        if layer.kind == "Interp":
            mode = "nearest" if options[0] == 1 else "bilinear"
            return functional.interpolate(first, scale_factor=(options[1], options[2]), mode=mode)
        if layer.kind == "PixelShuffle":
            return functional.pixel_shuffle(first, options[0])
        raise ValueError(f"layer {layer.kind}")
