# SPDX-License-Identifier: Apache-2.0
"""The folder of a training run: its options, its last checkpoint, its logs.

``training.json`` holds the options and is written once; ``checkpoint.pt`` holds all state and is replaced
atomically, so that an interrupted write leaves the previous one. Both are checked when they are read.
"""

from __future__ import annotations

import json
import os
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from genaccel.files.atomic import atomic_stream, write_json
from genaccel.files.untrusted import read_json

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

    def claim(self, options: Mapping[str, Any], *, write: bool = True) -> bool:
        """Write the options of a new run, or check that they are those of the run found here.

        Args:
            options: As JSON has them, tuples as lists; options that a former version did not write are not compared.
            write: Whether this process may write (the main one of several).

        Returns:
            Whether this process wrote them; :meth:`release` takes that back.

        Raises:
            ValueError: If the folder holds a run with other options or of another kind, or a damaged one.
        """
        # Tuples compare as the lists they come back as.
        options = json.loads(json.dumps(dict(options)))
        if (self.path / CONFIG_NAME).is_file():
            found = json.loads(json.dumps(self.options()))
            recipe = options.get("recipe")
            if found.get("recipe", recipe) != recipe:
                raise ValueError(
                    f"{self.path} holds a run of {found['recipe']}, not of {recipe}; use another folder"
                )
            unknown = sorted(set(found) - set(options))
            if unknown:
                raise ValueError(
                    f"{self.path} holds a run of another kind, with options {', '.join(unknown)}; "
                    "use another folder"
                )
            changed = ", ".join(_changes(found, options))
            if changed:
                raise ValueError(
                    f"{self.path} holds a run with other options ({changed}); "
                    "use the same options to resume it, or another folder"
                )
        elif self.has_checkpoint:
            raise ValueError(
                f"{self.path} holds a {CHECKPOINT_NAME} without its {CONFIG_NAME}; use another folder"
            )
        elif write:
            write_json(self.path / CONFIG_NAME, options, parents=True)
            return True
        return False

    def release(self) -> None:
        """Remove the options of a run that could not begin, and the folder if nothing else is in it.

        Files that were made for the run stay, and with them the options that they belong to.
        """
        if {path.name for path in self.path.iterdir()} == {CONFIG_NAME}:
            (self.path / CONFIG_NAME).unlink()
            self.path.rmdir()

    def save(self, state: Mapping[str, Any]) -> None:
        """Replace the checkpoint; if that fails, the former one stays."""
        with atomic_stream(self.path / CHECKPOINT_NAME, overwrite=True) as stream:
            torch.save(dict(state), stream)

    def load(self, device: torch.device | str = "cpu") -> dict[str, Any]:
        """The checkpoint.

        Raises:
            FileNotFoundError: If there is none.
            ValueError: If it is damaged, or no checkpoint of a training run.
        """
        path = self._require(CHECKPOINT_NAME)
        try:
            with zipfile.ZipFile(path) as archive:
                damaged = archive.testzip()  # torch writes these sums and does not check them
            if damaged is not None:
                raise zipfile.BadZipFile(f"its part {damaged} has another sum")
            state = torch.load(path, map_location=device, weights_only=True)
        except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError) as error:
            raise ValueError(
                f"{path} is damaged ({error}); put a copy in its place, or start again in another folder"
            ) from error
        except OSError:
            raise
        except Exception as error:  # the unpickler stumbles over garbage in any way there is
            raise ValueError(f"{path} is no checkpoint of a training run") from error
        if not isinstance(state, dict) or not {"step", "model"} <= set(state):
            raise ValueError(f"{path} is no checkpoint of a training run")
        return state

    def options(self) -> dict[str, Any]:
        """The options.

        Raises:
            FileNotFoundError: If there are none.
            ValueError: If they are damaged.
        """
        path = self._require(CONFIG_NAME)
        found = read_json(path)
        if not isinstance(found, dict):
            raise ValueError(f"{path} holds no options of a training run")
        return found

    def _require(self, name: str) -> Path:
        if not (self.path / name).is_file():
            raise FileNotFoundError(
                f"{self.path} is no training run with a checkpoint: {name} is missing"
            )
        return self.path / name


def _changes(found: Mapping[str, Any], options: Mapping[str, Any], of: str = "") -> Iterator[str]:
    """Where options differ from those found, in words, also inside of nested ones."""
    for key, value in found.items():
        now = options.get(key)
        if isinstance(value, dict) and isinstance(now, dict):
            yield from _changes(value, now, f"{of}{key}.")
        elif now != value:
            yield f"{of}{key}: {value} -> {now}"
