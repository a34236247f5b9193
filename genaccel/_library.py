# SPDX-License-Identifier: Apache-2.0
"""Finds and loads the native library once, and explains a failure."""

from __future__ import annotations

import functools
import importlib.util
from pathlib import Path

import torch

from genaccel.errors import LibraryMissingError

BUILD_COMMAND = "pip install --no-build-isolation -e ."


@functools.cache
def load() -> Path:
    """Load ``genaccel/_C.so`` and with it all operators of ``torch.ops.genaccel``; returns its path.

    Raises:
        LibraryMissingError: If it was not built, or does not load.
    """
    # An editable install keeps the library away from the Python files: only the import system knows where.
    spec = importlib.util.find_spec("genaccel._C")
    if spec is None or spec.origin is None or not Path(spec.origin).is_file():
        raise LibraryMissingError(
            "genaccel's native library _C.so was not built for this installation; "
            f"build it with `{BUILD_COMMAND}` in a checkout"
        )
    try:
        torch.ops.load_library(spec.origin)
    except OSError as error:
        raise LibraryMissingError(
            f"{spec.origin} does not load with torch {torch.__version__} ({error}); "
            f"torch >= 2.11 is needed; rebuild with `{BUILD_COMMAND}`"
        ) from error
    return Path(spec.origin)
