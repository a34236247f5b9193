# SPDX-License-Identifier: Apache-2.0
"""The folder of a training run: its options, its last checkpoint, its logs.

``training.json`` holds the options and is written once; ``checkpoint.pt`` holds all state and is replaced
atomically, so that an interrupted write leaves the previous one.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from genaccel.files.atomic import atomic_stream, write_json

CONFIG_NAME = "training.json"
CHECKPOINT_NAME = "checkpoint.pt"


class RunFolder:
    """One folder.

    Args:
        path: Where it is, or shall be.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)

    @property
    def has_checkpoint(self) -> bool:
        """Whether there is something to resume."""
        return (self.path / CHECKPOINT_NAME).is_file()

    def claim(self, options: Mapping[str, Any], *, write: bool = True) -> None:
        """Write the options of a new run, or check that they are those of the run found here.

        Args:
            options: As JSON has them, tuples as lists; options that a former version did not write are not compared.
            write: Whether this process may write (the main one of several).

        Raises:
            ValueError: If the folder holds a run with other options.
        """
        path = self.path / CONFIG_NAME
        options = json.loads(
            json.dumps(dict(options))
        )  # tuples compare as the lists they come back as
        if path.is_file():
            found = json.loads(path.read_text())
            changed = ", ".join(
                f"{key}: {found[key]} -> {value}"
                for key, value in options.items()
                if key in found and found[key] != value
            )
            if changed:
                raise ValueError(
                    f"{self.path} holds a run with other options ({changed}); "
                    "use the same options to resume it, or another folder"
                )
        elif write:
            write_json(path, options, parents=True)

    def save(self, state: Mapping[str, Any]) -> None:
        """Replace the checkpoint."""
        with atomic_stream(self.path / CHECKPOINT_NAME, overwrite=True) as stream:
            torch.save(dict(state), stream)

    def load(self, device: torch.device | str = "cpu") -> dict[str, Any]:
        """The checkpoint.

        Raises:
            FileNotFoundError: If there is none.
        """
        self._require(CHECKPOINT_NAME)
        state: dict[str, Any] = torch.load(
            self.path / CHECKPOINT_NAME, map_location=device, weights_only=True
        )
        return state

    def options(self) -> dict[str, Any]:
        """The options.

        Raises:
            FileNotFoundError: If there are none.
        """
        self._require(CONFIG_NAME)
        found: dict[str, Any] = json.loads((self.path / CONFIG_NAME).read_text())
        return found

    def _require(self, name: str) -> None:
        if not (self.path / name).is_file():
            raise FileNotFoundError(
                f"{self.path} is no training run with a checkpoint: {name} is missing"
            )
