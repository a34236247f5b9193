# SPDX-License-Identifier: Apache-2.0
"""Measurements of a model on this machine, kept in the user's cache under what they hold for.

They save time and no more: a file that is damaged or belongs to something else counts as none, and where nothing can be
written, what was measured is known in this process alone.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import nn

from genaccel.files.atomic import write_json
from genaccel.files.untrusted import read_json_object
from genaccel.files.user_cache import user_cache

_logger = logging.getLogger(__name__)

# Of what the files hold; those of others are measured anew.
_VERSION = 1
# Elements of each tensor that its digest reads: all of a large model would take seconds in each call.
_SAMPLED = 256

# Digests that were computed, with what would have changed if the network had.
_digests: WeakKeyDictionary[nn.Module, tuple[tuple[tuple[int, int], ...], str]] = (
    WeakKeyDictionary()
)
# What this process knows, by file.
_known: dict[Path | str, dict[str, Any]] = {}


def content_digest(module: nn.Module) -> str:
    """Hash of a network: names, shapes and dtypes of its tensors, and of each up to 256 elements, evenly spread.

    Training changes every tensor, so two trainings of one network differ; an edit of single elements may go unnoticed.
    """
    try:
        state = tuple((p.data_ptr(), p._version) for p in module.parameters())
    except RuntimeError:  # of tensors made in inference mode
        state = ()
    known = _digests.get(module)
    if known is not None and state and known[0] == state:
        return known[1]
    digest = hashlib.sha256(type(module).__name__.encode())
    samples: list[torch.Tensor] = []
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}\n".encode())
        flat = tensor.detach().reshape(-1)
        if flat.is_floating_point() and flat.numel():
            samples.append(flat[:: max(1, flat.numel() // _SAMPLED)][:_SAMPLED].float())
    if samples:
        digest.update(torch.cat(samples).cpu().numpy().tobytes())
    found = digest.hexdigest()[:32]
    _digests[module] = state, found
    return found


def machine(device: torch.device) -> dict[str, Any]:
    """What decides how fast a model runs here, besides the model."""
    found: dict[str, Any] = {"torch": torch.__version__, "threads": torch.get_num_threads()}
    if device.type == "cuda":
        return {**found, "gpu": torch.cuda.get_device_name(device)}
    return {**found, "cpu": platform.machine(), "flags": _cpu_flags()}


def _cpu_flags() -> str:
    """Hash of the processor's name and abilities, such as AMX."""
    try:
        with Path("/proc/cpuinfo").open(encoding="utf-8", errors="replace") as lines:
            wanted = ("model name", "flags", "features")
            found = sorted({line for line in lines if line.lower().startswith(wanted)})
        text = "".join(found)
    except OSError:
        text = platform.processor()
    capability = torch.backends.cpu.get_cpu_capability()
    return hashlib.sha256(f"{capability} {text}".encode()).hexdigest()[:16]


def recall(kind: str, key: Mapping[str, Any]) -> dict[str, Any] | None:
    """What is known of something, or None.

    Args:
        kind: Of the measurement.
        key: All that it holds for, JSON-ready.
    """
    path = _path(kind, key)
    if path in _known:
        return _known[path]
    if isinstance(path, str):
        return None
    try:
        content = read_json_object(path)
        if content["version"] != _VERSION or content["key"] != dict(key):
            return None
        found = content["measured"]
        return found if isinstance(found, dict) else None
    except (OSError, ValueError, LookupError):
        return None


def keep(
    kind: str, key: Mapping[str, Any], measured: Mapping[str, Any], *, on_disk: bool = True
) -> None:
    """Keep what was measured, for this process and if possible for later ones; see :func:`recall`."""
    path = _path(kind, key)
    _known[path] = dict(measured)
    content = {"version": _VERSION, "key": dict(key), "measured": dict(measured)}
    try:
        if on_disk and isinstance(path, Path):
            write_json(path, content, overwrite=True, parents=True)
    except (OSError, ValueError) as error:
        _logger.info("%s cannot be kept: %s", kind, error)


def forget() -> None:
    """Forget what this process knows; files stay."""
    _known.clear()


def _path(kind: str, key: Mapping[str, Any]) -> Path | str:
    """Its file; a name alone if the user has no home."""
    text = json.dumps([_VERSION, kind, key], sort_keys=True)
    name = f"{kind}-{hashlib.sha256(text.encode()).hexdigest()[:24]}.json"
    try:
        folder = user_cache("decoding")
    except RuntimeError:
        return name
    return Path(os.path.abspath(folder)) / name
