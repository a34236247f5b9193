# SPDX-License-Identifier: Apache-2.0
"""The record of an evaluation: one JSON object with its numbers, and all that is needed to repeat them."""

from __future__ import annotations

import datetime
import importlib.metadata
import json
import math
import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import genaccel

# Version of the JSON objects; ``genaccel eval report`` reads them.
RECORD_VERSION = 1

RecordKind = Literal["paired", "set", "rate_distortion", "speed"]


def environment(packages: Iterable[str] = ()) -> dict[str, str]:
    """Date, processor, and the versions of Python, torch, genaccel and ``packages``."""
    import torch

    found = {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "processor": _processor_name(),
        "cores": str(os.cpu_count()),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "genaccel": genaccel.__version__,
    }
    if torch.cuda.is_available():
        found["gpu"] = torch.cuda.get_device_name()
    for package in packages:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = "missing"
    return found


def _processor_name() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def source_commit(paths: Sequence[str] = ("csrc", "eval", "genaccel", "pipelines")) -> str:
    """The commit of the checkout that genaccel is imported from, with a plus where files differ from it.

    Args:
        paths: Files and folders of the checkout that count, as git's pathspecs.

    Returns:
        Ten digits, or ``"unknown"`` outside of a checkout.
    """
    root = Path(genaccel.__file__).parents[1]

    def git(*arguments: str) -> str:
        found = subprocess.run(
            ["git", *arguments], cwd=root, capture_output=True, text=True, check=True
        )
        return found.stdout.strip()

    try:
        # An installed package may lie inside of somebody else's checkout.
        git("ls-files", "--error-unmatch", "genaccel/__init__.py")
        changed = git("status", "--porcelain", "--", *paths)
        return git("rev-parse", "--short=10", "HEAD") + ("+" if changed else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def _command() -> str:
    """What this process was called with, without the folder of the program."""
    return shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]) if sys.argv[0] else ""


def record(
    kind: RecordKind,
    *,
    label: str = "",
    settings: Mapping[str, Any] | None = None,
    packages: Iterable[str] = (),
    **content: Any,
) -> dict[str, Any]:
    """An evaluation as one object.

    Args:
        kind: Shape of the content.
        label: The user's name for the run.
        settings: Options that the numbers depend on.
        packages: Distributions whose versions matter beside torch.
        content: The numbers, by name.
    """
    return {
        "genaccel_eval": RECORD_VERSION,
        "kind": kind,
        "label": label,
        "command": _command(),
        "commit": source_commit(),
        "environment": environment(packages),
        "settings": dict(settings or {}),
        **content,
    }


def to_json(content: Mapping[str, Any]) -> str:
    """JSON text; infinities, which JSON lacks, become the texts ``"Infinity"`` and ``"-Infinity"``, and NaN null.

    The texts are those of protobuf's mapping to JSON; ``float`` and JavaScript's ``Number`` read them.
    """
    return json.dumps(_finite(content), indent=1, allow_nan=False)


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        if math.isinf(value):
            return "Infinity" if value > 0 else "-Infinity"
        return None if math.isnan(value) else value
    if isinstance(value, Mapping):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return value
