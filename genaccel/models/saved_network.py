# SPDX-License-Identifier: Apache-2.0
"""The base of networks that are saved with their parameters, each in a folder of its own type."""

from __future__ import annotations

import os
from typing import Any, ClassVar, Self

import torch
from torch import nn

from genaccel.models.registry import read_model_folder, write_model_folder


class SavedNetwork(nn.Module):
    """A network that is built of parameters alone, and saved with them.

    Attributes:
        model_type: Type in ``config.json``.
        params_class: Class of the parameters, with ``to_dict`` and ``from_dict``.
        stored_dtype: Dtype of stored weights, where no other is asked for.
        params: The parameters.
    """

    model_type: ClassVar[str]
    params_class: ClassVar[Any]
    stored_dtype: ClassVar[torch.dtype] = torch.float32
    params: Any

    def save_pretrained(
        self, folder: str | os.PathLike[str], *, dtype: torch.dtype | None = None
    ) -> None:
        """Write ``config.json`` and ``model.safetensors`` in place of the model that the folder holds.

        Args:
            folder: Made if it is not there.
            dtype: Dtype of the stored floating-point weights; by default ``stored_dtype``.
        """
        write_model_folder(
            folder, self.model_type, self.params.to_dict(), self, dtype=dtype or self.stored_dtype
        )

    @classmethod
    def from_pretrained(cls, folder: str | os.PathLike[str]) -> Self:
        """Load what ``save_pretrained`` wrote, in evaluation mode.

        Raises:
            FileNotFoundError: If a file is missing.
            ModelFolderError: If the configuration or a tensor does not fit.
        """
        return read_model_folder(
            folder,
            cls.model_type,
            lambda config: cls(cls.params_class.from_dict(config)),
            check=cls.check_tensors,
        )

    def check_tensors(self) -> None:
        """Called when all tensors are read: refuse those that would fail, or lead out of a table, when they are used.

        Raises:
            ValueError: If there are such.
        """
