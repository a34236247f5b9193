# SPDX-License-Identifier: Apache-2.0
"""A model as a folder: ``config.json`` and ``model.safetensors``."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors.torch import load_file, save
from torch import nn

from genaccel.files.atomic import write_atomically, write_json

_CONFIG_NAME = "config.json"
_WEIGHTS_NAME = "model.safetensors"

Model = TypeVar("Model", bound=nn.Module)


def write_model_folder(
    folder: str | os.PathLike[str],
    config: Mapping[str, Any],
    model: nn.Module,
    *,
    dtype: torch.dtype,
) -> None:
    """Write a model's configuration and tensors, each file atomically.

    Args:
        folder: Made if it is not there.
        config: JSON-ready.
        model: Whose ``state_dict`` is stored.
        dtype: Of the stored floating-point tensors; others keep theirs.
    """
    path = Path(folder)
    tensors = {
        name: (tensor.to(dtype) if tensor.is_floating_point() else tensor).cpu().contiguous()
        for name, tensor in model.state_dict().items()
    }
    write_atomically(path / _WEIGHTS_NAME, save(tensors), overwrite=True, parents=True)
    write_json(path / _CONFIG_NAME, config, overwrite=True)


def read_model_folder(
    folder: str | os.PathLike[str], build: Callable[[Mapping[str, Any]], Model], kind: str
) -> Model:
    """Load what :func:`write_model_folder` wrote, in evaluation mode.

    Args:
        folder: Where it is.
        build: Makes the model of its configuration.
        kind: What the folder should hold, for messages.

    Raises:
        FileNotFoundError: If a file is missing.
        ValueError: If the configuration or a tensor does not fit.
    """
    path = Path(folder)
    for name in (_CONFIG_NAME, _WEIGHTS_NAME):
        if not (path / name).is_file():
            raise FileNotFoundError(f"{path} is no {kind} folder: {name} is missing")
    model = build(json.loads((path / _CONFIG_NAME).read_text()))
    try:
        model.load_state_dict(load_file(path / _WEIGHTS_NAME))
    except RuntimeError as error:
        raise ValueError(f"weights in {path} do not fit its {_CONFIG_NAME}: {error}") from error
    return model.eval()
