# SPDX-License-Identifier: Apache-2.0
"""The codec's networks as components that diffusers can save and load.

diffusers loads a component by the module and the name of its class, and takes classes only below one of its own base
classes, which it looks up by name in that same module: ``ModelMixin`` here. A file of a custom pipeline cannot hold
them, because it is copied to a module of another name.
"""

from __future__ import annotations

import os
from typing import Any, ClassVar, Self

import torch
from diffusers.models.modeling_utils import ModelMixin

from genaccel.models.autoencoder import Autoencoder
from genaccel.models.integer_entropy_model import IntegerEntropyModel


class _CodecModel(ModelMixin):
    """A network of the codec; a folder of it is the network's own."""

    network: ClassVar[type[Autoencoder] | type[IntegerEntropyModel]]

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model
        self.train(model.training)

    def save_pretrained(  # type: ignore[override]
        self, save_directory: str | os.PathLike[str]
    ) -> None:
        """Write the folder that ``from_pretrained`` of the network reads."""
        self.model.save_pretrained(save_directory)

    @classmethod
    def from_pretrained(  # type: ignore[override]
        cls, folder: str | os.PathLike[str], **_: Any
    ) -> Self:
        """Read the folder that ``save_pretrained`` wrote, on the CPU and in float32 whatever diffusers' options say.

        Raises:
            FileNotFoundError: If a file is missing.
            ValueError: If the configuration or a tensor does not fit.
        """
        return cls(cls.network.from_pretrained(folder))


class CodecAutoencoder(_CodecModel):
    """An :class:`~genaccel.models.autoencoder.Autoencoder`."""

    model: Autoencoder
    network = Autoencoder

    @property
    def is_exact(self) -> bool:
        """Whether the weights are in the precision that files are made in."""
        return all(tensor.dtype == torch.float32 for tensor in self.model.parameters())


class CodecEntropyModel(_CodecModel):
    """An :class:`~genaccel.models.integer_entropy_model.IntegerEntropyModel`."""

    model: IntegerEntropyModel
    network = IntegerEntropyModel
